-- Numbers that an account has called, where its policy limits how many it may call in a day.
CREATE TABLE callees (
    account_id TEXT    NOT NULL REFERENCES accounts (id),
    callee     TEXT    NOT NULL, -- E.164
    last_ms    INTEGER NOT NULL,
    PRIMARY KEY (account_id, callee)
) STRICT, WITHOUT ROWID;
CREATE INDEX callees_by_time ON callees (account_id, last_ms);
