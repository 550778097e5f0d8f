-- Moments are microseconds since 1970 in UTC. A run and its log have the same short key.
-- To look around:  SELECT run_id, seq, body FROM facts JOIN runs ON runs.id = facts.log ORDER BY log, seq;

-- A log outlives its run as long as forks share its beginning.
CREATE TABLE logs (
    id INTEGER PRIMARY KEY,
    source INTEGER REFERENCES logs (id),    -- the log that has its beginning, if it is that of a fork
    shared INTEGER                          -- the last seq of that beginning
) STRICT;
CREATE INDEX logs_of_source ON logs (source, shared) WHERE source IS NOT NULL;

CREATE TABLE runs (
    id INTEGER PRIMARY KEY REFERENCES logs (id),
    run_id TEXT NOT NULL UNIQUE,
    pipeline_name TEXT NOT NULL,
    pipeline_version TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    current_step_index INTEGER NOT NULL,
    metadata TEXT NOT NULL,                 -- JSON
    error_message TEXT,
    waiting_for TEXT NOT NULL,              -- JSON
    attempts INTEGER NOT NULL,              -- also the token of the last lease: each claim makes one more
    parent_run_id TEXT,
    queue TEXT,
    priority INTEGER NOT NULL,
    wake_at INTEGER,
    signals INTEGER NOT NULL,               -- how many were posted
    signals_read INTEGER NOT NULL,
    lease_owner TEXT,
    lease_expires_at INTEGER,
    queue_name TEXT GENERATED ALWAYS AS (coalesce(queue, '')) VIRTUAL
) STRICT;

-- Claims. What is ready now, in the order of claims: of one queue, or of any; and since when. What rests is in none of
-- these three, so they stay small, and writing a leased run does not touch them.
CREATE INDEX runs_ready ON runs (status, priority DESC, created_at, run_id, pipeline_name)
    WHERE lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running');
CREATE INDEX runs_ready_in_queue ON runs (status, queue_name, priority DESC, created_at, run_id, pipeline_name)
    WHERE lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running');
CREATE INDEX runs_ready_since ON runs (status, updated_at, queue_name, pipeline_name)
    WHERE lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running');

-- What sleeps, what has signals that nobody has read, what somebody has, and until when.
CREATE INDEX runs_asleep ON runs (status, wake_at, queue_name, pipeline_name) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_signalled ON runs (status) WHERE signals > signals_read;
CREATE INDEX runs_expiring ON runs (lease_expires_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX runs_leased ON runs (lease_owner) WHERE lease_owner IS NOT NULL;

-- Listings.
CREATE INDEX runs_created ON runs (created_at DESC, run_id);
CREATE INDEX runs_status ON runs (status, created_at DESC, run_id);
CREATE INDEX runs_pipeline ON runs (pipeline_name, created_at DESC, run_id);
CREATE INDEX runs_parent ON runs (parent_run_id, created_at DESC, run_id) WHERE parent_run_id IS NOT NULL;

-- Facts are appended at the end of the table, whatever their run: a transaction that serves a hundred runs
-- writes a few pages. Clustered by run (WITHOUT ROWID) it wrote seven times as many, and took three times as long.
CREATE TABLE facts (
    id INTEGER PRIMARY KEY,
    log INTEGER NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    body TEXT NOT NULL,                     -- JSON, byte for byte
    hash TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX facts_of_log ON facts (log, seq);

-- Large values, each once, and the logs that were given them; a blob goes with the last of these.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    data TEXT NOT NULL                      -- JSON, byte for byte
) STRICT;

CREATE TABLE blobs_of_logs (
    log INTEGER NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    blob INTEGER NOT NULL REFERENCES blobs (id),
    seq INTEGER NOT NULL,                   -- that of the first fact it was given with
    PRIMARY KEY (log, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_in_use ON blobs_of_logs (blob);

CREATE TRIGGER blobs_of_nobody AFTER DELETE ON blobs_of_logs
WHEN NOT EXISTS (SELECT 1 FROM blobs_of_logs WHERE blob = OLD.blob)
BEGIN
    DELETE FROM blobs WHERE id = OLD.blob;
END;

CREATE TABLE snapshots (
    run INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE signals (
    id INTEGER PRIMARY KEY,                 -- the order of posting
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    signal_id TEXT NOT NULL,
    name TEXT NOT NULL,
    payload TEXT NOT NULL,                  -- JSON
    at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX signals_of_run ON signals (run, signal_id);

CREATE TABLE system_states (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL                     -- JSON
) STRICT;
