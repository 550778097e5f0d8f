"""Bugs that make work grow faster than what there is to do."""

from __future__ import annotations

from tests.bite.bug import Bug

GROWTH = "tests/runtime/test_growth.py::"

BUGS = (
    Bug(
        "growth.all-waits-woken",
        "G13: each answer wakes all that wait for any",
        "_runtime/waits.py",
        "if item.news is not None and item.topic in topics:",
        "if item.news is not None:",
        (GROWTH + "test_many_waits_in_one_run_that_goes_on",),
    ),
    Bug(
        "growth.all-children-looked-at",
        "G13: news of one child make a run look at all that it waits for",
        "_runtime/waits.py",
        """return f"{CHILD_RESTED}/{run_id}\"""",
        "return CHILD_RESTED",
        (GROWTH + "test_children_that_are_answered_while_their_parent_goes_on",),
    ),
    Bug(
        "growth.all-signals-read",
        "G13: each signal makes whoever drives the run read all of them",
        "_runtime/drive.py",
        "known = {self._execution.run_id: self._execution.waits.heard}",
        "known = {self._execution.run_id: 0}",
        ("tests/runtime/test_signals.py::test_a_signal_is_read_once_by_whoever_has_to_know_of_it",),
    ),
    Bug(
        "growth.all-signals-read-for-the-next",
        "G13: whoever answers a run reads all that was posted to it before",
        "_runtime/inbox.py",
        "inbox, kept.inbox = kept.inbox, None",
        "inbox = kept.inbox = None",
        (GROWTH + "test_many_signals_to_one_run",),
    ),
    Bug(
        "growth.all-recorded-looked-at",
        "G13: each workflow in a run goes through all that is recorded of the run",
        "_runtime/replay.py",
        "for key in execution.recorded.answered(path) if path else fold.order:",
        "for key in [key for key in fold.order if not path or is_within(key, path)]:",
        (GROWTH + "test_a_replay", GROWTH + "test_a_run"),
    ),
    Bug(
        "growth.all-inputs-looked-at",
        "G13: a step of a graph looks at all that it depends on as each of them ends",
        "_plan/graph_progress.py",
        "        if self._left.get(node.name):\n",
        "        if self._left.get(node.name, 0) < 0:\n",
        (GROWTH + "test_a_run",),
    ),
    Bug(
        "growth.cancelled-again",
        "a branch that cleans up after being cancelled is cancelled again when another fails meanwhile",
        "_runtime/group.py",
        "        if self._is_stopped:\n",
        "        if not self._tasks:\n",
        ("tests/runtime/test_combinators.py::TestFailures::test_a_sibling_that_cleans_up_is_not_cancelled_again",),
    ),
    Bug(
        "growth.read-at-once",
        "G15: who reads a long log holds up the event loop",
        "abc/pace.py",
        "            await pace.turn()\n",
        "            pass\n",
        ("tests/runtime/test_pace.py::test_who_reads_a_long_log_leaves_the_loop_to_others",),
    ),
    Bug(
        "growth.queue-written-whole",
        "G13: a list that is taken from at its front and added to at its end is written whole at each step",
        "_log/delta.py",
        "    if 0 < gone < len(before) and ",
        "    if 0 < gone < 0 and ",
        ("tests/runtime/test_linear_cost.py::test_a_list_costs_what_comes_and_goes_wherever_that_is",),
    ),
    Bug(
        "growth.equal-for-the-same",
        "G12: True in the place of 1 in a list that the code of a workflow has put into its context is lost",
        "_runtime/plain_lists.py",
        "all(map(is_, value, tree))",
        "value[:length] == tree",
        ("tests/runtime/test_linear_cost.py::test_whatever_the_code_does_to_a_list_is_recorded",),
    ),
    Bug(
        "growth.own-lists-encoded",
        "G13: a list that the code of a workflow has put into its context is encoded as a whole at each call",
        "_runtime/plain_lists.py",
        "return type(value) in _LISTS and ",
        "return False and ",
        (GROWTH + "test_a_run", GROWTH + "test_a_replay"),
    ),
    Bug(
        "growth.branches-know-nothing",
        "G13: a branch encodes a list that it adds to as a whole, since it knows nothing of it",
        "_runtime/interpreter.py",
        "Scope(child(key, name), fields, lists)",
        "Scope(child(key, name), fields)",
        (GROWTH + "test_a_run",),
    ),
    Bug(
        "growth.merged-encoded-again",
        "G13: what the items of a map have added together is encoded as a whole after each of them",
        "_runtime/contexts.py",
        "reduced[name] = self._reduce(name, base, ours, theirs, paths)",
        "reduced[name] = self._decode(self._set(name, self._reduce(name, base, ours, theirs, paths)))",
        (GROWTH + "test_a_run",),
    ),
)
