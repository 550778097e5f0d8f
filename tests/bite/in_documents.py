"""Bugs in the verbs over a user's three methods."""

from __future__ import annotations

from tests.bite.bug import Bug

DOCUMENTS = "abc/documents.py"
DOCUMENT = "abc/document.py"
CONTRACT = "tests/contract/test_three_methods.py::TestDictBackend::"
TESTS = "tests/contract/test_three_methods.py::"

BUGS = (
    Bug(
        "documents.append-token",
        "G3: whoever lost the run can still write, as long as the log has not moved on",
        DOCUMENTS,
        "transition.check_append(document.summary, lease, expected_seq)",
        "transition.check_append(document.summary, document.summary.lease or lease, expected_seq)",
        (CONTRACT + "test_a_lost_lease_can_no_longer_write",),
    ),
    Bug(
        "documents.append-seq",
        "append: a caller that has not seen the end of the log writes behind it",
        DOCUMENTS,
        "transition.check_append(document.summary, lease, expected_seq)",
        "transition.check_append(document.summary, lease, document.summary.last_seq)",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "documents.append-out-of-turn",
        "append: two at the same time overwrite each other",
        DOCUMENTS,
        "    @_in_turn\n    async def append(",
        "    async def append(",
        (
            TESTS + "TestJsonFileBackend::test_of_simultaneous_appends_one_wins",
            TESTS + "test_a_write_that_has_begun_outlives_its_cancelled_caller",
        ),
    ),
    Bug(
        "documents.append-without-head",
        "append: the records are saved, and the head is as it was",
        DOCUMENTS,
        "await self._write(grown.with_head(transition.advanced(document.summary, last_seq, update)))",
        "await self._write(grown)",
        (CONTRACT + "test_an_append_updates_the_head",),
    ),
    Bug(
        "documents.run-before-index",
        "create_run: a crash between the two writes leaves a run that no listing knows",
        DOCUMENTS,
        """        run_ids = await self._run_ids()
        if run_id not in run_ids:
            await self._write_index([*run_ids, run_id])
        await self._write(document.with_records(run.records, run.blobs))
""",
        """        await self._write(document.with_records(run.records, run.blobs))
        run_ids = await self._run_ids()
        if run_id not in run_ids:
            await self._write_index([*run_ids, run_id])
""",
        (TESTS + "test_a_creation_that_fails_half_way_can_be_repeated",),
    ),
    Bug(
        "documents.claim-not-kept",
        "claim: it hands out a lease and does not write it down",
        DOCUMENTS,
        "            await self._write(documents[summary.run_id].with_head(claimed))\n",
        "",
        (CONTRACT + "test_simultaneous_claimants_get_each_run_once",),
    ),
    Bug(
        "documents.stale-renewal",
        "renew: whoever lost the run gets it back",
        DOCUMENTS,
        """            if document := await self._held(lease):
                summary,""",
        """            if document := await self._read(lease.run_id):
                summary,""",
        (CONTRACT + "test_a_lost_lease_is_not_renewed",),
    ),
    Bug(
        "documents.stale-release",
        "release: whoever lost the run takes it from who has it now",
        DOCUMENTS,
        """        if document := await self._held(lease):
            head =""",
        """        if document := await self._read(lease.run_id):
            head =""",
        (CONTRACT + "test_releasing_a_lost_lease_changes_nothing",),
    ),
    Bug(
        "documents.signal-twice",
        "post: the same signal once more is another one",
        DOCUMENTS,
        "if (kept := document.signal(signal.signal_id)) is not None:",
        "if (kept := None) is not None:",
        (CONTRACT + "test_the_same_signal_twice_is_one_signal",),
    ),
    Bug(
        "documents.load-until",
        "load: it leaves out the record that is asked for last",
        DOCUMENTS,
        "records = self.records(snapshot.seq if snapshot else 0, until)",
        "records = self.records(snapshot.seq if snapshot else 0, until and until - 1)",
        (CONTRACT + "test_load_until_leaves_out_later_records",),
    ),
    Bug(
        "documents.snapshot-beyond",
        "load: a state of the past is made from a snapshot of later",
        DOCUMENTS,
        """        if snapshot and until is not None and snapshot.seq > until:
            snapshot = None
""",
        "",
        (CONTRACT + "test_a_snapshot_beyond_the_end_that_is_asked_for_is_left_out",),
    ),
    Bug(
        "documents.snapshot-of-the-future",
        "put_snapshot: it keeps a snapshot of what is not in the log",
        DOCUMENTS,
        "1 <= snapshot.seq <= document.summary.last_seq",
        "1 <= snapshot.seq",
        (CONTRACT + "test_a_snapshot_of_what_is_not_in_the_log_is_not_kept",),
    ),
    Bug(
        "documents.fork-without-blobs",
        "G9: a fork lacks the large values of its past",
        DOCUMENTS,
        """if blob["seq"] <= prefix.last_seq}""",
        """if blob["seq"] < prefix.last_seq}""",
        (CONTRACT + "test_a_fork_has_the_blobs_of_what_it_shares",),
    ),
    Bug(
        "documents.blob-since-later",
        "append: a value that is given once more counts as new, and forks from between lack it",
        DOCUMENTS,
        """{**given, **self.state["blobs"]}""",
        """{**self.state["blobs"], **given}""",
        (CONTRACT + "test_a_blob_that_is_given_again_is_there_since_the_first_time",),
    ),
    Bug(
        "documents.delete-leaves-index",
        "delete_run: the index names the run still, and is never gone",
        DOCUMENTS,
        "            await self._write_index([other for other in run_ids if other != run_id])\n",
        "            await self._write_index(run_ids)\n",
        (TESTS + "test_the_index_goes_with_the_last_run",),
    ),
    Bug(
        "documents.half-a-state-taken",
        "a state that came back without its records is taken for the run",
        DOCUMENTS,
        "if summary.run_id != run_id or not all(",
        "if summary.run_id != run_id and not all(",
        (TESTS + "test_a_state_that_came_back_incomplete_is_refused",),
    ),
    Bug(
        "documents.failure-as-it-is",
        "G4: what a user's store raises is not told as a BackendError",
        DOCUMENT,
        """    except BackendError:
        raise
""",
        """    except Exception:
        raise
""",
        (TESTS + "test_a_failure_of_the_users_store_is_a_backend_error",),
    ),
    Bug(
        "documents.newer-format-taken",
        "a document that a newer version wrote is read, and written over",
        DOCUMENT,
        'check_format(f"the document {name!r}", version, FORMAT)\n',
        'check_format(f"the document {name!r}", version, FORMAT + 1)\n',
        (TESTS + "test_a_document_of_a_newer_version_is_refused",),
    ),
)
