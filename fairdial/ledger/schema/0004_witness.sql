-- What was seen of a switch, and where its records disagree with ours.

-- proven_ms: the last moment at which the switch was heard with every live call of ours still followed.
-- compared_ms: calls that were settled up to then have been compared with the switch's own records.
CREATE TABLE switches (
    name        TEXT    PRIMARY KEY,
    proven_ms   INTEGER NOT NULL,
    compared_ms INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Seconds are those of talk: ours as settled, theirs as the switch recorded them; NULL where there is none.
CREATE TABLE differences (
    call_id  TEXT    NOT NULL,
    kind     TEXT    NOT NULL CHECK (kind IN ('orphan_channel', 'orphan_grant', 'usage', 'unmetered')),
    at_ms    INTEGER NOT NULL,
    ours_s   INTEGER,
    theirs_s INTEGER,
    done     TEXT    NOT NULL, -- what became of it
    PRIMARY KEY (call_id, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX differences_by_time ON differences (at_ms);

CREATE INDEX grants_by_end ON grants (ended_ms) WHERE state = 'settled';
