-- Sources of calls that are turned away for a while: addresses from which passwords were guessed.
CREATE TABLE blocks (
    source   TEXT    PRIMARY KEY,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER NOT NULL CHECK (until_ms > since_ms),
    why      TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
