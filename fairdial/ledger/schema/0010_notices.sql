-- What people are told, and what became of telling them.

-- Where an account is told. line_id: the line that gets messages of the switch, where the notice is of no other line.
CREATE TABLE contacts (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    language   TEXT NOT NULL,
    email      TEXT NOT NULL DEFAULT '',
    line_id    TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

-- One row: what is told of, and how; as the running FairDial is configured. Without it nothing is written.
CREATE TABLE notice_rules (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    rules TEXT NOT NULL CHECK (json_valid(rules))
) STRICT;

-- Written in the transaction that causes it, once for each account, topic and reference.
CREATE TABLE notices (
    id             INTEGER PRIMARY KEY,
    account_id     TEXT    NOT NULL REFERENCES accounts (id),
    topic          TEXT    NOT NULL,
    reference      TEXT    NOT NULL,
    at_ms          INTEGER NOT NULL,
    line_id        TEXT    NOT NULL, -- the line that it is about; empty for the account
    clause_policy  TEXT    NOT NULL, -- empty where no clause stands behind it
    clause_version TEXT    NOT NULL,
    clause_id      TEXT    NOT NULL,
    facts          TEXT    NOT NULL CHECK (json_valid(facts)),
    UNIQUE (account_id, topic, reference)
) STRICT;
CREATE INDEX notices_by_time ON notices (at_ms);

-- One for each way in which a notice is told. next_ms: not before; last: what was said of the last attempt.
CREATE TABLE deliveries (
    notice_id  INTEGER NOT NULL REFERENCES notices (id),
    channel    TEXT    NOT NULL CHECK (channel IN ('webhook', 'email', 'sip')),
    account_id TEXT    NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead')),
    attempts   INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_ms    INTEGER NOT NULL,
    done_ms    INTEGER,
    last       TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (notice_id, channel),
    CHECK ((state = 'waiting') = (done_ms IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (channel, next_ms, notice_id) WHERE state = 'waiting';
CREATE INDEX deliveries_in_order ON deliveries (channel, account_id, notice_id) WHERE state = 'waiting';
CREATE INDEX deliveries_dead ON deliveries (notice_id) WHERE state = 'dead';

-- Policy versions of which the accounts on that policy are still to be told, one after the other by id.
CREATE TABLE announcements (
    policy  TEXT NOT NULL,
    version TEXT NOT NULL,
    before  TEXT NOT NULL, -- the version that it takes the place of
    at_ms   INTEGER NOT NULL,
    told    TEXT NOT NULL DEFAULT '', -- up to this account
    done    INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
    PRIMARY KEY (policy, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_on_policy ON accounts (policy, id);
