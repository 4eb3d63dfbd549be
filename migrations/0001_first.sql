-- The first schema. Times are Unix milliseconds, amounts are tokens. Never edit an applied migration: add the next one.

CREATE TABLE bottle (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE CHECK (name <> ''),
    agent   TEXT,
    -- IPv4 as a number; a bottle has an address exactly as long as it runs.
    address INTEGER UNIQUE CHECK (address BETWEEN 0 AND 4294967295),
    -- Why its gate is to be cut; NULL is an open gate.
    cut     TEXT    CHECK (cut IN ('budget', 'operator')),
    started INTEGER NOT NULL,
    ended   INTEGER,
    CHECK ((address IS NULL) = (ended IS NOT NULL))
) STRICT;

-- `--budget` of a bottle's last run.
CREATE TABLE bottle_budget (
    bottle   INTEGER NOT NULL REFERENCES bottle (id),
    provider TEXT    NOT NULL,
    tokens   INTEGER NOT NULL CHECK (tokens >= 0),
    PRIMARY KEY (bottle, provider)
) STRICT, WITHOUT ROWID;

-- Requests that were admitted and are not settled. Permit numbers are never used twice.
CREATE TABLE reservation (
    permit         INTEGER PRIMARY KEY,
    bottle         INTEGER NOT NULL REFERENCES bottle (id),
    agent          TEXT,
    provider       TEXT    NOT NULL,
    host           TEXT    NOT NULL,
    target         TEXT    NOT NULL,
    model          TEXT,
    is_metered     INTEGER NOT NULL CHECK (is_metered IN (0, 1)),
    input_estimate INTEGER NOT NULL CHECK (input_estimate >= 0),
    output_cap     INTEGER NOT NULL CHECK (output_cap >= 0),
    admitted       INTEGER NOT NULL,
    CHECK (is_metered = 1 OR (input_estimate = 0 AND output_cap = 0))
) STRICT;

-- Settled requests. The permit as the key is what makes a second settlement impossible.
CREATE TABLE usage (
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
    ending      TEXT    NOT NULL CHECK (ending IN ('complete', 'error', 'cancelled', 'cut', 'proxy_lost')),
    admitted    INTEGER NOT NULL,
    settled     INTEGER NOT NULL
) STRICT;

-- Running totals of the two tables above, written in the same transaction, so that a decision reads one row per scope.
CREATE TABLE spend (
    scope       TEXT    NOT NULL CHECK (scope IN ('agent', 'bottle', 'host')),
    -- The agent's or the bottle's name; empty for the host.
    name        TEXT    NOT NULL CHECK ((name = '') = (scope = 'host')),
    provider    TEXT    NOT NULL,
    requests    INTEGER NOT NULL CHECK (requests >= 0),
    input       INTEGER NOT NULL CHECK (input >= 0),
    cache_write INTEGER NOT NULL CHECK (cache_write >= 0),
    cache_read  INTEGER NOT NULL CHECK (cache_read >= 0),
    output      INTEGER NOT NULL CHECK (output >= 0),
    held        INTEGER NOT NULL CHECK (held >= 0),
    PRIMARY KEY (scope, name, provider)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    bottle INTEGER REFERENCES bottle (id),
    -- What happened, as JSON with its name in `event`.
    detail TEXT    NOT NULL CHECK (json_extract(detail, '$.event') IS NOT NULL)
) STRICT;

CREATE INDEX audit_by_bottle ON audit (bottle, number) WHERE bottle IS NOT NULL;

CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are append-only');
END;

CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are append-only');
END;
