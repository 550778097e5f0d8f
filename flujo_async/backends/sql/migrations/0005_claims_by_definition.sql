-- Claims ask for definitions: what nobody here can drive is passed over in one step, however much of it there is.
DROP INDEX runs_ready;
DROP INDEX runs_ready_in_queue;
DROP INDEX runs_ready_since;
DROP INDEX runs_asleep;

CREATE INDEX runs_ready
    ON runs (status, pipeline_name, pipeline_version, pipeline_id, priority DESC, created_at, run_id)
    WHERE lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running');
CREATE INDEX runs_ready_in_queue
    ON runs (status, pipeline_name, pipeline_version, pipeline_id, queue_name, priority DESC, created_at, run_id)
    WHERE lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running');
CREATE INDEX runs_ready_since
    ON runs (status, pipeline_name, pipeline_version, pipeline_id, updated_at, queue_name)
    WHERE lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running');
CREATE INDEX runs_asleep
    ON runs (status, pipeline_name, pipeline_version, pipeline_id, wake_at, queue_name)
    WHERE wake_at IS NOT NULL;
