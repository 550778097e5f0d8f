"""Bugs in ``FileBackend``."""

from __future__ import annotations

from tests.bite.bug import Bug

STORE = "backends/file.py"
LOG = "backends/file_log.py"
LOGS = "backends/file_logs.py"
LINE = "backends/file_line.py"
LOCKED = "backends/file_locked.py"
LOCK = "backends/file_lock.py"
SIDE = "backends/file_side.py"
UPKEEP = "backends/file_upkeep.py"
CONTRACT = "tests/contract/test_file.py::TestFileBackend::"
TESTS = "tests/backends/test_file.py::"
SIDE_TESTS = "tests/backends/test_file_side.py::"
DURABLE = "tests/backends/test_file_durable.py::"
POWER = "tests/crash/faults/test_power_cut.py::"

BUGS = (
    Bug(
        "file.append-token",
        "G3: whoever lost the run can still write, as long as the log has not moved on",
        STORE,
        "transition.check_append(head, lease, expected_seq)",
        "transition.check_append(head, head.lease or lease, expected_seq)",
        (CONTRACT + "test_a_lost_lease_can_no_longer_write",),
    ),
    Bug(
        "file.created-signals-unseen",
        "create_run: signals that a run was created with are not seen where its log is not read as a whole",
        LINE,
        """b'{"signal'  # one, or several""",
        """b'{"signal"'""",
        (CONTRACT + "test_a_run_may_be_created_with_signals",),
    ),
    Bug(
        "file.append-seq",
        "append: a caller that has not seen the end of the log writes behind it",
        STORE,
        "transition.check_append(head, lease, expected_seq)",
        "transition.check_append(head, lease, head.last_seq)",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "file.append-in-two-lines",
        "append: records and head are two writes, and a crash between them leaves a broken run",
        STORE,
        "log.write(transition.advanced(head, last_seq, own_update(update)), records=records, blobs=blobs)",
        """log.write(head, records=records, blobs=blobs)
            log.write(transition.advanced(head, last_seq, own_update(update)))""",
        (TESTS + "test_a_write_that_ends_anywhere_never_happened",),
    ),
    Bug(
        "file.torn-line-closed",
        "a line that a crash has torn is taken for a write",
        LOG,
        "            os.ftruncate(fd, end)\n",
        """            file_line.write(fd, size, b"\\n")
            line, end = file_line.last_line(fd, size + 1)
""",
        (TESTS + "test_a_write_that_ends_anywhere_never_happened",),
    ),
    Bug(
        "file.failed-write-left",
        "of a write that failed half a line stays",
        LOG,
        "                os.ftruncate(fd, self._end)\n",
        "                pass\n",
        (TESTS + "test_a_full_disk_is_told_and_leaves_no_half_line",),
    ),
    Bug(
        "file.no-fsync",
        "G4: what was acknowledged is not on the disk",
        LOG,
        """            if sync:
                os.fsync(fd)
""",
        """            if sync:
""",
        (POWER + "test_a_power_cut_loses_nothing_that_was_acknowledged[file]",),
    ),
    Bug(
        "file.waits-of-a-deleted-run",
        "a run that is created again refers to lines of the deleted one, and cannot be read",
        LOG,
        "        self._told = NEVER\n        self._posted = Posted()\n\n",
        "        self._posted = Posted()\n\n",
        ("tests/runtime/test_bit_by_bit.py::test_a_run_that_is_created_anew_waits_for_what_it_asks",),
    ),
    Bug(
        "file.failed-sync-believed",
        "G4: after a sync that failed, the next one is believed, though it writes nothing of what came before",
        LOG,
        "start = self._doubtful if sync else self._end",
        "start = self._end",
        (
            POWER + "test_a_sync_that_succeeds_after_one_that_could_not_be_undone_is_not_believed",
            POWER + "test_a_sync_that_succeeds_after_one_that_failed_is_not_believed[sync and truncate-file]",
        ),
    ),
    Bug(
        "file.fork-of-what-is-not-durable",
        "G4, G9: a fork is acknowledged, and a failure of power takes the log away that it shares",
        LOG,
        "        self._settle()\n",
        "",
        (DURABLE + "test_what_a_fork_shares_is_durable_before_the_fork_is",),
    ),
    Bug(
        "file.no-lock",
        "G3: processes that share the directory do not wait for each other",
        LOCK,
        "fcntl.flock(fd, fcntl.LOCK_EX)\n",
        "return\n",
        (TESTS + "test_a_verb_waits_for_the_process_that_has_the_lock",),
    ),
    Bug(
        "file.removed-log-written",
        "delete_run: who has the file open goes on with a run that another process has removed",
        LOCKED,
        "return os.path.samestat(os.stat(self.path), os.fstat(fd))",
        "return True",
        (
            CONTRACT + "test_two_objects_on_one_store_see_each_others_writes",
            SIDE_TESTS + "test_a_deleted_log_that_a_fork_keeps_is_not_written_any_more",
        ),
    ),
    Bug(
        "file.claim-unchecked",
        "G3: what was listed as free is claimed, whatever has happened since",
        STORE,
        "if head is None or not selection.is_claimable(head, query, now):",
        "if head is None or not (is_one_of_many or selection.is_claimable(head, query, now)):",
        (
            CONTRACT + "test_simultaneous_claimants_get_each_run_once",
            CONTRACT + "test_claimants_at_two_objects_get_each_run_once",
            TESTS + "test_processes_that_share_a_directory_never_have_a_run_at_the_same_time",
        ),
    ),
    Bug(
        "file.listing-old",
        "query_runs: a listing shows runs as they were when they were first listed",
        LOGS,
        "if mark and (seen != mark or summary is None):",
        "if mark and summary is None:",
        (CONTRACT + "test_listings_follow_every_change",),
    ),
    Bug(
        "file.signal-twice",
        "post: the same signal once more is another one",
        STORE,
        "            if kept is None:\n                log.write",
        "            if log.head():\n                log.write",
        (CONTRACT + "test_the_same_signal_twice_is_one_signal",),
    ),
    Bug(
        "file.signal-of-another-process-twice",
        "post: of signals that another process has written none is known",
        LOG,
        "        if self.head() and self._posted.end < self._end:\n",
        "        if self.head() and self._posted.end == 0:\n",
        (CONTRACT + "test_a_signal_posted_at_two_objects_is_one",),
    ),
    Bug(
        "file.stale-release",
        "release: whoever lost the run takes it from who has it now",
        STORE,
        """            if head is None or not transition.is_held(head, lease):
                return
            log.write(transition.released""",
        """            if head is None:
                return
            log.write(transition.released""",
        (CONTRACT + "test_releasing_a_lost_lease_changes_nothing",),
    ),
    Bug(
        "file.stale-renewal",
        "renew: whoever lost the run gets it back",
        STORE,
        """            if head is None or not transition.is_held(head, lease):
                return None
            summary, renewed""",
        """            if head is None:
                return None
            summary, renewed""",
        (CONTRACT + "test_a_lost_lease_is_not_renewed",),
    ),
    Bug(
        "file.load-until",
        "load: it leaves out the record that is asked for last",
        LOG,
        "tuple(content.records[:until])",
        "tuple(content.records[: until and until - 1])",
        (CONTRACT + "test_load_until_leaves_out_later_records",),
    ),
    Bug(
        "file.snapshot-beyond",
        "load: a state of the past is made from a snapshot of later",
        LOG,
        "kept.snapshot.seq <= (summary.last_seq if until is None else until)",
        "kept.snapshot.seq <= summary.last_seq",
        (CONTRACT + "test_a_snapshot_beyond_the_end_that_is_asked_for_is_left_out",),
    ),
    Bug(
        "file.snapshot-unchecked",
        "load: a snapshot that is damaged is believed",
        SIDE,
        "if digest == _digest(data) and (",
        "if (",
        (SIDE_TESTS + "test_a_broken_snapshot_is_as_good_as_none",),
    ),
    Bug(
        "file.events-skipped",
        "read_events: whoever follows a log misses a record where it goes on",
        LOG,
        "content.records[max(0, after - seq) :]",
        "content.records[max(0, after - seq) + (seq > before) :]",
        (CONTRACT + "test_a_growing_log_is_read_page_by_page",),
    ),
    Bug(
        "file.events-read-again",
        "G13: whoever asks for the last record that it knows, and what follows, reads the log from its beginning",
        LOG,
        "self._last_read.seq == seq == after + 1",
        "self._last_read.seq == seq == after",
        ("tests/backends/test_file.py::test_what_is_new_in_a_log_is_found_at_the_cost_of_what_is_new",),
    ),
    Bug(
        "file.signals-looked-for-again",
        "G13: after each write of another process the log is looked through for signals from its beginning",
        LOG,
        "known = self._birth, self._posted, self._told",
        "known = self._birth, Posted(), self._told",
        ("tests/backends/test_file.py::test_what_is_new_in_a_log_is_found_at_the_cost_of_what_is_new",),
    ),
    Bug(
        "file.fork-without-blobs",
        "G9: a fork lacks the large values of its past",
        LOG,
        "            files.share_blobs(birth.files, content.blobs)\n",
        "",
        (CONTRACT + "test_a_fork_has_the_blobs_of_what_it_shares",),
    ),
    Bug(
        "file.delete-takes-blobs",
        "delete_run: it takes large values from other runs that have them too",
        SIDE,
        "        if blob.stat().st_nlink == 1:\n            blob.unlink()",
        "        blob.write_bytes(b'')",
        (CONTRACT + "test_equal_blobs_of_two_runs_do_not_depend_on_each_other",),
    ),
    Bug(
        "file.delete-leaves-files",
        "delete_run: what stands beside the log stays",
        LOG,
        """        for files in belongings:
            files.remove()
""",
        """        del belongings
""",
        (SIDE_TESTS + "test_equal_blobs_are_one_file",),
    ),
    Bug(
        "file.directory-of-others",
        "G4: a directory that somebody has made and died is taken for durable",
        LOCK,
        "    elif _mark(path) not in _DURABLE:\n",
        "    elif not _DURABLE and not path.parent.is_dir():\n",
        (POWER + "test_a_directory_that_somebody_has_made_and_died_outlasts_a_power_cut",),
    ),
    Bug(
        "file.unfinished-of-the-living",
        "backup: what somebody is at work on is removed as if it were left",
        "backends/unfinished.py",
        "                if is_left:\n",
        "                if is_left in (True, False):\n",
        ("tests/backends/test_unfinished.py::test_what_somebody_is_at_work_on_stays",),
    ),
    Bug(
        "file.backup-in-place",
        "backup: it appears before all of it is there, and stays when it fails",
        UPKEEP,
        "        copy = _Copy(part)\n",
        "        part.rename(target)\n        copy = _Copy(part := target)\n",
        ("tests/backends/test_file_upkeep.py::test_a_copy_for_which_the_disk_is_too_small_leaves_nothing",),
    ),
    Bug(
        "file.broken-stops-others",
        "claim: one broken log keeps the others from being claimed and listed",
        LOGS,
        "        except IntegrityError as error:\n            _logger.error",
        "        except FileExistsError as error:\n            _logger.error",
        (TESTS + "test_a_broken_log_stops_nothing_but_itself",),
    ),
    Bug(
        "file.gap-not-seen",
        "G10: a line that is gone is not missed",
        LINE,
        "            if record.seq != seq:\n",
        "            if record.seq < seq:\n",
        (TESTS + "test_a_lost_line_is_named",),
    ),
)
