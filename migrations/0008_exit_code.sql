-- How a bottle's last run ended, as a shell would report it. NULL while it runs, when it was stopped, and of runs before this.

ALTER TABLE bottle ADD COLUMN exit_code INTEGER;
