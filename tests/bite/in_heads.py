"""Bugs in what the stores in memory, in files and in documents compute alike: heads, claims and listings."""

from __future__ import annotations

from tests.bite.bug import Bug

TRANSITION = "_model/transition.py"
SELECTION = "_model/selection.py"
CONTRACT = "tests/contract/test_memory.py::TestInMemoryBackend::"

BUGS = (
    Bug(
        "heads.token-not-compared",
        "G3: whoever lost the run can still write, as long as the log has not moved on",
        TRANSITION,
        """    if not is_held(summary, lease):
        raise lost(lease)
    if summary""",
        """    if summary""",
        (
            "tests/contract/test_three_methods.py::TestDictBackend::test_a_lost_lease_can_no_longer_write",
            "tests/contract/test_file.py::TestFileBackend::test_a_lost_lease_can_no_longer_write",
        ),
    ),
    Bug(
        "heads.fork-of-another",
        "G10: a fork of a run that was created anew meanwhile continues another past than it was made for",
        TRANSITION,
        "if found != prefix.hash:",
        "if False:",
        (CONTRACT + "test_a_fork_of_what_was_created_anew_is_refused",),
    ),
    Bug(
        "heads.owner-not-compared",
        "G3: who owned a run that was deleted writes to the new one of that name, whose tokens begin anew",
        TRANSITION,
        "(current.token, current.owner) == (lease.token, lease.owner)",
        "current.token == lease.token",
        (CONTRACT + "test_a_recreated_run_refuses_the_owner_of_the_one_before",),
    ),
    Bug(
        "heads.seq-not-compared",
        "append: a caller that has not seen the end of the log writes behind it",
        TRANSITION,
        "    if summary.last_seq != expected_seq:",
        "    if summary.last_seq < expected_seq:",
        (CONTRACT + "test_a_log_that_moved_on_refuses_the_append",),
    ),
    Bug(
        "heads.attempts-not-counted",
        "claim: it counts no attempt, so two owners have one token",
        TRANSITION,
        "return changed(summary, attempts=token, lease=lease), lease",
        "return changed(summary, lease=lease), lease",
        (CONTRACT + "test_tokens_grow_with_every_claim",),
    ),
    Bug(
        "heads.rest-keeps-lease",
        "append: a run that rests keeps its lease, and its owner can go on writing",
        TRANSITION,
        "lease=None if change.status in RESTING else summary.lease",
        "lease=summary.lease",
        (CONTRACT + "test_a_resting_run_gives_up_its_lease",),
    ),
    Bug(
        "heads.wake-at-lost",
        "release: a run that sleeps forgets until when, and is claimed at once, again and again",
        TRANSITION,
        "        wake_at=wake_at,\n",
        "        wake_at=None,\n",
        (CONTRACT + "test_a_run_released_until_later_sleeps",),
    ),
    Bug(
        "heads.release-reads-signals",
        "release: a signal that came after its owner last looked counts as read, and wakes nobody (G4)",
        TRANSITION,
        "signals_read=summary.signals_read if signals_read is None else signals_read",
        "signals_read=summary.signals",
        (CONTRACT + "test_a_signal_between_reading_and_releasing_wakes_the_run",),
    ),
    Bug(
        "heads.version-lost",
        "append: a commit that says nothing of the version of the definition changes it",
        TRANSITION,
        "pipeline_version=summary.pipeline_version if change.pipeline_version is None else change.pipeline_version",
        "pipeline_version=change.pipeline_version or ''",
        (CONTRACT + "test_an_update_leaves_the_rest_of_the_head_alone",),
    ),
    Bug(
        "heads.finished-claimable",
        "claim: finished runs can be claimed again",
        SELECTION,
        "        summary.status in query.statuses\n        and query.run_id",
        "        query.run_id",
        ("tests/contract/test_file.py::TestFileBackend::test_finished_and_paused_runs_are_not_claimed_unasked",),
    ),
    Bug(
        "heads.definitions-by-name",
        "claim: a run of another version is claimed by who knows its name only",
        SELECTION,
        "key in query.definitions",
        "summary.pipeline_name in {each.pipeline_name for each in query.definitions}",
        (CONTRACT + "test_a_claim_takes_the_definitions_it_asks_for",),
    ),
    Bug(
        "heads.paused-claimable",
        "claim: a paused run is claimed though nobody has answered",
        SELECTION,
        """return query.is_due or summary.status == "paused\"""",
        "return query.is_due",
        (CONTRACT + "test_a_paused_run_without_a_time_is_never_claimed_by_itself",),
    ),
    Bug(
        "heads.priority-ignored",
        "claim: the older run goes first, whatever the priority",
        SELECTION,
        "return -summary.priority, summary.created_at",
        "return 0, summary.created_at",
        (CONTRACT + "test_higher_priority_goes_first_then_the_older_run",),
    ),
    Bug(
        "heads.expiry-too-late",
        "claim: at the very moment at which a lease expires nobody can have the run",
        SELECTION,
        "lease is None or lease.expires_at <= now or",
        "lease is None or lease.expires_at < now or",
        (CONTRACT + "test_a_leased_run_cannot_be_claimed_before_the_lease_expires",),
    ),
    Bug(
        "heads.lease-ignored",
        "G3: a run that somebody has can be claimed",
        SELECTION,
        "return lease is None or lease.expires_at <= now or lease.owner in query.dead_owners",
        "return True",
        ("tests/contract/test_file.py::TestFileBackend::test_simultaneous_claimants_get_each_run_once",),
    ),
    Bug(
        "heads.dead-owner-waited-for",
        "claim: of an owner that is known to be dead the lease is waited for",
        SELECTION,
        "lease.expires_at <= now or lease.owner in query.dead_owners",
        "lease.expires_at <= now",
        (CONTRACT + "test_a_dead_owners_run_can_be_claimed_at_once",),
    ),
    Bug(
        "heads.sleeper-too-early",
        "claim: a run that sleeps is claimed before its time",
        SELECTION,
        "        return summary.wake_at <= now\n",
        "        return True\n",
        (CONTRACT + "test_a_sleeping_run_is_claimed_when_it_is_due",),
    ),
    Bug(
        "heads.news-do-not-wake",
        "claim: a signal wakes no run that sleeps",
        SELECTION,
        """    if query.run_id is not None or has_news(summary):
        return True
""",
        """    if query.run_id is not None:
        return True
""",
        (CONTRACT + "test_a_signal_wakes_a_sleeping_run_before_its_time",),
    ),
    Bug(
        "heads.page-before-filter",
        "query_runs: a page is cut before the filter",
        SELECTION,
        """    found = sorted((summary for summary in summaries if matches(summary, query)), key=listing_order)
    return page(found, query.limit, query.offset)""",
        """    found = page(sorted(summaries, key=listing_order), query.limit, query.offset)
    return [summary for summary in found if matches(summary, query)]""",
        (CONTRACT + "test_listings_are_filtered_before_they_are_cut",),
    ),
    Bug(
        "heads.metadata-matched-as-a-whole",
        "query_runs: a filter on metadata finds only runs that have nothing else",
        SELECTION,
        "contains(summary.metadata, query.metadata)",
        "(not query.metadata or summary.metadata == query.metadata)",
        (CONTRACT + "test_listings_filter_by_a_part_of_the_metadata",),
    ),
)
