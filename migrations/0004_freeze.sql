-- What is done with a bottle when a budget is gone, what has been begun of it, and what came of it.

-- Of its last run.
ALTER TABLE bottle ADD COLUMN policy TEXT NOT NULL DEFAULT 'cutoff' CHECK (policy IN ('cutoff', 'freeze', 'kill'));
-- Begun and not finished: a controller that finds it does the rest.
ALTER TABLE bottle ADD COLUMN stopping TEXT CHECK (stopping IN ('freeze', 'kill'));
-- Why its last run is frozen; NULL when it is not.
ALTER TABLE bottle ADD COLUMN frozen TEXT CHECK (frozen IN ('budget', 'operator') AND (frozen IS NULL OR ended IS NOT NULL));
