-- Requests for higher limits, minute plans, and what more is known of an agreement.

-- kind: a higher limit that was asked for, or a minute plan. rule: the limit by its key in the policy file. limit_units:
-- so much at least; more_units: so much besides. asked_until_ms: how long it is wanted. from_ms, until_ms: for which time
-- it holds; NULL from_ms: it was never approved. plan, price_micros, currency, period: of a minute plan, as it was offered.
-- charged_ms: up to when its periods are charged. key: of who asked, so that it is asked once.
CREATE TABLE requests (
    id             INTEGER PRIMARY KEY,
    account_id     TEXT    NOT NULL REFERENCES accounts (id),
    kind           TEXT    NOT NULL CHECK (kind IN ('limit', 'plan')),
    state          TEXT    NOT NULL
        CHECK (state IN ('open', 'approved', 'declined', 'withdrawn', 'revoked', 'expired')),
    policy         TEXT    NOT NULL,
    rule           TEXT    NOT NULL,
    limit_units    INTEGER NOT NULL CHECK (limit_units >= 0),
    more_units     INTEGER NOT NULL CHECK (more_units >= 0),
    why            TEXT    NOT NULL CHECK (why <> ''),
    asked_by       TEXT    NOT NULL CHECK (asked_by <> ''),
    asked_ms       INTEGER NOT NULL,
    asked_until_ms INTEGER,
    key            TEXT,
    clause_policy  TEXT    NOT NULL,
    clause_version TEXT    NOT NULL,
    clause_id      TEXT    NOT NULL,
    plan           TEXT,
    price_micros   INTEGER CHECK (price_micros >= 0),
    currency       TEXT    CHECK (length(currency) = 3),
    period         TEXT    CHECK (period IN ('month', 'cycle')),
    changed_ms     INTEGER NOT NULL,
    from_ms        INTEGER,
    until_ms       INTEGER,
    charged_ms     INTEGER,
    CHECK ((limit_units > 0) <> (more_units > 0)),
    CHECK ((kind = 'plan') = (plan IS NOT NULL)),
    CHECK ((plan IS NULL) = (price_micros IS NULL)),
    CHECK ((plan IS NULL) = (currency IS NULL)),
    CHECK ((plan IS NULL) = (period IS NULL)),
    CHECK (state NOT IN ('approved', 'revoked') OR from_ms IS NOT NULL)
) STRICT;
CREATE INDEX requests_of_account ON requests (account_id, asked_ms);
CREATE UNIQUE INDEX requests_once ON requests (account_id, key) WHERE key IS NOT NULL;
CREATE INDEX requests_open ON requests (asked_until_ms) WHERE state = 'open' AND asked_until_ms IS NOT NULL;
CREATE INDEX requests_ending ON requests (until_ms) WHERE state = 'approved' AND until_ms IS NOT NULL;
CREATE INDEX requests_holding ON requests (account_id) WHERE state = 'approved';
CREATE INDEX requests_charged ON requests (charged_ms) WHERE charged_ms IS NOT NULL;

-- All that was done about a request, by whom.
CREATE TABLE request_entries (
    request_id INTEGER NOT NULL REFERENCES requests (id),
    n          INTEGER NOT NULL,
    at_ms      INTEGER NOT NULL,
    what       TEXT    NOT NULL,
    by         TEXT    NOT NULL CHECK (by <> ''),
    note       TEXT    NOT NULL,
    PRIMARY KEY (request_id, n)
) STRICT, WITHOUT ROWID;

-- What a minute plan costs, once for each of its periods. Charges of calls are in `charges`.
CREATE TABLE plan_charges (
    request_id    INTEGER NOT NULL REFERENCES requests (id),
    start_ms      INTEGER NOT NULL,
    end_ms        INTEGER NOT NULL CHECK (end_ms > start_ms),
    account_id    TEXT    NOT NULL REFERENCES accounts (id),
    at_ms         INTEGER NOT NULL, -- when it was written
    added_units   INTEGER NOT NULL CHECK (added_units > 0),
    amount_micros INTEGER NOT NULL CHECK (amount_micros >= 0),
    currency      TEXT    NOT NULL,
    PRIMARY KEY (request_id, start_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX plan_charges_of_account ON plan_charges (account_id, start_ms);

-- The account's limits that are, were lately, or will be higher: a JSON list, read with the account at each dial.
ALTER TABLE accounts ADD COLUMN raises TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(raises));

-- Windows with use past their allowance, judged once when they are over.
ALTER TABLE meters ADD COLUMN judged INTEGER NOT NULL DEFAULT 0 CHECK (judged IN (0, 1));
CREATE INDEX meters_to_judge ON meters (end_ms) WHERE over_units > 0 AND judged = 0;

-- The case or request that an agreement answers, who wrote it down, and who ended it.
ALTER TABLE agreements ADD COLUMN about TEXT NOT NULL DEFAULT '';
ALTER TABLE agreements ADD COLUMN recorded_by TEXT NOT NULL DEFAULT '';
ALTER TABLE agreements ADD COLUMN withdrawn_by TEXT NOT NULL DEFAULT '';

-- Where the limit changed while a call was up: which of its seconds lie past it, as a JSON list of [from, until), counted
-- from its answer. NULL: its last ones, as many as over_units says.
ALTER TABLE holds ADD COLUMN past TEXT CHECK (past IS NULL OR json_valid(past));
