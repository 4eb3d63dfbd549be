-- What made a bottle's last run, and which container it was.

ALTER TABLE bottle ADD COLUMN runtime TEXT NOT NULL DEFAULT 'native' CHECK (runtime IN ('native', 'docker'));
-- As its engine knows it, by name or number.
ALTER TABLE bottle ADD COLUMN container TEXT;
