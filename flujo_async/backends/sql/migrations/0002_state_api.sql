-- What lists tell of a run besides, and who sent a signal.
ALTER TABLE runs ADD COLUMN pipeline_id TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN is_background INTEGER NOT NULL DEFAULT FALSE;
ALTER TABLE runs ADD COLUMN usage TEXT NOT NULL DEFAULT '{}';      -- JSON
ALTER TABLE signals ADD COLUMN sent_by TEXT;

UPDATE runs SET is_background = TRUE WHERE queue IS NOT NULL;

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
    FROM facts
)
WHERE event IS NOT NULL;
