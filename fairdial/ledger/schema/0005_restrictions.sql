-- Services that an account may not use for now: a JSON list of kinds of call.
ALTER TABLE accounts ADD COLUMN restricted TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(restricted));
