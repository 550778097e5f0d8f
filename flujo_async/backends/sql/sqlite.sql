-- The queries of SQLiteBackend. ``{name}`` stands for the text of an earlier query.

-- name: whose
-- One statement, so that nobody who creates the tables meanwhile is seen half way.
SELECT application_id, user_version, EXISTS (SELECT 1 FROM sqlite_master)
FROM pragma_application_id, pragma_user_version;

-- name: head
-- The columns that sqlite_rows.summary() reads, in its order.
run_id, pipeline_name, pipeline_version, status, created_at, updated_at, last_seq, current_step_index,
metadata, error_message, waiting_for, attempts, parent_run_id, queue, priority, wake_at,
lease_owner, lease_expires_at

-- name: insert_run
INSERT INTO runs ({head})
VALUES (
    :run_id, :pipeline_name, :pipeline_version, :status, :created_at, :updated_at, :last_seq, :current_step_index,
    :metadata, :error_message, :waiting_for, :attempts, :parent_run_id, :queue, :priority, :wake_at,
    :lease_owner, :lease_expires_at
)
ON CONFLICT (run_id) DO NOTHING
RETURNING id;

-- name: insert_fact
-- The cast keeps bytes as they are, where a str would have to be decoded first.
INSERT INTO facts (run, seq, body, hash) VALUES (?, ?, CAST(? AS TEXT), ?);

-- name: insert_signal
INSERT INTO signals (run, signal_id, name, payload, at) VALUES (:run, :signal_id, :name, :payload, :at)
ON CONFLICT (run, signal_id) DO NOTHING;

-- name: held
run_id = :run_id AND attempts = :token AND lease_owner = :owner

-- name: advance
-- The usual append. It sets no column that an index has, which saves writing the pages of the indexes.
UPDATE runs
SET last_seq = :last_seq, updated_at = :updated_at, current_step_index = :current_step_index,
    pipeline_version = coalesce(:pipeline_version, pipeline_version),
    error_message = :error_message, waiting_for = :waiting_for
WHERE {held} AND last_seq = :expected_seq AND status = :status AND NOT :is_resting
RETURNING id;

-- name: advance_to_status
-- An append that also changes the status; a resting run gives up its lease.
UPDATE runs
SET last_seq = :last_seq, updated_at = :updated_at, current_step_index = :current_step_index,
    pipeline_version = coalesce(:pipeline_version, pipeline_version),
    error_message = :error_message, waiting_for = :waiting_for, status = :status,
    lease_owner = CASE WHEN :is_resting THEN NULL ELSE lease_owner END,
    lease_expires_at = CASE WHEN :is_resting THEN NULL ELSE lease_expires_at END
WHERE {held} AND last_seq = :expected_seq
RETURNING id;

-- name: renew
UPDATE runs SET lease_expires_at = :expires_at WHERE {held};

-- name: release
UPDATE runs SET lease_owner = NULL, lease_expires_at = NULL, wake_at = :wake_at WHERE {held};

-- name: delete_run
DELETE FROM runs WHERE run_id = :run_id;

-- name: key_of_run
SELECT id FROM runs WHERE run_id = :run_id

-- name: head_of_run
SELECT {head} FROM runs WHERE run_id = :run_id;

-- Claims. Each query finds some of the runs that can be claimed, the first few in the order of claims. What cannot be
-- read of a run (its metadata, say) is not read, so that no damaged row is in the way of the others.

-- name: candidate
SELECT -priority, created_at, run_id, attempts

-- name: first_few
ORDER BY priority DESC, created_at, run_id LIMIT :limit

-- name: asked_for
status IN (SELECT value FROM json_each(:statuses))
AND (:queues IS NULL OR queue IN (SELECT value FROM json_each(:queues)))

-- name: is_dead
lease_owner IN (SELECT value FROM json_each(:dead_owners))

-- name: claimable_run
{candidate} FROM runs
WHERE run_id = :run_id AND {asked_for} AND (lease_owner IS NULL OR lease_expires_at <= :now OR {is_dead})
LIMIT :limit;

-- name: ready_in_queue
{candidate} FROM runs INDEXED BY runs_ready
WHERE due_at IS NULL AND status = :status AND queue = :queue
{first_few};

-- name: ready_anywhere
{candidate} FROM runs INDEXED BY runs_ready
WHERE due_at IS NULL AND status = :status
{first_few};

-- name: due
{candidate} FROM runs INDEXED BY runs_due
WHERE due_at <= :now AND {asked_for}
{first_few};

-- name: left_by_dead_owners
{candidate} FROM runs INDEXED BY runs_leased
WHERE {is_dead} AND {asked_for}
{first_few};

-- name: claim
UPDATE runs
SET attempts = :token, lease_owner = :owner, lease_expires_at = :expires_at, wake_at = NULL
WHERE run_id = :run_id;

-- name: load
-- One statement, so all of it is of one instant. Kinds: 0 head, 1 fact, 2 signal. The reader sorts by kind and
-- position: with ORDER BY, SQLite would copy all bodies into a temporary table, in twice the time.
SELECT 0 AS kind, 0 AS position, json_array({head}) AS content, NULL AS hash FROM runs WHERE run_id = :run_id
UNION ALL
SELECT 1, seq, CAST(body AS BLOB), hash FROM facts WHERE run = ({key_of_run}) AND seq <= :until
UNION ALL
SELECT 2, id, json_array(signal_id, name, payload, at), NULL FROM signals WHERE run = ({key_of_run});

-- name: events
SELECT seq, CAST(body AS BLOB), hash FROM facts
WHERE run = ({key_of_run}) AND seq > :after
ORDER BY seq LIMIT :limit;

-- name: list_runs
SELECT {head} FROM runs

-- name: in_order
ORDER BY created_at DESC, run_id LIMIT :limit OFFSET :offset;

-- name: signs_of_change
-- What changes when something happens to a run, a renewal of its lease left aside.
SELECT run_id, attempts, last_seq, status, lease_owner, (SELECT max(id) FROM signals WHERE run = runs.id)
FROM runs WHERE run_id IN (SELECT value FROM json_each(:run_ids));
