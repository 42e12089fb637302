-- Suspected abuse: one open case for each account and detector, with its latest evidence. detector: the name in the
-- policy file; "flag" for what people opened by hand. services: what a restriction for it takes. cumulative: measured
-- over a period as a whole, so that what was judged is in it still.
CREATE TABLE cases (
    id             INTEGER PRIMARY KEY,
    account_id     TEXT    NOT NULL REFERENCES accounts (id),
    detector       TEXT    NOT NULL,
    clause_policy  TEXT    NOT NULL,
    clause_version TEXT    NOT NULL,
    clause_id      TEXT    NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('open', 'closed', 'dismissed')),
    shadow         INTEGER NOT NULL CHECK (shadow IN (0, 1)),
    opened_ms      INTEGER NOT NULL,
    seen_ms        INTEGER NOT NULL,
    closed_ms      INTEGER,
    value          REAL    NOT NULL,
    threshold      REAL    NOT NULL,
    hits           INTEGER NOT NULL CHECK (hits > 0),
    words          TEXT    NOT NULL,
    calls          TEXT    NOT NULL CHECK (json_valid(calls)),
    services       TEXT    NOT NULL CHECK (json_valid(services)),
    step           TEXT    NOT NULL, -- the hardest that was reached; empty for none
    deadline_ms    INTEGER,          -- until when the customer may answer it
    cumulative     INTEGER NOT NULL CHECK (cumulative IN (0, 1)),
    CHECK ((state = 'open') = (closed_ms IS NULL))
) STRICT;
CREATE UNIQUE INDEX cases_open ON cases (account_id, detector) WHERE state = 'open';
CREATE INDEX cases_of_account ON cases (account_id, detector, opened_ms);
CREATE INDEX cases_due ON cases (deadline_ms) WHERE state = 'open' AND deadline_ms IS NOT NULL;

-- All that was done about a case, by whom. before: what the account was, so that a step can be undone.
CREATE TABLE case_entries (
    case_id   INTEGER NOT NULL REFERENCES cases (id),
    n         INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    what      TEXT    NOT NULL,
    by        TEXT    NOT NULL,
    enforced  INTEGER NOT NULL CHECK (enforced IN (0, 1)),
    rule      TEXT    NOT NULL,
    clause_id TEXT    NOT NULL,
    services  TEXT    NOT NULL CHECK (json_valid(services)),
    before    TEXT    NOT NULL,
    note      TEXT    NOT NULL,
    PRIMARY KEY (case_id, n)
) STRICT, WITHOUT ROWID;

-- Complaints about an account that an operator took down.
CREATE TABLE complaints (
    id         INTEGER PRIMARY KEY,
    account_id TEXT    NOT NULL REFERENCES accounts (id),
    at_ms      INTEGER NOT NULL,
    by         TEXT    NOT NULL,
    note       TEXT    NOT NULL
) STRICT;
CREATE INDEX complaints_of_account ON complaints (account_id, at_ms);
-- Sources of calls that are turned away for a while: addresses from which passwords were guessed.
CREATE TABLE blocks (
    source   TEXT    PRIMARY KEY,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL CHECK (until_ms > since_ms),
    why      TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Numbers that an account has called, where its policy limits how many it may call in a day.
CREATE TABLE callees (
    account_id TEXT    NOT NULL REFERENCES accounts (id),
    callee     TEXT    NOT NULL, -- E.164
    last_ms    INTEGER NOT NULL,
    PRIMARY KEY (account_id, callee)
) STRICT, WITHOUT ROWID;
CREATE INDEX callees_by_time ON callees (account_id, last_ms);

-- Whether the network vouches for the caller's number (STIR/SHAKEN): "passed", "failed", or empty where nobody said.
ALTER TABLE decisions ADD COLUMN verified TEXT NOT NULL DEFAULT '';
-- Whether the caller's leg offered a picture.
ALTER TABLE decisions ADD COLUMN video INTEGER NOT NULL DEFAULT 0 CHECK (video IN (0, 1));
-- What its voice was sent in.
ALTER TABLE decisions ADD COLUMN codec TEXT NOT NULL DEFAULT '';
