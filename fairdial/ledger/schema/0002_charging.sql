-- Use past an allowance, prepaid credit, charges. Money is whole micros (_micros): a million to one unit
-- of the currency.

ALTER TABLE accounts ADD COLUMN options TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(options));

-- Units past the limit of an allowance whose use goes on and is charged; they never count as used.
ALTER TABLE meters ADD COLUMN over_units INTEGER NOT NULL DEFAULT 0 CHECK (over_units >= 0);
-- over: this allowance does not end the call; what does not fit into it when the call is settled is charged.
ALTER TABLE holds ADD COLUMN over INTEGER NOT NULL DEFAULT 0 CHECK (over IN (0, 1));
ALTER TABLE holds ADD COLUMN over_units INTEGER CHECK (over_units >= 0);
-- How many units a second of this call counts; 2 for a callback with its two legs.
ALTER TABLE holds ADD COLUMN weight INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0);
-- Of a conference's clock, which runs once for all in the room: whoever leaves hands it to who stays.
ALTER TABLE holds ADD COLUMN room INTEGER NOT NULL DEFAULT 0 CHECK (room IN (0, 1));

-- terms: what a call costs, fixed when it was authorised, so that a new price list does not change it.
ALTER TABLE grants ADD COLUMN terms TEXT CHECK (terms IS NULL OR json_valid(terms));
ALTER TABLE grants ADD COLUMN credit_hold_micros INTEGER NOT NULL DEFAULT 0 CHECK (credit_hold_micros >= 0);

-- Prepaid credit. The checks are the promise that it never falls below zero, nor below what calls reserve.
CREATE TABLE credits (
    account_id      TEXT    PRIMARY KEY REFERENCES accounts (id),
    currency        TEXT    NOT NULL CHECK (length(currency) = 3),
    balance_micros  INTEGER NOT NULL CHECK (balance_micros >= 0),
    reserved_micros INTEGER NOT NULL DEFAULT 0 CHECK (reserved_micros >= 0),
    CHECK (reserved_micros <= balance_micros)
) STRICT, WITHOUT ROWID;

-- Each change of a balance. reference: the key under which it was asked for, so that it happens once; that of
-- a call is its id, and stands in nobody's way who chose the same.
CREATE TABLE credit_entries (
    account_id     TEXT    NOT NULL REFERENCES credits (account_id),
    origin         TEXT    NOT NULL CHECK (origin IN ('added', 'call', 'forfeited')),
    reference      TEXT    NOT NULL,
    at_ms          INTEGER NOT NULL,
    amount_micros  INTEGER NOT NULL,
    balance_micros INTEGER NOT NULL CHECK (balance_micros >= 0),
    note           TEXT    NOT NULL,
    PRIMARY KEY (account_id, origin, reference)
) STRICT, WITHOUT ROWID;

-- What a call costs, written when it is settled; at most one line for each way of paying.
CREATE TABLE charges (
    call_id        TEXT    NOT NULL REFERENCES grants (call_id),
    mode           TEXT    NOT NULL CHECK (mode IN ('overage', 'credit', 'surcharge')),
    account_id     TEXT    NOT NULL REFERENCES accounts (id),
    at_ms          INTEGER NOT NULL,
    charged_units  INTEGER NOT NULL CHECK (charged_units > 0),
    amount_micros  INTEGER NOT NULL CHECK (amount_micros >= 0),
    currency       TEXT    NOT NULL,
    rate           TEXT    NOT NULL,
    clause_policy  TEXT    NOT NULL,
    clause_version TEXT    NOT NULL,
    clause_id      TEXT    NOT NULL,
    PRIMARY KEY (call_id, mode)
) STRICT, WITHOUT ROWID;
CREATE INDEX charges_of_account ON charges (account_id, at_ms);

-- Rate cards as they were loaded; the text is the operator's file.
CREATE TABLE cards (
    name      TEXT    PRIMARY KEY,
    currency  TEXT    NOT NULL,
    loaded_ms INTEGER NOT NULL,
    text      TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
