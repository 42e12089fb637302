-- Which FairDial looks after which switch, and what nodes ask of each other. Instants are by the store's own clock.

-- epoch: counts who has looked after the switch's calls; a step by an earlier one is refused. owner: the FairDial that
-- serves the switch, made anew at each start; '' where the switch is no more. place: where that runs, for people.
-- until_ms: how long the lease holds. skew_ms: by how much its clock was ahead. taken_by: the switch of the node that
-- looks after it, since lapsed_ms.
CREATE TABLE nodes (
    switch    TEXT    PRIMARY KEY,
    epoch     INTEGER NOT NULL CHECK (epoch > 0),
    owner     TEXT    NOT NULL,
    place     TEXT    NOT NULL,
    until_ms  INTEGER NOT NULL,
    skew_ms   INTEGER NOT NULL,
    taken_by  TEXT    NOT NULL DEFAULT '',
    lapsed_ms INTEGER
) STRICT, WITHOUT ROWID;

-- 'look': accounts or lines were barred, and calls in progress are to end. 'hangup': that call is to end; outcome: what
-- its own node made of it, NULL until then. Looked at each second, kept for minutes.
CREATE TABLE orders (
    id      INTEGER PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    what    TEXT    NOT NULL CHECK (what IN ('look', 'hangup')),
    call_id TEXT,
    outcome TEXT
) STRICT;
CREATE INDEX orders_by_time ON orders (at_ms);
