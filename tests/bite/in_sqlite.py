"""Bugs in ``SQLiteBackend`` and in the writer that commits for many."""

from __future__ import annotations

from tests.bite.bug import Bug

SQL = "backends/sql/sqlite.sql"
STORE = "backends/sqlite.py"
WORK = "backends/sqlite_work.py"
ROWS = "backends/sqlite_rows.py"
FILE = "backends/sqlite_file.py"
COPY = "backends/sqlite_copy.py"
WATCH = "backends/sqlite_watch.py"
COMMIT = "backends/group_commit.py"
CONTRACT = "tests/contract/test_sqlite.py::TestSQLiteBackend::"
TESTS = "tests/backends/test_sqlite.py::"
COMMITS = "tests/backends/test_group_commit.py::"
PLACE = "tests/backends/test_sqlite_place.py::"
POWER = "tests/crash/faults/test_power_cut.py::"

BUGS = (
    Bug(
        "sqlite.damaged-moment",
        "one flipped bit in the head of one run keeps everybody from listing and checking all others",
        ROWS,
        "        nothing |= {place: nearest(row[place]) for place in (4, 5, 15, 19)}\n",
        "",
        (TESTS + "test_one_damaged_moment_keeps_nobody_from_the_other_runs",),
    ),
    Bug(
        "sqlite.damaged-head-of-nobody",
        "who asks for a run whose head is damaged does not hear which one that is, and waits for a status for ever",
        "backends/sqlite_rows.py",
        "if loaded.status not in RUN_STATUSES:",
        "if False:",
        ("tests/runtime/test_verify.py::test_a_head_that_is_damaged_on_disk_is_told",),
    ),
    Bug(
        "sqlite.damaged-text-stays-open",
        "the connection that stumbled over a damaged text outlives the store",
        "backends/sqlite_readers.py",
        "        clear_frames(error.__traceback__)",
        "        pass",
        (TESTS + "test_one_damaged_text_keeps_nobody_from_the_other_runs",),
    ),
    Bug(
        "sqlite.every-run-ties",
        "every_run: where a page ends among runs of one age, the others of that age are left out",
        STORE,
        "(created_at < :last_at OR run_id > :last)",
        "created_at < :last_at",
        (CONTRACT + "test_every_run_comes_once_while_others_come_and_go",),
    ),
    Bug(
        "sqlite.append-token",
        "G3: whoever lost the run can still write",
        SQL,
        "WHERE run_id = ? AND attempts = ? AND lease_owner = ? AND {last_seq} = ?\nRETURNING",
        "WHERE run_id = ? AND (attempts = ? OR lease_owner = ? OR TRUE) AND {last_seq} = ?\nRETURNING",
        (CONTRACT + "test_a_lost_lease_can_no_longer_write",),
    ),
    Bug(
        "sqlite.append-owner",
        "G3: who owned a run that was deleted writes to the new one of that name, whose tokens begin anew",
        SQL,
        "WHERE run_id = ? AND attempts = ? AND lease_owner = ? AND {last_seq} = ? AND {goes_on}",
        "WHERE run_id = ? AND attempts = ? AND lease_owner <> ? AND {last_seq} = ? AND {goes_on}",
        (CONTRACT + "test_a_recreated_run_refuses_the_owner_of_the_one_before",),
    ),
    Bug(
        "sqlite.append-seq",
        "append: a caller that has not seen the end of the log writes behind it",
        SQL,
        "lease_owner = ? AND {last_seq} = ? AND {goes_on}",
        "lease_owner = ? AND {last_seq} >= ? AND {goes_on}",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "sqlite.append-seq-at-rest",
        "append: a caller that has not seen the end of the log ends the run",
        SQL,
        "AND {last_seq} = ?\n",
        "AND {last_seq} >= ?\n",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "sqlite.append-half",
        "append: one that is refused says so after it has written",
        WORK,
        """        if not found:
            _refuse_append(db, self.lease, self.expected_seq)
        log = found[0][0]
        _insert_facts(db, log, self.records, self.update)
""",
        """        log = (found or db.execute(_SQL["key_of_run"], {"run_id": self.run_id}).fetchall())[0][0]
        give_blobs(db, log, self.expected_seq + 1, self.blobs)
        if not found:
            _refuse_append(db, self.lease, self.expected_seq)
        _insert_facts(db, log, self.records, self.update)
""",
        (CONTRACT + "test_a_refused_append_leaves_no_blobs",),
    ),
    Bug(
        "sqlite.rest-keeps-lease",
        "append: a run that rests keeps its lease, and its owner can go on writing",
        SQL,
        "    lease_owner = CASE WHEN is_resting THEN NULL ELSE lease_owner END,\n",
        "",
        (CONTRACT + "test_a_resting_run_gives_up_its_lease",),
    ),
    Bug(
        "sqlite.usual-leaves-status",
        "append: a run that has ended and goes on is shown as one that has ended",
        SQL,
        "status = 'running' AND wake_at IS NULL AND",
        "wake_at IS NULL AND",
        (CONTRACT + "test_a_finished_run_that_goes_on_is_claimed_as_any_other",),
    ),
    Bug(
        "sqlite.usual-leaves-error",
        "append: an error that is over stays in the head",
        SQL,
        " AND wake_at IS NULL AND waiting_for = '[]' AND error_message IS NULL\n",
        " AND wake_at IS NULL AND waiting_for = '[]'\n",
        (CONTRACT + "test_an_update_clears_each_field_by_itself",),
    ),
    Bug(
        "sqlite.usual-leaves-waits",
        "append: a run that goes on is shown as one that waits",
        SQL,
        " AND wake_at IS NULL AND waiting_for = '[]' AND error_message IS NULL\n",
        " AND wake_at IS NULL AND error_message IS NULL\n",
        (CONTRACT + "test_an_update_clears_each_field_by_itself",),
    ),
    Bug(
        "sqlite.usual-leaves-time",
        "append: a run that goes on still has the time at which it wanted to be woken",
        SQL,
        " AND wake_at IS NULL AND waiting_for = '[]' AND error_message IS NULL\n",
        " AND waiting_for = '[]' AND error_message IS NULL\n",
        (CONTRACT + "test_an_update_clears_each_field_by_itself",),
    ),
    Bug(
        "sqlite.release-goes-back",
        "release: a run that is let go is shown as far as it was when its row was written last",
        SQL,
        "last_seq = {last_seq}, updated_at = {updated_at}, current_step_index = {current_step_index},\n",
        "",
        (CONTRACT + "test_a_released_run_is_as_far_as_its_last_append",),
    ),
    Bug(
        "sqlite.finished-claimable",
        "claim: finished runs can be claimed again, once a signal was posted to them",
        SQL,
        "status IN (SELECT value FROM json_each(:statuses)) AND {is_known} AND",
        "{is_known} AND",
        (CONTRACT + "test_finished_and_paused_runs_are_not_claimed_unasked",),
    ),
    Bug(
        "sqlite.definitions-by-version",
        "claim: a run of the same version with another structure is claimed",
        SQL,
        "SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:definitions)",
        "SELECT value ->> 0, value ->> 1, pipeline_id FROM json_each(:definitions)",
        (CONTRACT + "test_a_claim_takes_the_definitions_it_asks_for",),
    ),
    Bug(
        "sqlite.walk-not-leap",
        "G14: a claim walks through all runs that nobody here can drive",
        SQL,
        "0x7fffffffffffffff FROM runs",
        "updated_at FROM runs",
        ("tests/backends/test_sqlite.py::test_what_nobody_asks_for_costs_nothing[ready]",),
    ),
    Bug(
        "sqlite.paused-claimable",
        "claim: a paused run is claimed though nobody has answered, when the lease of who looked at it expires",
        SQL,
        "wake_at IS NULL AND status <> 'paused' AND NOT :is_due",
        "wake_at IS NULL AND NOT :is_due",
        (CONTRACT + "test_a_paused_run_whose_owner_died_waits_on",),
    ),
    Bug(
        "sqlite.priority-ignored",
        "claim: of many runs the oldest are looked at, whatever their priority",
        SQL,
        "ORDER BY priority DESC, created_at, run_id LIMIT :limit",
        "ORDER BY created_at, run_id LIMIT :limit",
        (CONTRACT + "test_higher_priority_goes_first_then_the_older_run",),
    ),
    Bug(
        "sqlite.order-of-ways-ignored",
        "claim: what is woken goes before what is ready, whatever the priority",
        WORK,
        "sorted(set(_candidates(db, query, now)))[: query.limit]",
        "list(dict.fromkeys(_candidates(db, query, now)))[: query.limit]",
        (CONTRACT + "test_higher_priority_goes_first_then_the_older_run",),
    ),
    Bug(
        "sqlite.expiry-too-late",
        "claim: at the very moment at which a lease expires nobody can have the run",
        SQL,
        "WHERE lease_owner IS NOT NULL AND lease_expires_at <= :now",
        "WHERE lease_owner IS NOT NULL AND lease_expires_at < :now",
        (CONTRACT + "test_a_leased_run_cannot_be_claimed_before_the_lease_expires",),
    ),
    Bug(
        "sqlite.expiry-too-late-by-id",
        "claim: who asks for one run does not get it at the very moment at which its lease expires",
        SQL,
        "(lease_owner IS NULL OR lease_expires_at <= :now OR",
        "(lease_owner IS NULL OR lease_expires_at < :now OR",
        (CONTRACT + "test_a_leased_run_cannot_be_claimed_before_the_lease_expires",),
    ),
    Bug(
        "sqlite.attempts-not-counted",
        "claim: it counts no attempt, so two owners have one token",
        SQL,
        "SET attempts = :token, lease_owner = :owner",
        "SET lease_owner = :owner",
        (CONTRACT + "test_a_claim_takes_the_run_and_counts_an_attempt",),
    ),
    Bug(
        "sqlite.stale-release",
        "release: whoever lost the run takes it from who has it now",
        SQL,
        "    wake_at = :wake_at, signals_read = coalesce(:signals_read, signals_read)\nWHERE {held};",
        "    wake_at = :wake_at, signals_read = coalesce(:signals_read, signals_read)\nWHERE run_id = :run_id;",
        (CONTRACT + "test_releasing_a_lost_lease_changes_nothing",),
    ),
    Bug(
        "sqlite.stale-snapshot",
        "put_snapshot: whoever lost the run replaces the snapshot",
        SQL,
        "FROM runs WHERE {held} AND :seq BETWEEN",
        "FROM runs WHERE run_id = :run_id AND :seq BETWEEN",
        (CONTRACT + "test_a_snapshot_by_whoever_lost_the_run_is_not_kept",),
    ),
    Bug(
        "sqlite.signal-counted-twice",
        "post: the same signal once more counts as news",
        WORK,
        """if not db.execute(_SQL["insert_signal"], values | run).rowcount:""",
        """if not db.execute(_SQL["insert_signal"], values | run):""",
        (CONTRACT + "test_the_same_signal_again_is_not_counted",),
    ),
    Bug(
        "sqlite.filter-dropped",
        "query_runs: the filter on metadata is not asked",
        STORE,
        '        "json_contains(metadata, :metadata)": query.metadata,\n',
        "",
        (CONTRACT + "test_listings_filter_by_a_part_of_the_metadata",),
    ),
    Bug(
        "sqlite.children-of-none",
        "query_runs: who asks for the children of no run gets all runs",
        STORE,
        "has_parents, parents = query.parent_run_ids is not None,",
        "has_parents, parents = bool(query.parent_run_ids),",
        (CONTRACT + "test_listings_show_the_children_of_several_runs",),
    ),
    Bug(
        "sqlite.children-along-statuses",
        "G13: who asks for the children of some runs walks through all runs of a status",
        SQL,
        "SELECT {head} FROM runs INDEXED BY runs_parent",
        "SELECT {head} FROM runs",
        ("tests/backends/test_sqlite_lists.py::test_children_are_found_by_their_parents",),
    ),
    Bug(
        "sqlite.delete-leaves-log",
        "delete_run: the log of a deleted run stays in the file",
        WORK,
        """    while log is not None:
        log =""",
        """    if False:
        log =""",
        ("tests/backends/test_sqlite_upkeep.py::test_of_a_deleted_run_only_what_forks_share_is_left",),
    ),
    Bug(
        "sqlite.delete-takes-prefix",
        "G9: deleting a run takes from its forks what they share",
        WORK,
        "    if shared is None:\n        source",
        "    if shared is None or not has_run:\n        source",
        (CONTRACT + "test_a_fork_outlives_its_source",),
    ),
    Bug(
        "sqlite.delete-takes-last-fact",
        "G9: deleting a run takes from its forks the last record that they share",
        SQL,
        "DELETE FROM facts WHERE log = :log AND seq > :shared;",
        "DELETE FROM facts WHERE log = :log AND seq >= :shared;",
        (CONTRACT + "test_a_fork_outlives_its_source",),
    ),
    Bug(
        "sqlite.delete-takes-blobs",
        "G9: deleting a run takes from its forks the large values that they share",
        SQL,
        "DELETE FROM blobs_of_logs WHERE log = :log AND seq > :shared;",
        "DELETE FROM blobs_of_logs WHERE log = :log;",
        (CONTRACT + "test_blobs_stay_as_long_as_a_fork_shares_the_log_they_were_given_to",),
    ),
    Bug(
        "sqlite.fork-too-long",
        "G9: a fork that is read up to a point goes on with what its source did later",
        SQL,
        "SELECT logs.id, logs.source, logs.shared, min(shared_logs.shared, upto)",
        "SELECT logs.id, logs.source, logs.shared, upto",
        (CONTRACT + "test_a_fork_begins_as_its_source_does", CONTRACT + "test_a_fork_and_its_source_go_on_apart"),
    ),
    Bug(
        "sqlite.load-until",
        "load: it leaves out the record that is asked for last",
        SQL,
        "ON facts.log = shared_logs.log AND seq <= upto",
        "ON facts.log = shared_logs.log AND seq < upto",
        (CONTRACT + "test_load_until_leaves_out_later_records",),
    ),
    Bug(
        "sqlite.snapshot-beyond",
        "load: a state of the past is made from a snapshot of later",
        SQL,
        "AND :from_snapshot AND seq <= :upto",
        "AND :from_snapshot",
        (CONTRACT + "test_a_snapshot_beyond_the_end_that_is_asked_for_is_left_out",),
    ),
    Bug(
        "sqlite.events-twice",
        "read_events: whoever follows a log gets the last record once more",
        SQL,
        "{facts_of_run} AND seq > :after;",
        "{facts_of_run} AND seq >= :after;",
        (CONTRACT + "test_events_are_read_from_where_the_reader_left_off",),
    ),
    Bug(
        "sqlite.no-wal",
        "the write-ahead log is not turned on: readers and writers hold each other up",
        FILE,
        '        self._insist(db, "PRAGMA journal_mode = WAL")\n',
        "",
        (TESTS + "test_a_log_that_was_made_longer_is_read_after_a_crash",),
    ),
    Bug(
        "sqlite.left-log-not-settled",
        "G4: what was written behind a sync that failed is gone on with, by whoever has read before it writes",
        FILE,
        "left=left)",
        'left=b"")',
        (TESTS + "test_a_log_that_was_left_is_settled_before_anything_is_written",),
    ),
    Bug(
        "sqlite.added-to-left-log",
        "G4: while somebody reads, commits go behind what a sync has failed for, and are believed",
        FILE,
        "if self._log.header() == self._left:",
        "if self._log.header() != self._left:",
        (TESTS + "test_a_log_that_cannot_begin_anew_is_written_again",),
    ),
    Bug(
        "sqlite.left-log-settled-without-lock",
        "a log that others have left is checkpointed while they write, which old SQLite does not survive",
        FILE,
        '                guard.execute("BEGIN IMMEDIATE")\n',
        "                pass\n",
        (TESTS + "test_a_log_is_not_settled_while_others_write",),
    ),
    Bug(
        "sqlite.stranger-without-a-name",
        "the tables of another application that has not put its number into the header are put among ours",
        FILE,
        "if application or version or has_tables:",
        "if application or version:",
        (TESTS + "test_another_applications_database_is_refused_and_left_alone",),
    ),
    Bug(
        "sqlite.does-not-wait-for-disk",
        "G4: with synchronous=full, too, a commit does not wait for the disk",
        FILE,
        'db.execute(f"PRAGMA synchronous = {self._synchronous}")',
        'db.execute("PRAGMA synchronous = normal")',
        (POWER + "test_a_power_cut_loses_nothing_that_was_acknowledged[sqlite]",),
    ),
    Bug(
        "sqlite.synchronous-ignored",
        "synchronous=normal is not told to SQLite, and each commit waits for the disk",
        FILE,
        '        db.execute(f"PRAGMA synchronous = {self._synchronous}")\n',
        "",
        (POWER + "test_without_waiting_for_the_disk_a_power_cut_takes_only_the_end",),
    ),
    Bug(
        "sqlite.checkpoint-without-lock",
        "checkpoints are made while other processes write, which old SQLite does not survive",
        FILE,
        """        with self._locked():
            self._checkpointer.execute""",
        """        if True:
            self._checkpointer.execute""",
        (TESTS + "test_checkpoints_are_made_under_the_lock_of_writers_only",),
    ),
    Bug(
        "sqlite.newer-schema-taken",
        "a database that a newer version wrote is written to",
        FILE,
        "if application == APPLICATION_ID and version <= newest:",
        "if application == APPLICATION_ID:",
        (TESTS + "test_a_newer_schema_is_refused_and_left_alone",),
    ),
    Bug(
        "sqlite.refusal-undoes-all",
        "group commit: the refusal of one caller fails all that share its transaction",
        COMMIT,
        """        except self._refusal as refusal:
            return None, refusal
""",
        """        except self._refusal:
            db.rollback()
            raise
""",
        (COMMITS + "test_a_refusal_is_its_callers_own",),
    ),
    Bug(
        "sqlite.failure-undoes-all",
        "group commit: work that fails takes with it all that shares its transaction",
        COMMIT,
        """            db.rollback()
            db.execute("BEGIN IMMEDIATE")
            outcomes = [self._do_apart(db, job) for job in jobs]
""",
        """            db.rollback()
            raise
""",
        (COMMITS + "test_work_that_fails_half_way_leaves_no_trace_and_hurts_nobody",),
    ),
    Bug(
        "sqlite.half-work-stays",
        "group commit: what work did before it failed is committed with the others'",
        COMMIT,
        '            db.execute("ROLLBACK TO job")\n',
        "",
        (COMMITS + "test_work_that_fails_half_way_leaves_no_trace_and_hurts_nobody",),
    ),
    Bug(
        "sqlite.answers-before-commit",
        "G4: callers are told that it is durable before it is",
        COMMIT,
        """        db.execute("COMMIT")
        return outcomes""",
        """        self._answer(jobs, outcomes)
        db.execute("COMMIT")
        return outcomes""",
        (COMMITS + "test_a_commit_that_fails_is_told_to_all_and_the_next_succeeds",),
    ),
    Bug(
        "sqlite.failed-commit-swallowed",
        "G4: a commit that fails is reported as a success",
        COMMIT,
        """        db.execute("COMMIT")
        return outcomes""",
        """        try:
            db.execute("COMMIT")
        except sqlite3.Error:
            db.rollback()
        return outcomes""",
        (COMMITS + "test_a_commit_that_fails_is_told_to_all_and_the_next_succeeds",),
    ),
    Bug(
        "sqlite.created-without-signals",
        "G4: a run that is imported together with others lacks its signals",
        "backends/sqlite_together.py",
        "create.run.prefix is not None or bool(create.signals)",
        "create.run.prefix is not None",
        (CONTRACT + "test_runs_created_at_once_have_their_own_signals",),
    ),
    Bug(
        "sqlite.lost-file-acknowledged",
        "G4: what was written to a database that others have replaced is acknowledged",
        COMMIT,
        "            self._open.check()\n",
        "",
        (PLACE + "test_a_commit_to_what_was_replaced_is_not_acknowledged",),
    ),
    Bug(
        "sqlite.replaced-file-opened",
        "what was put in the place of an open database is opened beside a write-ahead log that is not its own",
        FILE,
        "        self._check_place()  # a write-ahead log that is not its own would damage another file\n",
        "",
        (PLACE + "test_a_commit_to_what_was_replaced_is_not_acknowledged",),
    ),
    Bug(
        "sqlite.look-takes-locks",
        "a store that is closed takes the locks of another store of the process along; the log is removed under it",
        "backends/sqlite_place.py",
        "os.O_PATH",
        "os.O_RDONLY",
        (PLACE + "test_another_store_of_the_process_that_is_closed_takes_no_lock_along",),
    ),
    Bug(
        "sqlite.link-not-followed",
        "a symbolic link that leads to another database since is taken for the one that is open",
        "backends/sqlite_place.py",
        "if os.readlink(self._link) == self.path:",
        "if os.readlink(self._link):",
        (PLACE + "test_a_link_that_leads_elsewhere_is_noticed",),
    ),
    Bug(
        "sqlite.opened-while-it-is-closed",
        "shutdown: who comes meanwhile opens the file that another thread is closing",
        COMMIT,
        "            after.join()\n",
        "            pass\n",
        (COMMITS + "test_what_comes_after_a_stop_waits_until_the_database_is_closed",),
    ),
    Bug(
        "sqlite.backup-in-place",
        "backup: it appears under its name before all of it is there",
        COPY,
        """(str(part),))
            publish(part, target, stopped)
""",
        """(str(target),))
            sync_file(target)
""",
        ("tests/backends/test_sqlite_upkeep.py::test_a_copy_that_is_stopped_does_not_go_on",),
    ),
    Bug(
        "sqlite.wait-begins-seen",
        "watch: what has changed between the beginning of a wait and the next look is taken as seen",
        WATCH,
        "if run_id not in before or before[run_id] != sign:",
        "if run_id in before and before[run_id] != sign:",
        ("tests/backends/test_sqlite_watch.py::test_what_changes_between_the_beginning_of_a_wait_and_a_look",),
    ),
    Bug(
        "sqlite.watch-mixes-connections",
        "watch: the versions that two connections tell are compared with each other",
        WATCH,
        "        if seen != self._seen:\n",
        "        if self._seen is None or seen[1] != self._seen[1]:\n",
        ("tests/backends/test_sqlite_watch.py::test_what_changes_before_the_file_is_opened_again",),
    ),
)
