-- What operators are asked before it goes out, and what they have decided for good. Never what was found.

CREATE TABLE approval (
    id          INTEGER PRIMARY KEY,
    bottle      INTEGER NOT NULL REFERENCES bottle (id),
    -- What found something.
    detector    TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    -- Method and path, without query.
    target      TEXT    NOT NULL,
    -- Of what was found: an HMAC-SHA-256 under a key that is not in this database, in lower-case hexadecimal. Kept while the
    -- question waits, and as long as its answer is remembered.
    fingerprint TEXT    CHECK (length(fingerprint) = 64 AND fingerprint NOT GLOB '*[^0-9a-f]*'),
    asked       INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    -- When it was settled; NULL while it waits.
    decided     INTEGER,
    verdict     TEXT    CHECK (verdict IN ('approved', 'denied', 'expired', 'abandoned')),
    -- For this fingerprint of this bottle to this host, at any time.
    is_always   INTEGER NOT NULL DEFAULT 0 CHECK (is_always IN (0, 1)),
    -- The operator's user id.
    decided_by  INTEGER,
    -- When an operator took it back.
    forgotten   INTEGER,
    -- How many requests it has answered since.
    used        INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),

    CHECK ((decided IS NULL) = (verdict IS NULL)),
    CHECK (is_always = 0 OR verdict IN ('approved', 'denied')),
    CHECK (forgotten IS NULL OR is_always = 1),
    CHECK ((fingerprint IS NOT NULL) = (decided IS NULL OR (is_always = 1 AND forgotten IS NULL)))
) STRICT;

CREATE INDEX approval_open ON approval (bottle) WHERE decided IS NULL;
CREATE INDEX approval_by_bottle ON approval (bottle, asked);
-- One answer is remembered of each.
CREATE UNIQUE INDEX approval_remembered ON approval (bottle, host, fingerprint)
    WHERE is_always = 1 AND forgotten IS NULL;
