-- Tells a provider that broke off or fell silent from one that answered with an error. A check cannot be changed in place.

CREATE TABLE usage_with_endings (
    permit      INTEGER PRIMARY KEY,
    bottle      INTEGER NOT NULL REFERENCES bottle (id),
    agent       TEXT,
    provider    TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    target      TEXT    NOT NULL,
    model       TEXT,
    request_id  TEXT,
    status      INTEGER CHECK (status BETWEEN 0 AND 65535),
    input       INTEGER NOT NULL CHECK (input >= 0),
    cache_write INTEGER NOT NULL CHECK (cache_write >= 0),
    cache_read  INTEGER NOT NULL CHECK (cache_read >= 0),
    output      INTEGER NOT NULL CHECK (output >= 0),
    known       TEXT    NOT NULL CHECK (known IN ('reported', 'partial', 'estimated', 'unmetered')),
    ending      TEXT    NOT NULL
                CHECK (ending IN ('complete', 'error', 'hung_up', 'timed_out', 'cancelled', 'cut', 'proxy_lost')),
    admitted    INTEGER NOT NULL,
    settled     INTEGER NOT NULL
) STRICT;

INSERT INTO usage_with_endings
SELECT permit, bottle, agent, provider, host, target, model, request_id, status, input, cache_write, cache_read, output,
       known, ending, admitted, settled
FROM usage;

DROP TABLE usage;

ALTER TABLE usage_with_endings RENAME TO usage;
