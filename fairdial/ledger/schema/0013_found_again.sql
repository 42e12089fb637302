-- Decisions are found by number and by the call's SIP Call-ID, and tokens may be bound to accounts.

-- A number that has an E.164 form is found by it, any other as it was dialled. Each index costs a dial some 13 us of the
-- writer, which is why lines have none: theirs are among those of their account.
CREATE INDEX decisions_of_number ON decisions (coalesce(e164, dialled), at_ms);
CREATE INDEX decisions_by_sip_call_id ON decisions (sip_call_id) WHERE sip_call_id <> '';

-- The accounts that the holder of a token may see and act for, as JSON; of an empty list all.
ALTER TABLE tokens ADD COLUMN accounts TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(accounts));
