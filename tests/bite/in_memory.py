"""Bugs in ``InMemoryBackend``."""

from __future__ import annotations

from tests.bite.bug import Bug

MEMORY = "backends/memory.py"
DUE = "backends/memory_due.py"
LAW = "tests/backends/test_memory_due.py::test_what_is_due_is_found_among_all_runs"
CONTRACT = "tests/contract/test_memory.py::TestInMemoryBackend::"

BUGS = (
    Bug(
        "memory.append-token",
        "G3: whoever lost the run can still write, as long as the log has not moved on",
        MEMORY,
        "if last_seq != expected_seq or not transition.is_held(self._summary, lease):",
        "if last_seq != expected_seq:",
        (CONTRACT + "test_a_lost_lease_can_no_longer_write",),
    ),
    Bug(
        "memory.append-seq",
        "append: a caller that has not seen the end of the log writes behind it",
        MEMORY,
        "if last_seq != expected_seq or not transition.is_held(self._summary, lease):",
        "if not transition.is_held(self._summary, lease):",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "memory.append-half",
        "append: of one that is refused the records stay",
        MEMORY,
        """            may_be_due = run.advance(lease, len(records), expected_seq, update)
            self._extend(run, records, blobs)
""",
        """            self._extend(run, records, blobs)
            may_be_due = run.advance(lease, len(records), expected_seq, update)
""",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "memory.append-drops-signals-read",
        "append: that the run has read its signals is forgotten, if its status stays",
        MEMORY,
        "if update.change is GOES_ON and",
        'if update.change.status == "running" and',
        (CONTRACT + "test_an_update_clears_what_it_leaves_out",),
    ),
    Bug(
        "memory.create-replaces",
        "create_run: it puts a new run in the place of one that exists",
        MEMORY,
        "            if run_id in self._runs:\n",
        "            if run_id in self._runs and run.prefix is not None:\n",
        (CONTRACT + "test_a_taken_run_id_is_refused",),
    ),
    Bug(
        "memory.claim-not-kept",
        "claim: it hands out a lease and does not write it down",
        MEMORY,
        "self._change(self._runs[summary.run_id], claimed)",
        "self._change(self._runs[summary.run_id], summary)",
        (CONTRACT + "test_simultaneous_claimants_get_each_run_once",),
    ),
    Bug(
        "memory.finished-not-claimable",
        "claim: finished runs cannot be claimed by who asks for them, so none can be tried again",
        MEMORY,
        "return query.run_id is not None or bool(query.statuses & TERMINAL)",
        "return query.run_id is not None",
        (CONTRACT + "test_a_claim_takes_the_statuses_it_asks_for",),
    ),
    Bug(
        "memory.tried-again-not-claimable",
        "append: a run that has ended and goes on is claimed no more",
        MEMORY,
        """            if may_be_due:
                self._due.put(run.summary)
""",
        """            if may_be_due and update.change.status in TERMINAL:
                self._due.put(run.summary)
""",
        (CONTRACT + "test_a_finished_run_that_goes_on_is_claimed_as_any_other",),
    ),
    Bug(
        "memory.due-not-told",
        "append: a run that goes on is claimed when it wanted to wake up before, and not when its owner has died",
        MEMORY,
        """ == "running" and self._summary.wake_at is None""",
        """ == "running\"""",
        (CONTRACT + "test_a_run_whose_owner_dies_is_due_when_it_has_written_last",),
    ),
    Bug(
        "memory.due-clock-set-back",
        "claim: after the clock was set back, what was due before is in the way of what is due now",
        DUE,
        "first = islice((head for head in heads if selection.is_claimable(head, query, now)), query.limit)",
        "first = islice(heads, query.limit)",
        (LAW,),
    ),
    Bug(
        "memory.due-late-owner",
        "next_due: an owner that writes after its lease has expired hides a run that is due before",
        DUE,
        "            if first is not None and first <= moment:\n",
        "            if first is not None:\n",
        (LAW,),
    ),
    Bug(
        "memory.due-ready-twice",
        "claim: a run that is ready at once is taken for two when its moment comes, and is there when it is not",
        DUE,
        "                if not place.is_ready:\n",
        "                if True:\n",
        (LAW,),
    ),
    Bug(
        "memory.due-dead-owners",
        "claim: what dead owners have left is claimed when their leases expire",
        DUE,
        "(*first, *self._leased_to(query.dead_owners))",
        "first",
        (LAW,),
    ),
    Bug(
        "memory.signal-counted-twice",
        "post: the same signal once more counts as news",
        MEMORY,
        "            if kept is None:\n",
        "            if True:\n",
        (CONTRACT + "test_the_same_signal_again_is_not_counted",),
    ),
    Bug(
        "memory.stale-release",
        "release: whoever lost the run takes it from who has it now",
        MEMORY,
        """            run = self._held(lease)
            if run is None:
                return
""",
        """            run = self._runs.get(lease.run_id)
            if run is None:
                return
""",
        (CONTRACT + "test_releasing_a_lost_lease_changes_nothing",),
    ),
    Bug(
        "memory.stale-snapshot",
        "put_snapshot: whoever lost the run replaces the snapshot",
        MEMORY,
        """            run = self._held(lease)
            if run is not None and 1 <=""",
        """            run = self._runs.get(lease.run_id)
            if run is not None and 1 <=""",
        (CONTRACT + "test_a_snapshot_by_whoever_lost_the_run_is_not_kept",),
    ),
    Bug(
        "memory.load-until",
        "load: it leaves out the record that is asked for last",
        MEMORY,
        "self.records(snapshot.seq if snapshot else 0, until)",
        "self.records(snapshot.seq if snapshot else 0, until and until - 1)",
        (CONTRACT + "test_load_until_leaves_out_later_records",),
    ),
    Bug(
        "memory.snapshot-beyond",
        "load: a state of the past is made from a snapshot of later",
        MEMORY,
        """        if snapshot is not None and until is not None and snapshot.seq > until:
            snapshot = None
""",
        "",
        (CONTRACT + "test_a_snapshot_beyond_the_end_that_is_asked_for_is_left_out",),
    ),
    Bug(
        "memory.events-twice",
        "read_events: whoever follows a log gets the last record once more",
        MEMORY,
        "run.records(after, None",
        "run.records(max(after - 1, 0), None",
        (CONTRACT + "test_events_are_read_from_where_the_reader_left_off",),
    ),
    Bug(
        "memory.fork-in-common",
        "G9: a fork and its source write into one log",
        MEMORY,
        "self._lines = source._lines[:last_seq]",
        "self._lines = source._lines",
        (CONTRACT + "test_a_fork_and_its_source_go_on_apart",),
    ),
    Bug(
        "memory.fork-without-blobs",
        "G9: a fork lacks the large values of its past",
        MEMORY,
        "for digest, given in source.blobs.items() if given[0] <= last_seq}",
        "for digest, given in source.blobs.items() if given[0] < last_seq}",
        (CONTRACT + "test_a_fork_has_the_blobs_of_what_it_shares",),
    ),
    Bug(
        "memory.blob-since-later",
        "append: a value that is given once more counts as new, and forks from between lack it",
        MEMORY,
        "run.blobs.setdefault(blob.digest, (since, data))",
        "run.blobs[blob.digest] = since, data",
        (CONTRACT + "test_a_blob_that_is_given_again_is_there_since_the_first_time",),
    ),
    Bug(
        "memory.delete-half",
        "delete_run: a deleted run is still there for who claims",
        MEMORY,
        "            self._due.remove(run_id)\n",
        "",
        (CONTRACT + "test_a_deleted_run_is_gone",),
    ),
    Bug(
        "memory.children-of-the-deleted",
        "delete_run: a deleted run is still there for who asks for the children of its parent",
        MEMORY,
        "                self._children[parent].pop(run_id)\n",
        "                self._children[parent].get(run_id)\n",
        (CONTRACT + "test_listings_show_the_children_of_several_runs",),
    ),
    Bug(
        "memory.shares-with-caller",
        "create_run: what a caller does to its metadata later changes the run",
        MEMORY,
        "heads.load_summary(heads.dump_summary(transition.created(run, owner, ttl)))",
        "transition.created(run, owner, ttl)",
        (CONTRACT + "test_what_a_caller_does_later_to_its_arguments_changes_nothing",),
    ),
)
