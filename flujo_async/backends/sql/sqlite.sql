-- The queries of SQLiteBackend. ``{name}`` stands for the text of an earlier query.
--
-- ``{nothing}`` stands for NULL in what is written often: Python's driver looks for an adapter of each None, as it does
-- for bytes, and that takes longer than binding all the rest. No column has numbers that are not whole.

-- The usual append to a leased run writes its facts and not the run: what both would tell, the last fact tells. When
-- the run is let go, its row has it all again, so lists and claims of what nobody has can walk along indexes.

-- name: last_seq
CASE WHEN runs.lease_owner IS NULL THEN runs.last_seq
ELSE coalesce((SELECT max(seq) FROM facts WHERE log = runs.id), runs.last_seq) END

-- name: updated_at
CASE WHEN runs.lease_owner IS NULL THEN runs.updated_at
ELSE coalesce((SELECT at FROM facts WHERE log = runs.id ORDER BY seq DESC LIMIT 1), runs.updated_at) END

-- name: current_step_index
CASE WHEN runs.lease_owner IS NULL THEN runs.current_step_index
ELSE coalesce(
    (SELECT step_index FROM facts WHERE log = runs.id ORDER BY seq DESC LIMIT 1), runs.current_step_index
) END

-- name: head
-- What sqlite_rows.summary() reads, in its order.
run_id, pipeline_name, pipeline_version, status, created_at, {updated_at}, {last_seq}, {current_step_index},
metadata, error_message, waiting_for, attempts, parent_run_id, queue, priority, wake_at, signals, signals_read,
lease_owner, lease_expires_at, pipeline_id, is_background, usage

-- name: nothing
0.5

-- name: insert_log
INSERT INTO logs (source, shared) VALUES (?, ?)
RETURNING id;

-- Rows of values that begin a line are repeated where several are given at once, and some may be empty: see
-- sqlite_together.

-- name: insert_logs
INSERT INTO logs (id) SELECT column1 FROM (VALUES
(?)
) WHERE column1 <> {nothing};

-- name: insert_runs
INSERT INTO runs (
    id, run_id, pipeline_name, pipeline_version, status, created_at, updated_at, last_seq, current_step_index,
    metadata, error_message, waiting_for, attempts, parent_run_id, queue, priority, wake_at, signals, signals_read,
    lease_owner, lease_expires_at, pipeline_id, is_background, usage
)
SELECT
    column1, column2, column3, column4, column5, column6, column7, column8, column9, column10,
    nullif(column11, {nothing}), column12, column13, nullif(column14, {nothing}), nullif(column15, {nothing}),
    column16, nullif(column17, {nothing}), column18, column19, nullif(column20, {nothing}),
    nullif(column21, {nothing}), column22, column23, column24
FROM (VALUES
(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
) WHERE column1 <> {nothing};

-- name: insert_fact
-- The cast keeps bytes as they are, where a str would have to be decoded first.
INSERT INTO facts (log, seq, body, hash, at, step_index) VALUES (?, ?, CAST(? AS TEXT), ?, ?, ?);

-- name: insert_facts
INSERT INTO facts (log, seq, body, hash, at, step_index)
SELECT column1, column2, CAST(column3 AS TEXT), column4, column5, column6 FROM (VALUES
(?, ?, ?, ?, ?, ?)
) WHERE column1 <> {nothing};

-- name: insert_audit
INSERT INTO audit (log, seq, at, event) VALUES (?, ?, ?, ?);

-- name: audit
-- A log that outlived its run tells nothing any more.
SELECT run_id, facts.seq, CAST(body AS BLOB), hash
FROM audit JOIN runs ON runs.id = audit.log JOIN facts ON facts.log = audit.log AND facts.seq = audit.seq
WHERE audit.at >= :since AND audit.at < :until
    AND (:events IS NULL OR event IN (SELECT value FROM json_each(:events)))
ORDER BY audit.at DESC, run_id, audit.seq DESC LIMIT :limit OFFSET :offset;

-- name: audit_of_run
SELECT run_id, facts.seq, CAST(body AS BLOB), hash
FROM runs CROSS JOIN audit ON audit.log = runs.id JOIN facts ON facts.log = audit.log AND facts.seq = audit.seq
WHERE run_id = :run_id AND audit.at >= :since AND audit.at < :until
    AND (:events IS NULL OR event IN (SELECT value FROM json_each(:events)))
ORDER BY audit.at DESC, audit.seq DESC LIMIT :limit OFFSET :offset;

-- name: last_log
SELECT coalesce(max(id), 0) FROM logs;

-- name: which_exist
WITH wanted (place, run_id) AS (VALUES
(?, ?)
)
SELECT json_group_array(place) FROM wanted CROSS JOIN runs USING (run_id);

-- name: goes_on
-- Whether a run is as GOES_ON leaves it: nothing in it has to be taken back.
status = 'running' AND wake_at IS NULL AND waiting_for = '[]' AND error_message IS NULL

-- name: which_are_held
-- Of appends: the place, the key of the run, and whether its row may stay as it is.
-- The one row of the result takes one step, where a row for each would take as many.
WITH wanted (place, run_id, token, owner, expected_seq) AS (VALUES
(?, ?, ?, ?, ?)
)
SELECT json_group_array(json_array(place, id, {goes_on}))
FROM wanted CROSS JOIN runs ON runs.run_id = wanted.run_id
WHERE attempts = token AND lease_owner = owner AND {last_seq} = expected_seq;

-- name: is_held_alike
-- The same of one append that leaves the row as it is.
SELECT id FROM runs
WHERE run_id = ? AND attempts = ? AND lease_owner = ? AND {last_seq} = ? AND {goes_on};

-- name: change
-- All that an append can change in a row; a resting run gives up its lease.
WITH changed (
    log, last_seq, updated_at, current_step_index, pipeline_version, metadata, error_message, waiting_for,
    status, is_resting, wake_at, signals_read, pipeline_id, usage
) AS (VALUES
(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
)
UPDATE runs
SET last_seq = changed.last_seq, updated_at = changed.updated_at, current_step_index = changed.current_step_index,
    pipeline_version = coalesce(nullif(changed.pipeline_version, {nothing}), runs.pipeline_version),
    metadata = coalesce(nullif(changed.metadata, {nothing}), runs.metadata),
    error_message = nullif(changed.error_message, {nothing}), waiting_for = changed.waiting_for,
    status = changed.status, wake_at = nullif(changed.wake_at, {nothing}),
    signals_read = coalesce(nullif(changed.signals_read, {nothing}), runs.signals_read),
    pipeline_id = coalesce(nullif(changed.pipeline_id, {nothing}), runs.pipeline_id),
    usage = coalesce(nullif(changed.usage, {nothing}), runs.usage),
    lease_owner = CASE WHEN is_resting THEN NULL ELSE lease_owner END,
    lease_expires_at = CASE WHEN is_resting THEN NULL ELSE lease_expires_at END
FROM changed

-- name: advance
{change}
WHERE run_id = ? AND attempts = ? AND lease_owner = ? AND {last_seq} = ?
RETURNING id;

-- name: advance_many
-- The same for runs that were found to be held.
{change}
WHERE id = log;

-- name: insert_blob
INSERT INTO blobs (digest, data) VALUES (:digest, CAST(:data AS TEXT))
ON CONFLICT (digest) DO NOTHING;

-- name: give_blob
INSERT INTO blobs_of_logs (log, blob, seq) SELECT :log, id, :seq FROM blobs WHERE digest = :digest
ON CONFLICT (log, blob) DO NOTHING;

-- name: insert_signal
INSERT INTO signals (run, number, signal_id, name, payload, at, sent_by)
SELECT :run, 1 + coalesce(max(number), 0), :signal_id, :name, :payload, :at, :sent_by FROM signals WHERE run = :run
ON CONFLICT (run, signal_id) DO NOTHING;

-- name: count_signal
UPDATE runs SET signals = signals + 1 WHERE id = :run;

-- name: held
run_id = :run_id AND attempts = :token AND lease_owner = :owner

-- name: renew
UPDATE runs SET lease_expires_at = :expires_at WHERE {held};

-- name: let_go
last_seq = {last_seq}, updated_at = {updated_at}, current_step_index = {current_step_index},
lease_owner = NULL, lease_expires_at = NULL

-- name: release
UPDATE runs
SET {let_go},
    wake_at = :wake_at, signals_read = coalesce(:signals_read, signals_read)
WHERE {held};

-- name: release_to_wait
UPDATE runs
SET {let_go},
    wake_at = :wake_at, signals_read = coalesce(:signals_read, signals_read),
    status = 'paused', waiting_for = :waiting_for
WHERE {held};

-- name: put_snapshot
INSERT INTO snapshots (run, seq, hash, body)
SELECT id, :seq, :hash, :body FROM runs WHERE {held} AND :seq BETWEEN 1 AND {last_seq}
ON CONFLICT (run) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, body = excluded.body;

-- name: delete_run
DELETE FROM runs WHERE run_id = :run_id RETURNING id;

-- name: who_needs_log
-- The last of its facts that another log shares, if any does; and whether there is a run that goes on with it.
SELECT max(shared), EXISTS (SELECT 1 FROM runs WHERE id = :log) FROM logs WHERE source = :log;

-- name: delete_log
DELETE FROM logs WHERE id = :log RETURNING source;

-- name: delete_audit
DELETE FROM audit WHERE log = :log;

-- name: cut_facts
DELETE FROM facts WHERE log = :log AND seq > :shared;

-- name: cut_blobs
DELETE FROM blobs_of_logs WHERE log = :log AND seq > :shared;

-- name: key_of_run
SELECT id FROM runs WHERE run_id = :run_id

-- name: source
-- The log that has a certain fact of a run: its own, or that of a run it was forked from. And where the run is, and the
-- hash of the fact.
WITH RECURSIVE sources (log, source, shared) AS (
    SELECT id, source, shared FROM logs WHERE id = ({key_of_run})
    UNION ALL
    SELECT logs.id, logs.source, logs.shared FROM sources JOIN logs ON logs.id = sources.source
    WHERE sources.shared >= :shared AND logs.id < sources.log
)
SELECT log,
    (SELECT {last_seq} FROM runs WHERE run_id = :run_id),
    (SELECT hash FROM facts WHERE facts.log = sources.log AND seq = :shared)
FROM sources
WHERE sources.shared IS NULL OR sources.shared < :shared;

-- name: head_of_run
SELECT {head} FROM runs WHERE run_id = :run_id;

-- Claims. Each query finds some of the runs that can be claimed, the first few in the order of claims. What cannot be
-- read of a run (its metadata, say) is not read, so that no damaged row is in the way of the others. All that is in
-- ``selection.is_claimable`` is here again; the indexes are named, since SQLite keeps no statistics of such tables.

-- name: candidate
SELECT -priority, created_at, run_id, attempts

-- name: first_few
ORDER BY priority DESC, created_at, run_id LIMIT :limit

-- name: is_in_queue
(:queues IS NULL OR queue_name IN (SELECT value FROM json_each(:queues)))

-- name: is_known
(:pipeline_names IS NULL OR pipeline_name IN (SELECT value FROM json_each(:pipeline_names)))
AND (:definitions IS NULL OR (pipeline_name, pipeline_version, pipeline_id) IN (
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:definitions)
))

-- name: asked_for
status IN (SELECT value FROM json_each(:statuses)) AND {is_known} AND {is_in_queue}

-- name: has_news
signals > signals_read

-- name: is_ready
-- The condition of three indexes, word for word.
lease_owner IS NULL AND wake_at IS NULL AND status IN ('pending', 'running')

-- name: is_asleep
wake_at IS NOT NULL

-- name: definition
pipeline_name, pipeline_version, pipeline_id

-- name: behind_its_definition
(SELECT +pipeline_name, +pipeline_version, +pipeline_id, 0x7fffffffffffffff FROM runs WHERE id = last.id)

-- Of each status and definition that is ready, or asleep, one run; and those of them that are asked for. It takes a leap
-- along the index from each to the next, so it does not matter how many runs there are that nobody here can drive. (The
-- leap is one seek because it goes to where the last moment of a definition would be, and because of the pluses. In a
-- damaged index it may lead back: no run is found twice, so it comes to an end.)

-- name: ready_kinds
ready (status, id) AS (
    SELECT value, (
        SELECT id FROM runs INDEXED BY runs_ready_since
        WHERE {is_ready} AND status = value ORDER BY {definition}, updated_at LIMIT 1
    )
    FROM json_each(:statuses)
    UNION
    SELECT status, (
        SELECT id FROM runs INDEXED BY runs_ready_since
        WHERE {is_ready} AND status = last.status AND ({definition}, updated_at) > {behind_its_definition}
        ORDER BY {definition}, updated_at LIMIT 1
    )
    FROM ready AS last WHERE id IS NOT NULL
),
ready_kinds (status, {definition}) AS MATERIALIZED (
    SELECT runs.status, {definition} FROM ready CROSS JOIN runs USING (id) WHERE {is_known}
)

-- name: asleep_kinds
asleep (status, id) AS (
    SELECT value, (
        SELECT id FROM runs INDEXED BY runs_asleep
        WHERE {is_asleep} AND status = value ORDER BY {definition}, wake_at LIMIT 1
    )
    FROM json_each(:statuses)
    UNION
    SELECT status, (
        SELECT id FROM runs INDEXED BY runs_asleep
        WHERE {is_asleep} AND status = last.status AND ({definition}, wake_at) > {behind_its_definition}
        ORDER BY {definition}, wake_at LIMIT 1
    )
    FROM asleep AS last WHERE id IS NOT NULL
),
asleep_kinds (status, {definition}) AS MATERIALIZED (
    SELECT runs.status, {definition} FROM asleep CROSS JOIN runs USING (id) WHERE {is_known}
)

-- name: is_wanted
(runs.status, runs.pipeline_name, runs.pipeline_version, runs.pipeline_id)
= (wanted.status, wanted.pipeline_name, wanted.pipeline_version, wanted.pipeline_id)

-- name: needs_no_reason
-- What may be claimed though nothing wakes it.
wake_at IS NULL AND status <> 'paused' AND NOT :is_due

-- name: is_dead
lease_owner IN (SELECT value FROM json_each(:dead_owners))

-- name: is_free
(lease_owner IS NULL OR lease_expires_at <= :now OR {is_dead})

-- name: claimable_run
{candidate} FROM runs
WHERE run_id = :run_id AND {asked_for} AND {is_free}
LIMIT :limit;

-- name: ready
WITH RECURSIVE {ready_kinds}
{candidate} FROM ready_kinds AS wanted CROSS JOIN runs ON runs.id IN (
    SELECT id FROM runs INDEXED BY runs_ready
    WHERE {is_ready} AND {is_wanted}
    {first_few}
)
{first_few};

-- name: ready_in_queue
WITH RECURSIVE {ready_kinds}
{candidate} FROM ready_kinds AS wanted CROSS JOIN json_each(:queues) AS queue CROSS JOIN runs ON runs.id IN (
    SELECT id FROM runs INDEXED BY runs_ready_in_queue
    WHERE {is_ready} AND {is_wanted} AND queue_name = queue.value
    {first_few}
)
{first_few};

-- name: finished
-- Nobody asks for finished runs in general, so no index serves just that.
{candidate} FROM runs INDEXED BY runs_status
WHERE status = :status AND lease_owner IS NULL AND wake_at IS NULL AND {asked_for}
{first_few};

-- name: woken
WITH RECURSIVE {asleep_kinds}
{candidate} FROM asleep_kinds AS wanted CROSS JOIN runs INDEXED BY runs_asleep
WHERE wake_at <= :now AND {is_wanted} AND {is_in_queue} AND {is_free}
{first_few};

-- name: signalled
{candidate} FROM runs INDEXED BY runs_signalled
WHERE {has_news} AND {asked_for} AND {is_free}
{first_few};

-- name: expired
{candidate} FROM runs INDEXED BY runs_expiring
WHERE lease_owner IS NOT NULL AND lease_expires_at <= :now AND {asked_for} AND {needs_no_reason}
{first_few};

-- name: left_by_dead_owners
{candidate} FROM runs INDEXED BY runs_leased
WHERE {is_dead} AND {asked_for} AND {needs_no_reason}
{first_few};

-- name: claim
UPDATE runs
SET attempts = :token, lease_owner = :owner, lease_expires_at = :expires_at
WHERE run_id = :run_id;

-- When the next claim is due: all that is in ``selection.due_at``. Of what is ready, finished or asleep the first of an
-- index is enough; what is signalled or leased is looked at one by one.

-- name: since_ready
(SELECT updated_at FROM runs INDEXED BY runs_ready_since
WHERE {is_ready} AND {is_wanted} AND {is_in_queue} ORDER BY updated_at LIMIT 1)

-- name: since_finished
(SELECT min(updated_at) FROM runs INDEXED BY runs_status
WHERE status = wanted.value AND lease_owner IS NULL AND wake_at IS NULL AND {asked_for})

-- name: first_to_wake
(SELECT wake_at FROM runs INDEXED BY runs_asleep
WHERE {is_asleep} AND {is_wanted} AND lease_owner IS NULL AND NOT {has_news} AND {is_in_queue}
ORDER BY wake_at LIMIT 1)

-- name: wakes_at
CASE WHEN wake_at IS NULL OR {has_news} THEN {updated_at} ELSE wake_at END

-- name: next_due
WITH RECURSIVE {ready_kinds}, {asleep_kinds}
SELECT min(moment) FROM (
    SELECT {since_ready} AS moment FROM ready_kinds AS wanted WHERE NOT :is_due
    UNION ALL
    SELECT {since_finished} FROM json_each(:statuses) AS wanted
    WHERE value NOT IN ('pending', 'running', 'paused') AND NOT :is_due
    UNION ALL
    SELECT {first_to_wake} FROM asleep_kinds AS wanted
    UNION ALL
    SELECT updated_at FROM runs INDEXED BY runs_signalled
    WHERE {has_news} AND lease_owner IS NULL AND {asked_for}
    UNION ALL
    SELECT CASE WHEN {is_dead} THEN {wakes_at} ELSE max({wakes_at}, lease_expires_at) END
    FROM runs INDEXED BY runs_leased
    WHERE lease_owner IS NOT NULL AND {asked_for} AND (wake_at IS NOT NULL OR {has_news} OR {needs_no_reason})
);

-- name: run_is_due
SELECT CASE WHEN lease_owner IS NULL OR {is_dead} THEN {updated_at} ELSE max({updated_at}, lease_expires_at) END
FROM runs WHERE run_id = :run_id AND {asked_for};

-- name: shared_logs
-- The log of a run and those whose beginnings it shares, each as far as the run goes on with it. All of these are older,
-- whatever a damaged row says, so this comes to an end.
shared_logs (log, source, shared, upto) AS (
    SELECT id, source, shared, :upto FROM logs WHERE id = ({key_of_run})
    UNION ALL
    SELECT logs.id, logs.source, logs.shared, min(shared_logs.shared, upto)
    FROM shared_logs JOIN logs ON logs.id = shared_logs.source AND logs.id < shared_logs.log
)

-- name: facts_of_run
-- Not in order: with ORDER BY, SQLite would copy all bodies into a temporary table, in twice the time.
FROM shared_logs CROSS JOIN facts ON facts.log = shared_logs.log AND seq <= upto

-- name: usable_snapshot
FROM snapshots WHERE run = ({key_of_run}) AND :from_snapshot AND seq <= :upto

-- name: load
-- One statement, so all of it is of one instant. Kinds: 0 head, 1 fact, 2 signal, 3 snapshot. The reader sorts by kind
-- and position.
WITH RECURSIVE {shared_logs}
SELECT 0 AS kind, 0 AS position, json_array({head}) AS content, NULL AS hash FROM runs WHERE run_id = :run_id
UNION ALL
SELECT 1, seq, CAST(body AS BLOB), facts.hash {facts_of_run} AND seq > coalesce((SELECT seq {usable_snapshot}), 0)
UNION ALL
SELECT 2, id, json_array(signal_id, name, payload, at, sent_by), NULL FROM signals WHERE run = ({key_of_run})
UNION ALL
SELECT 3, seq, body, hash {usable_snapshot};

-- name: events
WITH RECURSIVE {shared_logs}
SELECT seq, CAST(body AS BLOB), hash {facts_of_run} AND seq > :after;

-- name: blobs
WITH RECURSIVE {shared_logs}
SELECT digest, CAST(data AS BLOB)
FROM json_each(:digests) AS wanted CROSS JOIN blobs ON blobs.digest = wanted.value
WHERE EXISTS (
    SELECT 1 FROM shared_logs CROSS JOIN blobs_of_logs AS given
    ON given.log = shared_logs.log AND given.blob = blobs.id AND given.seq <= upto
);

-- name: signal
SELECT id, :run_id, signal_id, name, payload, at, sent_by FROM signals WHERE run = :run AND signal_id = :signal_id;

-- name: signals
SELECT signals.id, run_id, signal_id, name, payload, at, sent_by
FROM json_each(:known) AS known
CROSS JOIN runs ON run_id = known.value ->> 0
CROSS JOIN signals ON signals.run = runs.id AND number > known.value ->> 1;

-- name: set_system_state
INSERT INTO system_states (key, value) VALUES (:key, :value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: get_system_state
SELECT value FROM system_states WHERE key = :key;

-- name: put_entry
INSERT INTO entries (run_id, kind, key, body, created_at, updated_at)
VALUES (:run_id, :kind, :key, :body, :created_at, :updated_at)
ON CONFLICT (run_id, kind, key) DO UPDATE SET body = excluded.body, updated_at = excluded.updated_at;

-- name: delete_entries
DELETE FROM entries WHERE run_id = :run_id;

-- name: delete_other_entries
DELETE FROM entries
WHERE run_id = :run_id AND kind = :kind AND key NOT IN (SELECT value FROM json_each(:keys));

-- name: entry
-- The columns that sqlite_rows.entry() reads, in its order.
run_id, kind, key, body, created_at, updated_at

-- name: entries_of_saved_run
SELECT {entry} FROM entries WHERE run_id = :run_id AND kind IN ('state', 'run');

-- name: put_saved_run
INSERT INTO saved_runs (
    run_id, pipeline_id, pipeline_name, parent_run_id, status, created_at, updated_at, is_background,
    execution_time_ms, metadata
)
VALUES (
    :run_id, :pipeline_id, :pipeline_name, :parent_run_id, :status, :created_at, :updated_at, :is_background,
    :execution_time_ms, :metadata
)
ON CONFLICT (run_id) DO UPDATE SET
    pipeline_id = excluded.pipeline_id, pipeline_name = excluded.pipeline_name,
    parent_run_id = excluded.parent_run_id, status = excluded.status, created_at = excluded.created_at,
    updated_at = excluded.updated_at, is_background = excluded.is_background,
    execution_time_ms = excluded.execution_time_ms, metadata = excluded.metadata;

-- name: delete_saved_run
DELETE FROM saved_runs WHERE run_id = :run_id;

-- name: read_entries
SELECT {entry} FROM entries

-- name: entries_in_order
ORDER BY created_at DESC, run_id, kind, key LIMIT :limit OFFSET :offset;

-- name: list_runs
SELECT {head} FROM runs

-- name: list_leased
-- Of all runs few are leased, and SQLite would rather walk the others in order than sort these.
SELECT {head} FROM runs INDEXED BY runs_leased

-- name: list_children
-- Those of one run come in order, those of several are sorted; SQLite would rather walk all runs of a status for them.
SELECT {head} FROM runs INDEXED BY runs_parent

-- name: in_order
ORDER BY created_at DESC, run_id LIMIT :limit OFFSET :offset;

-- Lists of all that is known of runs: heads, and the saved runs that have none. Each part is in the order of an index, and
-- SQLite merges them. First the page is made, of what the indexes have, then the rest is read of what is on it. sqlite_lists puts in what stands in capitals.

-- name: has_no_head
NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = saved_runs.run_id)

-- name: of_heads
SELECT FALSE, id, run_id, MOMENT FROM runs WHERE TRUE

-- name: of_unleased
SELECT FALSE, id, run_id, MOMENT FROM runs INDEXED BY runs_unleased WHERE lease_owner IS NULL

-- name: of_leased
SELECT FALSE, id, run_id, MOMENT FROM runs INDEXED BY runs_leased WHERE lease_owner IS NOT NULL

-- name: of_saved
SELECT TRUE, id, run_id, MOMENT FROM saved_runs WHERE {has_no_head}

-- name: has_going_parent
-- Whether the parent of a run has not ended.
(
    EXISTS (
        SELECT 1 FROM runs AS parent
        WHERE parent.run_id = CHILD.parent_run_id AND parent.status NOT IN ('completed', 'failed', 'cancelled')
    )
    OR EXISTS (
        SELECT 1 FROM saved_runs AS parent
        WHERE parent.run_id = CHILD.parent_run_id AND parent.status NOT IN ('completed', 'failed', 'cancelled')
            AND NOT EXISTS (SELECT 1 FROM runs AS head WHERE head.run_id = parent.run_id)
    )
)

-- name: known_runs
WITH page (is_saved, place, named, moment) AS MATERIALIZED (
PARTS
ORDER BY 4 DESC, 3 LIMIT :limit OFFSET :offset
)
SELECT moment, named, (
    SELECT json_group_array(json_array(run_id, kind, key, body, created_at, updated_at)) FROM entries
    WHERE is_saved AND run_id = named AND kind IN ('state', 'run')
), {head}
FROM page LEFT JOIN runs ON NOT is_saved AND runs.id = place;

-- Statistics.

-- name: count_runs
-- By status: how many, how many in the background, and how long they took if they have ended, in milliseconds.
SELECT status, count(*), sum(is_background), sum(updated_at - created_at) / 1000.0
FROM runs INDEXED BY runs_unleased WHERE lease_owner IS NULL GROUP BY status
UNION ALL
SELECT status, count(*), sum(is_background), sum(updated_at - created_at) / 1000.0
FROM runs INDEXED BY runs_leased WHERE lease_owner IS NOT NULL GROUP BY status
UNION ALL
SELECT status, count(*), sum(is_background), total(execution_time_ms)
FROM saved_runs INDEXED BY saved_runs_updated WHERE {has_no_head} GROUP BY status
UNION ALL
SELECT NULL, (SELECT count(*) FROM runs WHERE created_at >= :since)
    + (SELECT count(*) FROM saved_runs WHERE created_at >= :since AND {has_no_head}), NULL, NULL;

-- name: runs_without_spans
-- Those whose spans are not those of their log as it is now, and whose log has grown since a moment; in the order of
-- their keys, after one of them.
SELECT id, run_id, created_at FROM runs LEFT JOIN span_marks ON run = id
WHERE id > :after AND seq IS NOT {last_seq} AND {updated_at} >= :since
    AND (:pipeline_name IS NULL OR pipeline_name = :pipeline_name)
ORDER BY id LIMIT :limit;

-- name: delete_spans
DELETE FROM spans WHERE run = :run;

-- name: mark_spans
-- Unless the key is that of another run since.
INSERT INTO span_marks (run, seq)
SELECT id, :seq FROM runs WHERE id = :run AND run_id = :run_id AND created_at = :created_at
ON CONFLICT (run) DO UPDATE SET seq = excluded.seq
RETURNING run;

-- name: put_span
INSERT INTO spans (run, span_id, name, status, start_time, end_time) VALUES (?, ?, ?, ?, ?, ?);

-- name: is_of_log
-- Of spans: whether nobody has saved one with this id.
(
    run NOT IN (SELECT runs.id FROM entries CROSS JOIN runs USING (run_id) WHERE kind = 'span')
    OR NOT EXISTS (
        SELECT 1 FROM runs CROSS JOIN entries USING (run_id)
        WHERE runs.id = spans.run AND kind = 'span' AND key = span_id
    )
)

-- name: count_spans
SELECT name, status, count(*), total(end_time - start_time)
FROM spans WHERE start_time BETWEEN :first AND :last AND {is_of_log} GROUP BY name, status;

-- name: count_spans_of_pipeline
SELECT name, spans.status, count(*), total(end_time - start_time)
FROM runs CROSS JOIN spans ON spans.run = runs.id
WHERE pipeline_name = :pipeline_name AND start_time BETWEEN :first AND :last AND {is_of_log}
GROUP BY name, spans.status;

-- name: is_of_pipeline
-- Of entries.
(
    :pipeline_name IS NULL
    OR EXISTS (SELECT 1 FROM runs WHERE runs.run_id = entries.run_id AND pipeline_name = :pipeline_name)
    OR EXISTS (
        SELECT 1 FROM saved_runs
        WHERE saved_runs.run_id = entries.run_id AND pipeline_name = :pipeline_name AND {has_no_head}
    )
)

-- name: count_saved_spans
WITH saved (name, status, start_time, end_time) AS (
    SELECT body ->> '$.name', body ->> '$.status', body ->> '$.start_time', body ->> '$.end_time'
    FROM entries WHERE kind = 'span' AND {is_of_pipeline}
)
SELECT name, status, count(*), total(end_time - start_time)
FROM saved WHERE end_time IS NOT NULL AND start_time BETWEEN :first AND :last GROUP BY name, status;

-- name: signs_of_change
-- What changes when something happens to a run, a renewal of its lease left aside.
SELECT run_id, attempts, {last_seq}, status, lease_owner, signals
FROM runs WHERE run_id IN (SELECT value FROM json_each(:run_ids));

-- name: pages
-- How many bytes the file has, and how many of them nothing uses.
SELECT page_count * page_size, freelist_count * page_size
FROM pragma_page_count, pragma_page_size, pragma_freelist_count;

-- name: tables
SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name;

-- name: table_sizes
SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) WHERE aggregate = TRUE GROUP BY tbl_name;
