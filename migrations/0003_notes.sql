-- What a usage is made of, and what else the provider told of the request.

-- Part of cache_write, and of output: no sum adds them.
ALTER TABLE usage ADD COLUMN cache_write_1h INTEGER NOT NULL DEFAULT 0 CHECK (cache_write_1h BETWEEN 0 AND cache_write);
ALTER TABLE usage ADD COLUMN reasoning INTEGER NOT NULL DEFAULT 0 CHECK (reasoning BETWEEN 0 AND output);
ALTER TABLE usage ADD COLUMN service_tier TEXT;
-- Response headers that tell of rate limits and plans, a JSON object of name and value.
ALTER TABLE usage ADD COLUMN limits TEXT;
