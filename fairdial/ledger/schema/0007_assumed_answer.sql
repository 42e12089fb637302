-- Since when a call counts as answered that nobody saw answered, for all that was seen of it since. Evidence, for where
-- nothing better comes: answered_ms is what was seen.
ALTER TABLE grants ADD COLUMN assumed_ms INTEGER;
