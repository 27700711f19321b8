-- Functions and their immutable versions. `data` is the version as JSON.
CREATE TABLE function (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    aliases    TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) STRICT;

CREATE TABLE version (
    function_id TEXT NOT NULL REFERENCES function (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    artifact    TEXT NOT NULL,
    data        BLOB NOT NULL,
    PRIMARY KEY (function_id, number)
) STRICT;

CREATE TABLE api_key (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    scopes        TEXT NOT NULL,
    secret_sha256 BLOB NOT NULL,
    created_at    REAL NOT NULL
) STRICT;

-- Asynchronous invocations: the call until it is settled, its record (JSON) afterwards.
CREATE TABLE call (
    seq         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    function_id TEXT NOT NULL,
    function    TEXT NOT NULL,
    version     INTEGER NOT NULL,
    status      TEXT NOT NULL,
    method      BLOB,
    path        BLOB,
    query       BLOB,
    headers     BLOB,
    body        BLOB,
    attempts    INTEGER NOT NULL DEFAULT 0,
    traceparent TEXT,
    not_before  REAL NOT NULL DEFAULT 0,
    created_at  REAL NOT NULL,
    started_at  REAL,
    settled_at  REAL,
    record      BLOB
) STRICT;

CREATE INDEX call_open ON call (status, seq) WHERE settled_at IS NULL;
CREATE INDEX call_settled ON call (settled_at) WHERE settled_at IS NOT NULL;

-- Synchronous invocations: many records in one row, so that a record costs next to nothing.
-- `data` is zlib over JSON lines; `tails` holds the last eight characters of each id, to find the
-- row of an id without unpacking: ids are ordered by start, rows by finish.
CREATE TABLE batch (
    seq       INTEGER PRIMARY KEY,
    saved_at  REAL NOT NULL,
    first_id  TEXT NOT NULL,
    last_id   TEXT NOT NULL,
    records   INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    functions TEXT NOT NULL,
    statuses  TEXT NOT NULL,
    tails     TEXT NOT NULL,
    data      BLOB NOT NULL
) STRICT;

CREATE INDEX batch_ids ON batch (last_id, first_id);

CREATE TABLE audit (
    seq  INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    data BLOB NOT NULL
) STRICT;

-- What retention has to look at, kept right by the transaction that changes it.
CREATE TABLE total (
    records INTEGER NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT;

INSERT INTO total VALUES (0, 0);

CREATE TRIGGER batch_added AFTER INSERT ON batch BEGIN
    UPDATE total SET records = records + new.records,
                     bytes = bytes + length(new.data) + length(new.tails) + 256;
END;

CREATE TRIGGER batch_grown AFTER UPDATE ON batch BEGIN
    UPDATE total SET records = records + new.records - old.records,
                     bytes = bytes + length(new.data) + length(new.tails)
                                   - length(old.data) - length(old.tails);
END;

CREATE TRIGGER batch_removed AFTER DELETE ON batch BEGIN
    UPDATE total SET records = records - old.records,
                     bytes = bytes - length(old.data) - length(old.tails) - 256;
END;

CREATE TRIGGER call_was_settled AFTER UPDATE OF settled_at ON call
WHEN old.settled_at IS NULL AND new.settled_at IS NOT NULL BEGIN
    UPDATE total SET records = records + 1, bytes = bytes + length(new.record) + 256;
END;

CREATE TRIGGER call_removed AFTER DELETE ON call WHEN old.settled_at IS NOT NULL BEGIN
    UPDATE total SET records = records - 1, bytes = bytes - length(old.record) - 256;
END;
