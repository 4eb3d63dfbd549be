-- Requests of one bottle in the order in which they were settled, however many others there are.

CREATE INDEX usage_by_bottle ON usage (bottle, settled);
