-- Chains the rows of the audit, so that a changed, removed, added or moved one shows.
--
-- `hash` is the SHA-256, in lower-case hexadecimal, of this text:
--
--     hash of the row before (64 zeros for the first), line feed,
--     number, line feed,
--     at, line feed,
--     name of the bottle (nothing when there is none), line feed,
--     detail
--
-- in UTF-8, numbers in decimal, and no line feed at the end. docs/audit.md walks the chain with sqlite3 and sha256sum.

DROP INDEX audit_by_bottle;
DROP TRIGGER audit_is_never_changed;
DROP TRIGGER audit_is_never_deleted;
-- Its rows are chained, in the order of their numbers, in the transaction that applies this; then it is dropped.
ALTER TABLE audit RENAME TO audit_unchained;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    bottle INTEGER REFERENCES bottle (id),
    -- What happened, as JSON with its name in `event`.
    detail TEXT    NOT NULL CHECK (json_extract(detail, '$.event') IS NOT NULL),
    hash   TEXT    NOT NULL CHECK (length(hash) = 64 AND hash NOT GLOB '*[^0-9a-f]*')
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

-- How many rows there are and the hash of the last, written in the same transaction, so that a missing last row shows.
CREATE TABLE audit_tip (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    rows INTEGER NOT NULL CHECK (rows >= 0),
    hash TEXT    NOT NULL CHECK (length(hash) = 64 AND hash NOT GLOB '*[^0-9a-f]*')
) STRICT;

INSERT INTO audit_tip (only, rows, hash)
VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');
