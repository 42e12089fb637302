-- Calls that lasted longer than a day from their dial: a statement finds all others that reach into its period among
-- those dialled on the day before. They are few, so that the others pay for no index.
CREATE INDEX grants_longer_than_a_day ON grants (account_id, ended_ms)
    WHERE state = 'settled' AND ended_ms - authorised_ms > 86400000;
