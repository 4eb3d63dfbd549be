-- Budgets of agents, parents and calendar windows, and what operators change at run time.

-- `--extends` of a bottle's last run.
ALTER TABLE bottle ADD COLUMN extends TEXT;

ALTER TABLE bottle_budget ADD COLUMN window TEXT CHECK (window IN ('hour', 'day', 'week', 'month'));

-- The scopes that count an exchange, nearest first, as a JSON array. An exchange keeps to those it was admitted under.
CREATE TABLE chain (
    id     INTEGER PRIMARY KEY,
    scopes TEXT    NOT NULL UNIQUE CHECK (json_type(scopes) = 'array')
) STRICT;

ALTER TABLE reservation ADD COLUMN chain INTEGER REFERENCES chain (id);
-- What is set aside.
ALTER TABLE reservation ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0);
UPDATE reservation SET held = input_estimate;
-- When nobody can settle it any more: after this, or on another boot of the host.
ALTER TABLE reservation ADD COLUMN boot TEXT;
ALTER TABLE reservation ADD COLUMN expires INTEGER;

ALTER TABLE usage ADD COLUMN chain INTEGER REFERENCES chain (id);

-- Rebuilt for what a bottle spent itself ('own'), as its scope counts its children too, and for calendar windows: when each
-- ends, and what was used in it without and of cache reads.
CREATE TABLE spend_with_windows (
    scope            TEXT    NOT NULL CHECK (scope IN ('own', 'agent', 'bottle', 'host')),
    -- The agent's or the bottle's name; empty for the host.
    name             TEXT    NOT NULL CHECK ((name = '') = (scope = 'host')),
    provider         TEXT    NOT NULL,
    requests         INTEGER NOT NULL CHECK (requests >= 0),
    input            INTEGER NOT NULL CHECK (input >= 0),
    cache_write      INTEGER NOT NULL CHECK (cache_write >= 0),
    cache_read       INTEGER NOT NULL CHECK (cache_read >= 0),
    output           INTEGER NOT NULL CHECK (output >= 0),
    held             INTEGER NOT NULL CHECK (held >= 0),
    hour_end         INTEGER NOT NULL DEFAULT 0,
    hour_used        INTEGER NOT NULL DEFAULT 0 CHECK (hour_used >= 0),
    hour_cache_read  INTEGER NOT NULL DEFAULT 0 CHECK (hour_cache_read >= 0),
    day_end          INTEGER NOT NULL DEFAULT 0,
    day_used         INTEGER NOT NULL DEFAULT 0 CHECK (day_used >= 0),
    day_cache_read   INTEGER NOT NULL DEFAULT 0 CHECK (day_cache_read >= 0),
    week_end         INTEGER NOT NULL DEFAULT 0,
    week_used        INTEGER NOT NULL DEFAULT 0 CHECK (week_used >= 0),
    week_cache_read  INTEGER NOT NULL DEFAULT 0 CHECK (week_cache_read >= 0),
    month_end        INTEGER NOT NULL DEFAULT 0,
    month_used       INTEGER NOT NULL DEFAULT 0 CHECK (month_used >= 0),
    month_cache_read INTEGER NOT NULL DEFAULT 0 CHECK (month_cache_read >= 0),
    PRIMARY KEY (scope, name, provider)
) STRICT, WITHOUT ROWID;

INSERT INTO spend_with_windows (scope, name, provider, requests, input, cache_write, cache_read, output, held)
SELECT scope, name, provider, requests, input, cache_write, cache_read, output, held FROM spend
UNION ALL
SELECT 'own', name, provider, requests, input, cache_write, cache_read, output, held FROM spend WHERE scope = 'bottle';

DROP TABLE spend;

ALTER TABLE spend_with_windows RENAME TO spend;

-- Limits that operators set at run time; they stand in for those of settings and launch flags.
CREATE TABLE budget_override (
    scope    TEXT    NOT NULL CHECK (scope IN ('agent', 'bottle', 'host')),
    name     TEXT    NOT NULL CHECK ((name = '') = (scope = 'host')),
    provider TEXT    NOT NULL,
    tokens   INTEGER NOT NULL CHECK (tokens >= 0),
    window   TEXT    CHECK (window IN ('hour', 'day', 'week', 'month')),
    PRIMARY KEY (scope, name, provider)
) STRICT, WITHOUT ROWID;

-- What operators added to a limit, until then or until cleared.
CREATE TABLE budget_grant (
    number   INTEGER PRIMARY KEY,
    scope    TEXT    NOT NULL CHECK (scope IN ('agent', 'bottle', 'host')),
    name     TEXT    NOT NULL CHECK ((name = '') = (scope = 'host')),
    provider TEXT    NOT NULL,
    tokens   INTEGER NOT NULL CHECK (tokens > 0),
    until    INTEGER
) STRICT;
