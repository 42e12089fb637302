-- What a shard has besides the tables of a ledger: which slots of accounts are here, a version for each account, a part
-- of the directory, and the functions that the proxy's of the same names lead to. Run again, it changes nothing.

CREATE SCHEMA IF NOT EXISTS shard;

-- Slots whose accounts are here: read and written ('open'), read alone while they are copied to another shard
-- ('leaving'), being filled ('coming', from the shard of that name). A slot without a row is elsewhere.
CREATE TABLE IF NOT EXISTS shard.slots (
    slot  INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 1023),
    state TEXT    NOT NULL CHECK (state IN ('open', 'leaving', 'coming')),
    comes_from TEXT
);

-- How many writes an account has seen. None is one that reads what another changed since: see shard.step.
CREATE TABLE IF NOT EXISTS shard.versions (
    owner   TEXT COLLATE "C" PRIMARY KEY,
    slot    INTEGER NOT NULL,
    version BIGINT  NOT NULL
) WITH (fillfactor = 50);

-- Whose a line, a number or a call is, by the slot of its own key, so that it is found from anywhere and is one's alone.
CREATE TABLE IF NOT EXISTS shard.directory (
    of      TEXT NOT NULL CHECK (of IN ('line', 'number', 'call')),
    key     TEXT COLLATE "C" NOT NULL,
    slot    INTEGER NOT NULL,
    owner   TEXT COLLATE "C" NOT NULL,
    claimed TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (of, key)
);
CREATE INDEX IF NOT EXISTS versions_of_slot ON shard.versions (slot);
CREATE INDEX IF NOT EXISTS directory_of_slot ON shard.directory (slot);

-- Moving a slot waits for who writes in it, and keeps who comes later out: each writer takes this lock shared, then
-- looks at the state; the mover sets the state, then takes it alone once.
CREATE OR REPLACE FUNCTION shard.enter(i_slot INTEGER, i_write BOOLEAN) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE found_state TEXT;
BEGIN
    IF i_write THEN
        PERFORM pg_advisory_xact_lock_shared(1178686830, i_slot);
    END IF;
    SELECT state INTO found_state FROM shard.slots WHERE slot = i_slot;
    IF found_state IS NULL OR found_state = 'coming' THEN
        RAISE EXCEPTION 'slot % is on another shard', i_slot USING ERRCODE = 'FD001';
    ELSIF i_write AND found_state <> 'open' THEN
        RAISE EXCEPTION 'slot % is being moved to another shard', i_slot USING ERRCODE = 'FD002';
    END IF;
END $$;

-- Prepare statements that this session has not prepared yet. i_names: of a statement with the types of its parameters.
CREATE OR REPLACE FUNCTION shard.prepare(i_names TEXT[], i_texts TEXT[]) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    known TEXT := coalesce(current_setting('shard.prepared', true), '');
    before TEXT := known;
BEGIN
    FOR n IN 1 .. coalesce(array_length(i_names, 1), 0) LOOP
        IF position(i_names[n] IN known) = 0 THEN
            -- A transaction that failed took the setting back, but not what it had prepared.
            IF NOT EXISTS (SELECT 1 FROM pg_prepared_statements WHERE name = i_names[n]) THEN
                EXECUTE i_texts[n];
            END IF;
            known := known || i_names[n];
        END IF;
    END LOOP;
    IF known <> before THEN
        PERFORM set_config('shard.prepared', known, false);
    END IF;
END $$;

-- Run statements that are prepared, and give the rows of each as JSON, with commas between; 'null' for those without.
-- i_given: the parameters of each as literals, in brackets.
CREATE OR REPLACE FUNCTION shard.run(i_names TEXT[], i_given TEXT[], i_rows BOOLEAN[]) RETURNS TEXT
LANGUAGE plpgsql AS $$
DECLARE
    found_rows TEXT;
    all_rows TEXT := '';
BEGIN
    FOR n IN 1 .. coalesce(array_length(i_names, 1), 0) LOOP
        IF i_rows[n] THEN
            EXECUTE 'EXECUTE ' || i_names[n] || i_given[n] INTO found_rows;
            all_rows := all_rows || ',' || found_rows;
        ELSE
            EXECUTE 'EXECUTE ' || i_names[n] || i_given[n];
            all_rows := all_rows || ',null';
        END IF;
    END LOOP;
    RETURN all_rows;
END $$;

-- Statements of one account, or of several of this shard where they write, as JSON: [version of the first, rows, …].
-- i_how: 'look': they only read; 'try': run all, give the rows, take all back; 'write'. i_versions: what the accounts are
-- to have, NULL: whichever. Another one is a serialization failure, after which nothing was done.
CREATE OR REPLACE FUNCTION shard.step(
    i_slot INTEGER, i_how TEXT, i_owners TEXT[], i_slots INTEGER[], i_versions BIGINT[],
    i_names TEXT[], i_texts TEXT[], i_given TEXT[], i_rows BOOLEAN[])
RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    found_rows TEXT;
    found_version BIGINT;
    found_versions BIGINT[] := '{}';
BEGIN
    FOR n IN 1 .. array_length(i_owners, 1) LOOP
        PERFORM shard.enter(i_slots[n], i_how = 'write');
        IF i_how = 'write' THEN
            -- Locks the account, compares its version and raises it.
            INSERT INTO shard.versions AS v VALUES (i_owners[n], i_slots[n], 1)
                ON CONFLICT (owner) DO UPDATE SET version = v.version + 1
                WHERE v.version = i_versions[n] OR i_versions[n] IS NULL
                RETURNING v.version - 1 INTO found_version;
        ELSE
            SELECT version INTO found_version FROM shard.versions WHERE owner = i_owners[n];
            found_version := coalesce(found_version, 0);
        END IF;
        IF found_version IS NULL OR found_version <> i_versions[n] THEN
            RAISE EXCEPTION 'account % has changed', i_owners[n] USING ERRCODE = 'serialization_failure';
        END IF;
        found_versions := found_versions || found_version;
    END LOOP;
    PERFORM shard.prepare(i_names, i_texts);
    IF i_how = 'try' THEN
        BEGIN
            found_rows := shard.run(i_names, i_given, i_rows);
            RAISE EXCEPTION USING ERRCODE = 'FD009';
        EXCEPTION
            WHEN SQLSTATE 'FD009' THEN
                NULL; -- all is taken back but what was found
            WHEN OTHERS THEN
                -- What does not fit what another has written meanwhile is to be tried again, not to be refused.
                PERFORM shard.need_versions(i_owners, found_versions);
                RAISE;
        END;
    ELSE
        found_rows := shard.run(i_names, i_given, i_rows);
    END IF;
    IF i_how <> 'write' THEN
        -- Each statement sees what was committed before it: of one moment they are where nothing was written meanwhile.
        PERFORM shard.need_versions(i_owners, found_versions);
    END IF;
    RETURN '[' || found_versions[1] || found_rows || ']';
END $$;

CREATE OR REPLACE FUNCTION shard.need_versions(i_owners TEXT[], i_versions BIGINT[]) RETURNS VOID
LANGUAGE plpgsql AS $$
DECLARE
    found_version BIGINT;
BEGIN
    FOR n IN 1 .. array_length(i_owners, 1) LOOP
        SELECT version INTO found_version FROM shard.versions WHERE owner = i_owners[n];
        IF coalesce(found_version, 0) <> i_versions[n] THEN
            RAISE EXCEPTION 'account % has changed', i_owners[n] USING ERRCODE = 'serialization_failure';
        END IF;
    END LOOP;
END $$;

-- How many slots are here, each of which is on one shard; a slot that is being filled is still at the other.
CREATE OR REPLACE FUNCTION shard.slots_here() RETURNS BIGINT LANGUAGE sql AS $$
    SELECT count(*) FROM shard.slots WHERE state <> 'coming'
$$;

-- Statements that are of no account in particular, on each shard, as JSON: [slots that are here, rows, rows, …]. All
-- shards together have each slot once, else a slot was moved meanwhile, and its accounts were seen twice or not at all.
CREATE OR REPLACE FUNCTION shard.everywhere(
    i_write BOOLEAN, i_names TEXT[], i_texts TEXT[], i_given TEXT[], i_rows BOOLEAN[])
RETURNS SETOF TEXT LANGUAGE plpgsql AS $$
DECLARE
    before BIGINT := shard.slots_here();
    found_rows TEXT;
BEGIN
    IF i_write THEN
        -- 1024: any slot, beside the locks of the slots themselves.
        PERFORM pg_advisory_xact_lock_shared(1178686830, 1024);
    END IF;
    IF EXISTS (SELECT 1 FROM shard.slots WHERE state = 'coming' OR (i_write AND state <> 'open')) THEN
        RAISE EXCEPTION 'a slot is being moved to another shard' USING ERRCODE = 'FD002';
    END IF;
    PERFORM shard.prepare(i_names, i_texts);
    found_rows := shard.run(i_names, i_given, i_rows);
    IF shard.slots_here() <> before THEN
        RAISE EXCEPTION 'a slot was moved to another shard' USING ERRCODE = 'FD002';
    END IF;
    RETURN NEXT '[' || before || found_rows || ']';
END $$;

-- Make a key one's own, unless it is another's: whose it is, whether it became so now, and how old that is in
-- milliseconds. i_instead: whose claim was found to have nothing behind it.
CREATE OR REPLACE FUNCTION shard.claim(i_slot INTEGER, i_of TEXT, i_key TEXT, i_owner TEXT, i_instead TEXT)
RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    held RECORD;
BEGIN
    PERFORM shard.enter(i_slot, true);
    IF i_of = 'call' THEN
        -- Lost in a crash of this server, a call is found by asking each shard.
        SET LOCAL synchronous_commit = off;
    END IF;
    INSERT INTO shard.directory AS d (of, key, slot, owner) VALUES (i_of, i_key, i_slot, i_owner)
        ON CONFLICT (of, key) DO UPDATE SET owner = excluded.owner, claimed = clock_timestamp()
        WHERE d.owner = i_instead RETURNING d.owner INTO held;
    IF FOUND THEN
        RETURN json_build_array(i_owner, true, 0);
    END IF;
    SELECT d.owner, (extract(epoch FROM clock_timestamp() - d.claimed) * 1000)::BIGINT AS age_ms INTO held
        FROM shard.directory d WHERE d.of = i_of AND d.key = i_key;
    RETURN json_build_array(held.owner, false, held.age_ms);
END $$;

CREATE OR REPLACE FUNCTION shard.unclaim(i_slot INTEGER, i_of TEXT, i_key TEXT, i_owner TEXT)
RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM shard.enter(i_slot, true);
    DELETE FROM shard.directory WHERE of = i_of AND key = i_key AND owner = i_owner;
END $$;

-- Whose it is by the directory; NULL: nobody has claimed it.
CREATE OR REPLACE FUNCTION shard.whose(i_slot INTEGER, i_of TEXT, i_key TEXT) RETURNS TEXT LANGUAGE plpgsql AS $$
BEGIN
    PERFORM shard.enter(i_slot, false);
    RETURN (SELECT owner FROM shard.directory WHERE of = i_of AND key = i_key);
END $$;

-- Whose it is by what is stored on the shard that has the slot, whichever that is, and how many slots are there, as JSON.
CREATE OR REPLACE FUNCTION shard.here(i_slot INTEGER, i_of TEXT, i_key TEXT) RETURNS TEXT LANGUAGE plpgsql AS $$
BEGIN
    RETURN json_build_array(shard.slots_here(), CASE i_of
        WHEN 'line' THEN (SELECT account_id FROM lines WHERE id = i_key)
        WHEN 'number' THEN (SELECT account_id FROM numbers WHERE number = i_key)
        -- Of a line that is nobody's: see NOBODY in spread.py.
        WHEN 'call' THEN (SELECT coalesce(account_id, '?' || line_id) FROM decisions WHERE call_id = i_key)
        WHEN 'request' THEN (SELECT account_id FROM requests WHERE id = i_key::BIGINT)
        WHEN 'case' THEN (SELECT account_id FROM cases WHERE id = i_key::BIGINT)
    END);
END $$;

-- Up to which file of schema/ its tables are.
CREATE OR REPLACE FUNCTION shard.schema_version(i_slot INTEGER) RETURNS BIGINT LANGUAGE sql AS $$
    SELECT max(version) FROM schema_version
$$;

-- Wait for an account's turn, where steps of several FairDials were in each other's way, and give it on. It is the
-- session's, so it ends with whoever freezes or dies, and it is politeness alone: what holds is the version.
CREATE OR REPLACE FUNCTION shard.take(i_slot INTEGER, i_owner TEXT, i_within_ms INTEGER) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', i_within_ms::text, true);
    PERFORM pg_advisory_lock(1178686831, hashtext(i_owner));
EXCEPTION WHEN lock_not_available THEN
    NULL; -- whoever has it is slow, or froze
END $$;

CREATE OR REPLACE FUNCTION shard.leave(i_slot INTEGER, i_owner TEXT) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_unlock_all();
END $$;
