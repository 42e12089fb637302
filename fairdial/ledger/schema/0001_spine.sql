-- Accounts, lines, meters, grants, usage, decisions.
-- Instants are UTC milliseconds (_ms), lengths whole seconds (_s), amounts on a meter its units (_units): seconds
-- of talk, as often as they count, or messages.

CREATE TABLE accounts (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    policy   TEXT NOT NULL,
    zone     TEXT NOT NULL,
    standing TEXT NOT NULL CHECK (standing IN ('active', 'suspended', 'terminated'))
) STRICT, WITHOUT ROWID;

CREATE TABLE lines (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    standing   TEXT NOT NULL CHECK (standing IN ('active', 'suspended', 'terminated')),
    habit      TEXT NOT NULL CHECK (json_valid(habit))
) STRICT, WITHOUT ROWID;
CREATE INDEX lines_of_account ON lines (account_id);

-- One allowance of one account in one window. The check is the promise that nobody overspends:
-- no statement, right or wrong, can store used + reserved above the limit.
CREATE TABLE meters (
    account_id     TEXT    NOT NULL REFERENCES accounts (id),
    allowance      TEXT    NOT NULL,
    start_ms       INTEGER NOT NULL,
    end_ms         INTEGER NOT NULL CHECK (end_ms > start_ms),
    limit_units    INTEGER CHECK (limit_units >= 0),
    used_units     INTEGER NOT NULL DEFAULT 0 CHECK (used_units >= 0),
    reserved_units INTEGER NOT NULL DEFAULT 0 CHECK (reserved_units >= 0),
    calls          INTEGER NOT NULL DEFAULT 0 CHECK (calls >= 0), -- or messages
    -- Both ends: a day and a month that begin together, after a policy changed its period, are two.
    PRIMARY KEY (account_id, allowance, start_ms, end_ms),
    CHECK (used_units + reserved_units <= limit_units)
) STRICT, WITHOUT ROWID;

-- Written once per dial; the idempotency key is the call id. Undecided: the failure rule applied.
CREATE TABLE decisions (
    call_id        TEXT    PRIMARY KEY,
    at_ms          INTEGER NOT NULL,
    kind           TEXT    NOT NULL,
    line_id        TEXT    NOT NULL,
    account_id     TEXT,
    dialled        TEXT    NOT NULL,
    e164           TEXT,
    number_class   TEXT    NOT NULL,
    country        TEXT,
    caller         TEXT    NOT NULL,
    sip_call_id    TEXT    NOT NULL,
    decision       TEXT    NOT NULL CHECK (decision IN ('allow', 'refuse', 'undecided')),
    reason         TEXT    NOT NULL,
    clause_policy  TEXT    NOT NULL,
    clause_version TEXT    NOT NULL,
    clause_id      TEXT    NOT NULL,
    granted_s      INTEGER,
    limit_s        INTEGER,
    shown          TEXT, -- the number that the call shows instead of the caller's own
    -- What was noted of a call that was let through, such as "unencrypted"; empty for nothing.
    flag           TEXT    NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX decisions_by_time ON decisions (at_ms);
CREATE INDEX decisions_of_account ON decisions (account_id, at_ms);

CREATE TABLE grants (
    call_id       TEXT    PRIMARY KEY REFERENCES decisions (call_id),
    account_id    TEXT    NOT NULL REFERENCES accounts (id),
    line_id       TEXT    NOT NULL,
    kind          TEXT    NOT NULL,
    bound_by      TEXT    NOT NULL, -- the rule at which it ends, by its key in the policy
    room          TEXT,             -- the session of a conference: the call that opened it
    channel       TEXT    NOT NULL,
    ring_s        INTEGER NOT NULL CHECK (ring_s >= 0),
    state         TEXT    NOT NULL CHECK (state IN ('ringing', 'talking', 'settled')),
    granted_s     INTEGER CHECK (granted_s > 0),
    authorised_ms INTEGER NOT NULL,
    answered_ms   INTEGER,
    leg           TEXT,
    ended_ms      INTEGER,
    used_s        INTEGER CHECK (used_s >= 0),
    estimated     INTEGER NOT NULL DEFAULT 0 CHECK (estimated IN (0, 1)),
    CHECK (used_s <= granted_s),
    CHECK ((state = 'settled') = (used_s IS NOT NULL)),
    CHECK ((state = 'settled') = (ended_ms IS NOT NULL)),
    CHECK (state <> 'talking' OR answered_ms IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_live ON grants (authorised_ms) WHERE state <> 'settled';
CREATE INDEX grants_live_of_account ON grants (account_id) WHERE state <> 'settled';
CREATE INDEX grants_of_room ON grants (room) WHERE room IS NOT NULL;
CREATE INDEX grants_live_of_line ON grants (line_id, kind) WHERE state <> 'settled';

-- What a grant reserves in each window, and after settlement what it used there.
CREATE TABLE holds (
    call_id    TEXT    NOT NULL REFERENCES grants (call_id),
    account_id TEXT    NOT NULL,
    allowance  TEXT    NOT NULL,
    start_ms   INTEGER NOT NULL,
    end_ms     INTEGER NOT NULL,
    hold_units INTEGER NOT NULL CHECK (hold_units >= 0),
    used_units INTEGER CHECK (used_units >= 0),
    PRIMARY KEY (call_id, allowance, start_ms, end_ms),
    FOREIGN KEY (account_id, allowance, start_ms, end_ms)
        REFERENCES meters (account_id, allowance, start_ms, end_ms)
) STRICT, WITHOUT ROWID;
