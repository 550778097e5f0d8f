-- What callers keep of runs by hand.
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,                   -- a run that need not exist
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,                     -- JSON
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_of_run ON entries (run_id, kind, key);
CREATE INDEX entries_of_kind ON entries (kind, created_at DESC, run_id, key);
