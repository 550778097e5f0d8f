-- What lists tell of a run besides, and who sent a signal.
ALTER TABLE runs ADD COLUMN pipeline_id TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN is_background INTEGER NOT NULL DEFAULT FALSE;
ALTER TABLE runs ADD COLUMN usage TEXT NOT NULL DEFAULT '{}';      -- JSON
ALTER TABLE signals ADD COLUMN sent_by TEXT;

UPDATE runs SET is_background = TRUE WHERE queue IS NOT NULL;

-- The definition that a run began with or was last migrated to, as the log tells, which a fork shares with its source.
UPDATE runs SET pipeline_id = coalesce((
    WITH RECURSIVE shared_logs (log, source, shared, upto) AS (
        SELECT id, source, shared, runs.last_seq FROM logs WHERE id = runs.id
        UNION ALL
        SELECT logs.id, logs.source, logs.shared, min(shared_logs.shared, upto)
        FROM shared_logs JOIN logs ON logs.id = shared_logs.source
    )
    SELECT json_extract(body, '$.fingerprint')
    FROM shared_logs CROSS JOIN facts ON facts.log = shared_logs.log AND seq <= upto
    WHERE substr(body, 1, 19) IN ('{"kind":"RunStarted', '{"kind":"RunMigrate') AND json_valid(body)
    ORDER BY seq DESC LIMIT 1
), '');

-- Lists of what nobody has a lease of, the latest change first, and what statistics need of it. An append changes
-- nothing here: its run is leased.
CREATE INDEX runs_unleased ON runs (status, updated_at DESC, run_id, created_at, is_background, lease_owner)
    WHERE lease_owner IS NULL;
CREATE INDEX runs_pipeline_id ON runs (pipeline_id, created_at DESC, run_id);

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

-- What lists filter and sort by, of the runs that have entries of the kinds ``state`` and ``run``; those that have a
-- head as well are listed by that.
CREATE TABLE saved_runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    pipeline_id TEXT,
    pipeline_name TEXT,
    parent_run_id TEXT,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    is_background INTEGER NOT NULL,
    execution_time_ms REAL,
    metadata TEXT NOT NULL                  -- JSON
) STRICT;
CREATE INDEX saved_runs_created ON saved_runs (created_at DESC, run_id);
CREATE INDEX saved_runs_status ON saved_runs (status, created_at DESC, run_id);
CREATE INDEX saved_runs_pipeline ON saved_runs (pipeline_name, created_at DESC, run_id);
CREATE INDEX saved_runs_pipeline_id ON saved_runs (pipeline_id, created_at DESC, run_id);
CREATE INDEX saved_runs_parent ON saved_runs (parent_run_id, created_at DESC, run_id) WHERE parent_run_id IS NOT NULL;
CREATE INDEX saved_runs_updated ON saved_runs (
    status, updated_at DESC, run_id, created_at, is_background, execution_time_ms
);

-- The spans that have ended, of each run as its log was at ``seq``: worked out of the log when statistics are asked for.
CREATE TABLE span_marks (
    run INTEGER PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL
) STRICT;

CREATE TABLE spans (
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    span_id TEXT NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    start_time REAL NOT NULL,               -- seconds since 1970
    end_time REAL NOT NULL,
    PRIMARY KEY (run, span_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX spans_by_name ON spans (name, status, start_time, end_time, run, span_id);

-- The audit log: which facts belong to it. A fork has those of its own part of the log only.
CREATE TABLE audit (
    log INTEGER NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (log, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_in_order ON audit (at DESC, log, seq, event);

INSERT INTO audit (log, seq, at, event)
SELECT log, seq, CAST(strftime('%s', at) AS INTEGER) * 1000000
        + CASE WHEN substr(at, 20, 1) = '.' THEN CAST(substr(at, 21, 6) AS INTEGER) ELSE 0 END, event
FROM (
    SELECT log, seq, body ->> 'at' AS at, CASE body ->> 'kind'
        WHEN 'RunResumed' THEN 'workflow.resumed'
        WHEN 'RunForked' THEN 'workflow.forked'
        WHEN 'RunRedriven' THEN 'workflow.redriven'
        WHEN 'RunMigrated' THEN 'workflow.migrated'
        WHEN 'RunPaused' THEN 'workflow.paused'
        WHEN 'RunFailed' THEN 'workflow.dead_lettered'
        WHEN 'RunCancelled' THEN 'workflow.cancelled'
        WHEN 'RollbackStarted' THEN 'compensation.started'
        WHEN 'StepCompleted' THEN iif(body ->> 'key' LIKE '%/compensate', 'compensation.completed', NULL)
        WHEN 'StepFailed' THEN iif(body ->> 'key' LIKE '%/compensate', 'compensation.failed', NULL)
        WHEN 'StepDecided' THEN 'decision.made'
        WHEN 'SignalReceived' THEN CASE
            WHEN body ->> 'name' = '$refused' THEN 'signal.refused'
            WHEN body ->> 'name' = '$child' THEN NULL
            ELSE 'signal.received'
        END
        WHEN 'WaitTimedOut' THEN 'signal.missed'
    END AS event
    FROM facts WHERE json_valid(body)
)
WHERE event IS NOT NULL AND strftime('%s', at) IS NOT NULL;
