-- Who may use the HTTP API. digest: SHA-256 of the token, in hexadecimal; the token itself is kept nowhere.
CREATE TABLE tokens (
    name       TEXT    PRIMARY KEY,
    digest     TEXT    NOT NULL UNIQUE CHECK (length(digest) = 64),
    role       TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
