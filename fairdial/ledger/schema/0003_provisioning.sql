-- Numbers that accounts own, agreements, published policies, termination for fraud.

-- Terminated for fraud: what is left of the credit is forfeited, also what live calls release as they end.
ALTER TABLE accounts ADD COLUMN fraud INTEGER NOT NULL DEFAULT 0 CHECK (fraud IN (0, 1));

-- Numbers of the public network in E.164; line_id where it is the number of one line.
CREATE TABLE numbers (
    number     TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    line_id    TEXT REFERENCES lines (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX numbers_of_account ON numbers (account_id);

-- Who agreed to what, and when; one that was withdrawn stays on record.
CREATE TABLE agreements (
    account_id   TEXT    NOT NULL REFERENCES accounts (id),
    consent      TEXT    NOT NULL CHECK (consent IN ('surcharge')),
    at_ms        INTEGER NOT NULL,
    agreed_by    TEXT    NOT NULL CHECK (agreed_by <> ''),
    note         TEXT    NOT NULL,
    withdrawn_ms INTEGER CHECK (withdrawn_ms >= at_ms),
    PRIMARY KEY (account_id, consent, at_ms)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX agreements_that_hold ON agreements (account_id, consent) WHERE withdrawn_ms IS NULL;

-- Policy versions as they were published. A version that decided about a call is never changed.
CREATE TABLE policies (
    name         TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    published_ms INTEGER NOT NULL,
    text         TEXT    NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;
