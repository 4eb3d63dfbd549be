-- What is exported: totals that a scrape reads in a few rows, and the order in which requests were settled.

-- Requests that ended alike. Kept by the trigger below, so that nothing that writes `usage` can forget it.
CREATE TABLE tally (
    bottle      INTEGER NOT NULL REFERENCES bottle (id),
    -- Empty for none.
    agent       TEXT    NOT NULL,
    provider    TEXT    NOT NULL,
    known       TEXT    NOT NULL,
    ending      TEXT    NOT NULL,
    requests    INTEGER NOT NULL CHECK (requests >= 0),
    input       INTEGER NOT NULL CHECK (input >= 0),
    cache_write INTEGER NOT NULL CHECK (cache_write >= 0),
    cache_read  INTEGER NOT NULL CHECK (cache_read >= 0),
    output      INTEGER NOT NULL CHECK (output >= 0),
    PRIMARY KEY (bottle, agent, provider, known, ending)
) STRICT, WITHOUT ROWID;

INSERT INTO tally
SELECT bottle, ifnull(agent, ''), provider, known, ending, count(*), sum(input), sum(cache_write), sum(cache_read),
       sum(output)
FROM usage
GROUP BY 1, 2, 3, 4, 5;

-- Sums stay at the largest number there is, as those of `spend` do: an overflow would keep a request from being settled.
CREATE TRIGGER usage_is_tallied AFTER INSERT ON usage
BEGIN
    INSERT INTO tally (bottle, agent, provider, known, ending, requests, input, cache_write, cache_read, output)
    VALUES (new.bottle, ifnull(new.agent, ''), new.provider, new.known, new.ending, 1, new.input, new.cache_write,
            new.cache_read, new.output)
    ON CONFLICT (bottle, agent, provider, known, ending) DO UPDATE SET
        requests = requests + 1,
        input = min(input + excluded.input, 9223372036854775807),
        cache_write = min(cache_write + excluded.cache_write, 9223372036854775807),
        cache_read = min(cache_read + excluded.cache_read, 9223372036854775807),
        output = min(output + excluded.output, 9223372036854775807);
END;

CREATE INDEX usage_by_time ON usage (settled);
