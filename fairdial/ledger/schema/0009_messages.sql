-- What a message is besides its decision: how it goes, and a keyed fingerprint of its text, never the text. text: empty
-- without one, NULL once nobody needs it any more. account_id: none where the line is nobody's.
CREATE TABLE messages (
    call_id    TEXT    PRIMARY KEY REFERENCES decisions (call_id),
    account_id TEXT,
    at_ms      INTEGER NOT NULL,
    medium     TEXT    NOT NULL,
    text       TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX messages_of_account ON messages (account_id, at_ms, call_id);
CREATE INDEX messages_by_time ON messages (at_ms, call_id);
CREATE INDEX messages_with_text ON messages (at_ms) WHERE text <> '';

-- Keys that were made once for this ledger.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
