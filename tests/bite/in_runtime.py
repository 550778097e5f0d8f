"""Bugs in the journal, and in what drives runs."""

from __future__ import annotations

from tests.bite.bug import Bug

JOURNAL = "_runtime/journal.py"
DRIVE = "_runtime/drive.py"
ATTEMPT = "_runtime/attempt.py"
ONE = "_runtime/one_attempt.py"
SAGA = "_runtime/saga.py"
WAITS = "_runtime/waits.py"
CALLS = "_runtime/calls.py"
TAKING = "_runtime/taking.py"
EXECUTION = "_runtime/execution.py"
READER = "_runtime/reader.py"
CONTEXTS = "_runtime/contexts.py"
HEARTBEAT = "_runtime/heartbeat.py"
CACHE = "_runtime/cache.py"
INTERPRETER = "_runtime/interpreter.py"
INBOX = "_runtime/inbox.py"
KEEPER = "_runtime/lease_keeper.py"
REPLAY = "_runtime/replay.py"
LANES = "_runtime/lanes.py"
WORKFLOW = "_runtime/workflow.py"
ACTIVITY = "_runtime/activity.py"
PROGRAM = "_runtime/program.py"
CHAIN = "_log/chain.py"
DELTA = "_log/delta.py"
FOLD = "_log/fold.py"
BLOBS = "_codec/blobs.py"
PACE = "abc/pace.py"
GRAPH = "_runtime/graph_run.py"
T = "tests/runtime/test_"

BUGS = (
    # -------------------------------------------------------------------------------- children whose code does not fit
    Bug(
        "runtime.contradicted-child-tells-nobody",
        "the runs above a child that waits for its code show that it waits for its signal",
        DRIVE,
        "                if not self._was_contradicted:  # else two",
        "                if self._was_contradicted:  # else two",
        (T + "children.py::TestContradiction::test_the_runs_above_it_show_what_it_waits_for",),
    ),
    Bug(
        "runtime.contradicted-child-tells-always",
        "two parents of a child that waits for its code wake each other without end",
        DRIVE,
        "                if not self._was_contradicted:  # else two",
        "                if True:  # else two",
        (T + "children.py::TestContradiction::test_two_parents_do_not_wake_each_other_without_end",),
    ),
    # ---------------------------------------------------------------------------------------------------- deleting
    Bug(
        "runtime.delete-parents-first",
        "delete: one that is interrupted leaves grandchildren that no other finds",
        "_runtime/control.py",
        "for each in reversed(below):",
        "for each in below:",
        (T + "children.py::TestDelete::test_it_can_be_interrupted_anywhere",),
    ),
    Bug(
        "runtime.delete-without-seizing",
        "delete: who drives a child starts what is below it anew while that is being deleted",
        "_runtime/control.py",
        "await self._runner.taking.seize(lease, owner)",
        "pass",
        (T + "children.py::TestDelete::test_nothing_of_a_tree_that_goes_on_comes_back",),
    ),
    Bug(
        "runtime.deleted-children-come-back",
        "delete: who still drives a deleted run starts its deleted child anew",
        "_runtime/runner.py",
        "await self._check_held(execution.held.lease)",
        "pass",
        (T + "children.py::TestDelete::test_nothing_of_a_tree_that_goes_on_comes_back",),
    ),
    # ------------------------------------------------------------------------------------------------- the journal
    Bug(
        "runtime.goes-on-before-durable",
        "G4: the next step begins before the result of the one before is durable",
        JOURNAL,
        "return self._after_a_turn(writing) if writing.done() and self._pace.is_over else writing",
        "return self._pace.turn()",
        (T + "store_failure.py::test_a_failed_write_reaches_the_caller_and_the_run_can_be_resumed",),
    ),
    Bug(
        "runtime.failure-swallowed",
        "G4: after a write that failed the run goes on as if nothing had happened",
        JOURNAL,
        """        self._writing = None
        self.failure = writing.exception()
""",
        """        self._writing = None
        writing.exception()
""",
        (T + "store_failure.py::test_a_failed_write_stops_everything_in_the_run",),
    ),
    Bug(
        "runtime.failure-kept-from-those-behind",
        "G4: of those who wait for one write only the first hears that it failed",
        JOURNAL,
        """            if self.failure is None:
                durable.set_result(None)""",
        """            if True:
                durable.set_result(None)""",
        (T + "store_failure.py::test_a_failed_write_stops_everything_in_the_run",),
    ),
    Bug(
        "runtime.exit-not-flushed",
        'durability="exit": what was deferred is not written when the run is interrupted',
        JOURNAL,
        "while self._writing is not None or self._is_wanted or self._is_deferring:",
        "while self._writing is not None or self._is_wanted:",
        (T + "durability.py::test_an_interruption_loses_nothing",),
    ),
    Bug(
        "runtime.not-settled",
        "a run lets go of its lease while a write is on its way",
        DRIVE,
        "        await execution.journal.settle()\n",
        "",
        (T + "durability.py::test_an_interruption_loses_nothing",),
    ),
    Bug(
        "runtime.blobs-each-time",
        "G13: a large value is handed to the store with every commit that names it",
        JOURNAL,
        "for blob in blobs if blob.digest not in self._given)",
        "for blob in blobs)",
        (T + "blobs.py::test_only_the_first_append_hands_a_value_over",),
    ),
    Bug(
        "runtime.signals-not-read-at-rest",
        "a run that rests leaves its signals unread, and is woken by them again and again",
        JOURNAL,
        "self.fold.update(self.signals_read() if is_at_rest else None, told=told)",
        "self.fold.update(None, told=told)",
        (T + "waits.py::test_a_run_that_pauses_again_is_woken_by_what_is_new_only",),
    ),
    # --------------------------------------------------------------------------------------------------- the log
    Bug(
        "runtime.chain-not-verified",
        "G10: a record that was changed is believed",
        CHAIN,
        "        if record.hash != prev_hash:\n",
        "        if not record.hash:\n",
        (T + "integrity.py::test_a_broken_chain_is_named_before_anything_executes",),
    ),
    Bug(
        "runtime.chain-without-past",
        "G10: the hash of a record seals nothing of what came before it",
        CHAIN,
        "sha256(prev_hash.encode() + body)",
        "sha256(body)",
        ("tests/log/test_chain.py::test_a_hash_can_be_computed_by_anybody",),
    ),
    Bug(
        "runtime.log-not-verified",
        "G10: a log is read without a look at its hashes",
        READER,
        "        await in_turns(verify_gradually(run_id, stored.records))\n",
        "",
        (T + "integrity.py::test_a_broken_chain_is_named_before_anything_executes",),
    ),
    Bug(
        "runtime.tail-not-verified",
        "G10: what was committed between looking and claiming is believed as it is",
        READER,
        "        await in_turns(verify_gradually(run_id, tail, after=seq, prev_hash=hash_))\n",
        "",
        (T + "integrity.py::test_what_was_committed_before_the_claim_is_verified_too",),
    ),
    Bug(
        "runtime.tail-not-read",
        "G1: what was committed between looking and claiming is not read, and happens again",
        TAKING,
        "        await in_turns(each_of(tail, fold.extend))\n",
        "",
        (T + "integrity.py::test_what_was_committed_before_the_claim_is_not_done_again",),
    ),
    Bug(
        "runtime.blob-not-checked",
        "G10: a large value that was changed is believed",
        BLOBS,
        "    if sha256(data).hexdigest() != digest:\n",
        "    if not data:\n",
        (T + "blobs.py::test_a_blob_that_is_missing_or_damaged_is_a_broken_log",),
    ),
    Bug(
        "runtime.small-values-beside",
        "G13: small values stand beside the log, and large ones in it",
        BLOBS,
        "len(data := dumps(tree)) < LARGE and",
        "len(data := dumps(tree)) > LARGE and",
        (T + "blobs.py::test_equal_large_values_are_stored_once",),
    ),
    Bug(
        "runtime.tail-of-text-unchecked",
        "a text that was replaced by a longer one comes back as the old one with the end of the new",
        DELTA,
        "is_tail = bool(before) and after.startswith(before)",
        "is_tail = bool(before) and len(after) > len(before)",
        ("tests/log/test_delta.py::test_a_short_patch_tells_what_was_added_or_changed_inside",),
    ),
    Bug(
        "runtime.tail-of-list-unchecked",
        "a list that was changed at its beginning and grew comes back with the old beginning",
        DELTA,
        "    inner = _inner(before, after, depth)\n",
        "    inner: dict[str, Json] = {}\n",
        ("tests/log/test_delta.py::test_a_short_patch_tells_what_was_added_or_changed_inside",),
    ),
    Bug(
        "runtime.one-is-true",
        "a value of the context that changes from 1 to True has not changed",
        DELTA,
        "(one == other and dumps(one) == dumps(other))",
        "one == other",
        (T + "context.py::test_changing_one_to_true_is_a_change",),
    ),
    Bug(
        "runtime.standstill-for-a-turn",
        "a run one of whose branches waits for its turn of the event loop is put down as if all of it waited",
        EXECUTION,
        """        self.waits.activity.began()
        try:
            await self.pace.turn()
        finally:
            self.waits.activity.ended()
""",
        "        await self.pace.turn()\n",
        ("tests/runtime/test_pace.py::test_a_run_that_waits_for_its_turn_is_at_no_standstill",),
    ),
    Bug(
        "runtime.members-begin-at-once",
        "G15: all members of a map_each begin in one turn of the event loop",
        "_runtime/group.py",
        "            if self._execution.pace.is_over:\n                await self._execution.turn()\n",
        "",
        ("tests/runtime/test_pace.py::test_steps_that_begin_at_once_leave_the_loop_to_others",),
    ),
    Bug(
        "runtime.calls-replayed-at-once",
        "G15: a workflow whose calls are recorded walks through all of them in one turn of the event loop",
        WORKFLOW,
        "            if execution.pace.is_over:\n                await execution.turn()\n",
        "",
        ("tests/runtime/test_pace.py::test_a_workflow_that_goes_on_after_a_failure_leaves_the_loop_to_others",),
    ),
    Bug(
        "runtime.stray-cancellation",
        "a member of a group that cancels its own task is left out, and the run completes",
        "_runtime/group.py",
        "                if self._is_stopped or self._interruption.has_come:\n                    raise\n",
        "                raise\n",
        ("tests/runtime/test_combinators.py::TestFailures::test_a_step_that_cancels_its_own_task_has_failed",),
    ),
    # ---------------------------------------------------------------------------------------------------- attempts
    Bug(
        "runtime.once-not-announced",
        "G2: an effect that may happen only once begins without a record, and happens again after a crash",
        ONE,
        """            if policy.effect == "once":
                await self._announce()
""",
        "",
        (T + "effect_once.py::test_an_attempt_is_announced_before_it_begins",),
    ),
    Bug(
        "runtime.once-not-asked",
        "G2: after a crash inside an effect that may happen only once it happens again, and nobody is asked",
        ATTEMPT,
        "if decision is None and self.key in fold.once:",
        "if decision is None and self.key in fold.decisions:",
        (T + "effect_once.py::test_after_a_crash_inside_somebody_has_to_decide",),
    ),
    Bug(
        "runtime.decision-ignored",
        "G2: a step that somebody decided to skip is executed",
        ATTEMPT,
        'if decision is not None and decision.decision == "skip":',
        'if decision is not None and decision.decision == "skipped":',
        (T + "effect_once.py::test_a_decision_to_skip_takes_the_given_output",),
    ),
    Bug(
        "runtime.attempts-forgotten",
        "G7: after a restart the attempts of a step are counted from 1 again",
        ATTEMPT,
        "number = 1 + max(fact.attempt for fact in (failed, begun) if fact is not None)",
        "number = 1",
        (T + "attempts.py::TestRetryAfter::test_it_survives_a_restart",),
    ),
    Bug(
        "runtime.wait-forgotten",
        "G7: after a restart the next attempt begins at once, whenever it was due",
        ATTEMPT,
        "        await self.execution.waits.until(failed.retry_at)\n",
        "",
        (T + "attempts.py::TestRetryAfter::test_it_survives_a_restart",),
    ),
    Bug(
        "runtime.retry-after-ignored",
        "G7: when an exception tells when to try again, nobody listens",
        ATTEMPT,
        "        wait = asked_delay(error, now)\n",
        "        wait = asked_delay(Exception(), now)\n",
        (T + "attempts.py::TestRetryAfter::test_an_exception_may_tell_when_to_try_again",),
    ),
    Bug(
        "runtime.give-up-ignored",
        "G7: what a policy gives up on is tried again",
        "_model/policy.py",
        "if attempt >= self.max_attempts or isinstance(error, self.give_up_on):",
        "if attempt >= self.max_attempts:",
        ("tests/plan/test_retry.py::test_giving_up_wins",),
    ),
    Bug(
        "runtime.deadline-anew",
        "G8: after a restart a step has its whole deadline once more",
        ATTEMPT,
        "return number, first and max(first, fold.began_at)",
        "return number, None",
        (T + "attempts.py::TestDeadline::test_it_counts_from_the_first_attempt_across_restarts",),
    ),
    Bug(
        "runtime.key-of-each-attempt",
        "G2: each attempt has an idempotency key of its own",
        ONE,
        "idempotency_key=idempotency_key(execution.run_id, call.key,",
        'idempotency_key=idempotency_key(execution.run_id, f"{call.key}#{self.number}",',
        (T + "steps.py::test_a_step_learns_where_it_is",),
    ),
    Bug(
        "runtime.key-of-all-runs",
        "G2: equal steps of different runs have one idempotency key",
        ONE,
        'f"{run_id}\\0{key}" if not repeats',
        'f"{key}" if not repeats',
        (T + "steps.py::test_runs_do_not_share_idempotency_keys",),
    ),
    Bug(
        "runtime.failed-attempt-seen",
        "G11: an attempt sees what the failed one before it changed in the context",
        ONE,
        "load=partial(execution.contexts.decode, self.found, call.scope.lists),",
        """load=partial(
                idempotency_key.__dict__.setdefault,
                execution.run_id + call.key,
                execution.contexts.decode(self.found, call.scope.lists),
            ),""",
        (T + "context.py::test_each_attempt_has_its_own_copy",),
    ),
    Bug(
        "runtime.cancellation-is-failure",
        "G5: a step that is cancelled has failed",
        DRIVE,
        "return task is not None and task.cancelling() > (self._cancelled_before if task is self._task else 0)",
        "return task is None",
        (T + "cancellation.py::test_cancelled_at_every_tick_a_run_can_be_resumed",),
    ),
    Bug(
        "runtime.cancellation-of-before",
        "a run in a task that was cancelled before is taken for interrupted",
        DRIVE,
        "        if self._task.uncancel() > self._cancelled_before:\n",
        "        if self._task.uncancel() > 0:\n",
        (T + "cancellation.py::test_a_run_may_pause_in_a_task_that_was_cancelled_before",),
    ),
    Bug(
        "runtime.cancellation-swallowed",
        "G5: a run that was interrupted ends as if nobody had asked for it",
        DRIVE,
        """            if self._stop is None:
                raise
            await self._absorb()
            raise _Stopped from None
        except Exception:""",
        """            if self._stop is None:
                self._task.uncancel()  # type: ignore[union-attr]
                raise _Stopped from None
            await self._absorb()
            raise _Stopped from None
        except Exception:""",
        (T + "cancellation.py::test_cancelled_at_every_tick_a_run_can_be_resumed",),
    ),
    Bug(
        "runtime.lease-not-secured",
        "G3: after a long stop of its process a run begins a step, though somebody else may have it",
        ATTEMPT,
        "            now = await self.execution.secure()\n",
        "            now = self.execution.clock.now()\n",
        (T + "lease.py::test_a_run_that_was_taken_between_two_steps_does_not_begin_the_next",),
    ),
    Bug(
        "runtime.heartbeat-not-recorded",
        "heartbeats are recorded with the outcome only, and a crash takes them away",
        HEARTBEAT,
        """            self._last = now
            self.record()
""",
        """            self._last = now
""",
        (T + "heartbeat.py::test_it_is_durable_soon",),
    ),
    Bug(
        "runtime.last-word-lost",
        "the newest heartbeat of an attempt that is interrupted is lost",
        ATTEMPT,
        "                attempt.leave_word()\n",
        "",
        (T + "heartbeat.py::test_a_restart_goes_on_from_there_too",),
    ),
    Bug(
        "runtime.heartbeat-of-the-abandoned",
        "a thread that was given up goes on writing heartbeats",
        HEARTBEAT,
        "        if self._is_over:\n            return\n",
        "",
        (T + "heartbeat.py::test_a_thread_that_was_given_up_is_not_heard_any_more",),
    ),
    Bug(
        "runtime.cache-ignores-arguments",
        "a cached step returns for any input the output of another one",
        CACHE,
        "canonical([step.name, step.fingerprint, arguments])",
        "canonical([step.name, step.fingerprint])",
        (T + "cache.py::test_other_input_another_name_or_other_code_is_another_call",),
    ),
    Bug(
        "runtime.cache-ignores-age",
        "a cached output never gets too old",
        CACHE,
        "return abs((now - self.at).total_seconds()) < ttl",
        "return ttl > 0",
        (T + "cache.py::test_an_output_gets_old",),
    ),
    # ------------------------------------------------------------------------------------------------- compensation
    Bug(
        "runtime.undone-up-to-what-is-ignored",
        "G6: a crash leaves undone what came after a failure that does not matter",
        INTERPRETER,
        'on_error: OnError = "ignore" if node.on_error == "ignore" else "finish"',
        'on_error: OnError = "finish"',
        (T + "saga.py::test_a_crash_while_it_is_undone_resumes_that",),
    ),
    Bug(
        "runtime.oldest-undone-first",
        "G6: what a run did is undone from the oldest to the newest",
        SAGA,
        "for key in reversed(journal.fold.outcomes)",
        "for key in list(journal.fold.outcomes)",
        (T + "saga.py::test_a_failed_run_is_undone_newest_first",),
    ),
    Bug(
        "runtime.undone-twice",
        "G6: after a crash while a run is undone, what was undone is undone again",
        SAGA,
        "if isinstance(done, StepCompleted) or not isinstance(outcome, StepCompleted):",
        "if not isinstance(outcome, StepCompleted):",
        (T + "saga.py::test_a_crash_while_it_is_undone_resumes_that",),
    ),
    Bug(
        "runtime.rollback-not-recorded",
        "G6: after a crash while a run is undone, it goes on forwards",
        SAGA,
        """        await journal.commit(
            RollbackStarted(at=now, status=ending.status, error=error, reason=ending.reason, keys=tuple(ending.keys))
        )
""",
        """        del now, error
""",
        (T + "saga.py::TestCancel::test_a_cancelled_run_is_undone",),
    ),
    Bug(
        "runtime.first-compensation-only",
        "G6: when a compensation fails, the older steps are not undone",
        SAGA,
        """    except Fault as fault:
        return fault.error
""",
        """    except Fault as fault:
        execution.to_undo.clear()
        raise fault.error from fault
""",
        (T + "saga.py::test_a_compensation_that_fails_does_not_stop_the_others",),
    ),
    # --------------------------------------------------------------------------------------- leases, taking runs up
    Bug(
        "runtime.lease-loss-ignored",
        "G3: a run whose lease is lost goes on with its step",
        DRIVE,
        '        self._stop_for("lost")\n',
        "        pass\n",
        (T + "lease.py::test_a_run_whose_lease_was_stolen_stops",),
    ),
    Bug(
        "runtime.lost-twice-is-interrupted",
        "G3: a run that hears twice that its lease is lost ends as if its caller had been cancelled",
        DRIVE,
        "        if is_first:  # a second cancellation would be taken for one from outside\n",
        '        if is_first or stop == "lost":\n',
        (T + "lease.py::test_a_run_that_hears_twice_that_its_lease_is_lost_was_not_interrupted_by_its_caller",),
    ),
    Bug(
        "runtime.leases-not-renewed",
        "G3: leases run out while their runs are driven",
        KEEPER,
        "                self._renew(self._all())\n",
        "                self._all()\n",
        (T + "lease.py::test_a_run_that_hears_twice_that_its_lease_is_lost_was_not_interrupted_by_its_caller",),
    ),
    Bug(
        "runtime.told-of-a-closed-store",
        "G15: the log complains of a store that was closed when the last run was over",
        KEEPER,
        "        if any(map(self._is_held, held)):",
        "        if held:",
        (T + "lease.py::test_a_store_that_fails_is_told_of_as_long_as_a_run_needs_it",),
    ),
    Bug(
        "runtime.closed-store-asked",
        "G15: the thread that looks after leases opens a store again that was closed when the last run was over",
        KEEPER,
        "        if not held:  #",
        "        if held is None:  #",
        (T + "lease.py::test_a_store_that_fails_is_told_of_as_long_as_a_run_needs_it",),
    ),
    Bug(
        "runtime.living-owner-robbed",
        "G3: a run is taken from an owner that is alive",
        TAKING,
        "if lease is None or not self.is_dead(lease) else",
        "if lease is None else",
        (T + "existing_run.py::TestAttached::test_it_has_asked_for_the_run_in_vain",),
    ),
    Bug(
        "runtime.dead-owner-waited-for",
        "of an owner on this machine whose process is gone the lease is waited for",
        TAKING,
        "return is_elsewhere or owner.is_dead()",
        "return is_elsewhere",
        (T + "existing_run.py::TestInterrupted::test_a_killed_owner_is_dead_at_once",),
    ),
    Bug(
        "runtime.lease-not-given-back",
        "G5: a run that was interrupted cannot be had before its lease expires",
        DRIVE,
        """        else:
            await give_back(self._means.backend, self._ready.lease)""",
        """        else:
            await asyncio.sleep(0)""",
        (T + "cancellation.py::test_the_lease_is_free_at_once",),
    ),
    Bug(
        "runtime.cleaning-up-cancelled",
        "G5: a second cancellation cuts short how a run lets go",
        DRIVE,
        "                await finish(self._let_go())\n",
        "                await self._let_go()\n",
        (T + "cancellation.py::test_cancelled_while_a_run_is_taken_up",),
    ),
    Bug(
        "runtime.conflict-not-raised",
        "a run that exists is resumed for another input than it was started with",
        PROGRAM,
        '            raise _conflict(fold, "input")\n',
        "            pass\n",
        (T + "existing_run.py::TestConflict::test_another_input_is_a_conflict",),
    ),
    Bug(
        "runtime.changed-definition-taken",
        "a run goes on under a definition that is not its own",
        TAKING,
        "        program = self._catalogue.running(fold)\n        now",
        "        program = self._catalogue.current\n        now",
        (T + "existing_run.py::TestDefinition::test_a_registered_version_goes_on_as_it_began",),
    ),
    # ------------------------------------------------------------------------------------------- time and signals
    Bug(
        "runtime.timers-early",
        "a sleep, or the wait for a retry, ends before its time",
        WAITS,
        """        while (left := (moment - self._clock.now()).total_seconds()) > 0:
            await self._clock.sleep(left)
""",
        """        if (left := (moment - self._clock.now()).total_seconds()) > 0:
            await self._clock.sleep(left / 2)
""",
        (T + "sleep.py::TestBeside::test_the_nearest_timer_wakes_the_run",),
    ),
    Bug(
        "runtime.sleeps-anew",
        "G1: after a restart a sleep begins from its start",
        CALLS,
        "        await execution.waits.until(fold.timers[key])\n",
        "        await execution.waits.until(execution.clock.now() + timedelta(seconds=seconds))\n",
        (T + "sleep.py::test_a_sleep_survives_a_restart",),
    ),
    Bug(
        "runtime.answer-not-recorded",
        "G1: an answer is not durable when the run goes on with it",
        CALLS,
        """    await execution.journal.commit(answer)
    return answer""",
        """    execution.journal.fold.answers[key] = answer
    return answer""",
        (T + "waits.py::test_an_answer_is_on_record_before_anything_acts_on_it",),
    ),
    Bug(
        "runtime.invalid-answer-taken",
        "an answer that does not fit the schema ends the wait",
        WAITS,
        "                if accept(signal):\n",
        "                if accept(signal) or True:\n",
        (T + "signals.py::test_an_early_answer_that_turns_out_invalid_is_dropped",),
    ),
    Bug(
        "runtime.news-missed",
        "G4: a signal that comes while a run leaves memory wakes nobody",
        WAITS,
        "return len(self._known) if self._seen is None else self._seen",
        "return len(self._known)",
        (T + "signals.py::test_whenever_the_answer_comes_it_is_heard",),
    ),
    Bug(
        "runtime.parked-without-alarm",
        "G14: a run that leaves memory until later is not woken then",
        DRIVE,
        "wake_at=self.parked.wake_at, signals_read=signals_read)",
        "wake_at=self.parked.wake_at and datetime.max.astimezone(), signals_read=signals_read)",
        (T + "worker.py::test_it_wakes_what_sleeps_and_what_is_answered",),
    ),
    Bug(
        "runtime.stays-in-memory",
        "G14: a run that sleeps for long stays in memory",
        WAITS,
        "if wake_at is None or wake_at > self._clock.now() + MOMENT:",
        "if wake_at is None:",
        (T + "sleep.py::test_runs_that_were_started_leave_memory",),
    ),
    Bug(
        "runtime.cancel-lost",
        "G5: a run that nobody drives forgets that it was to be cancelled",
        DRIVE,
        "or execution.waits.pending(CANCEL) or self._is_late()",
        "or self._is_late()",
        (T + "control.py::TestCancel::test_a_run_that_nobody_drives_is_cancelled_as_well",),
    ),
    Bug(
        "runtime.pause-lost",
        "a run that was asked to pause goes on with its next step",
        EXECUTION,
        "            if self.waits.is_pausing:\n",
        "            if self.is_frozen:\n",
        (T + "control.py::TestPause::test_a_run_pauses_before_its_next_step",),
    ),
    Bug(
        "runtime.timeout-from-the-restart",
        "G8: the timeout of a run does not count what was before a restart",
        DRIVE,
        "return deadline is not None and deadline <= self._means.clock.now()",
        "return deadline is not None and deadline < self._ready.fold.started.at",
        (T + "run_timeout.py::test_it_counts_from_the_start_over_all_restarts",),
    ),
    # ------------------------------------------------------------------------------- pipelines, workflows, contexts
    Bug(
        "runtime.merge-ignores-conflict",
        "G11: of two branches that change one field the last one wins",
        CONTEXTS,
        "                if (other := writers.get(name)) is not None:\n",
        "                if (other := writers.get(name)) is not None and name in self._reducers:\n",
        (T + "context.py::test_two_branches_that_change_one_field_are_a_conflict",),
    ),
    Bug(
        "runtime.merge-by-completion",
        "G11: a reducer is given the changes of branches in another order than they are declared in",
        CONTEXTS,
        "        for scope in branches:\n            if scope.fields is base.fields:",
        "        for scope in reversed(branches):\n            if scope.fields is base.fields:",
        (T + "context.py::test_branches_come_together_by_their_reducers",),
    ),
    Bug(
        "runtime.selector-asked-again",
        "G1: after a crash a branch is chosen again, and may be another one",
        INTERPRETER,
        "        choice = self._journal.fold.choices.get(key)\n",
        "        choice = None\n",
        ("tests/crash/test_decisions.py::test_a_selector_is_not_asked_again_once_its_branch_has_begun",),
    ),
    Bug(
        "runtime.choice-not-durable",
        "G1: a branch begins before its choice is durable",
        INTERPRETER,
        "                await self._journal.record(self._execution.durability, chosen)\n",
        "                self._journal.note(chosen)\n",
        ("tests/crash/test_decisions.py::test_a_selector_is_not_asked_again_once_its_branch_has_begun",),
    ),
    Bug(
        "runtime.recorded-changes-dropped",
        "G1: after a restart the context lacks what recorded steps changed",
        CALLS,
        "    if outcome.patch:\n        scope.recall(outcome)\n",
        "",
        ("tests/crash/faults/test_clock.py::test_a_clock_that_jumps_changes_nothing_in_any_scene",),
    ),
    Bug(
        "runtime.occurrence-dropped",
        "two equal calls in a workflow are one, and the second gets the result of the first",
        LANES,
        'label if number == 1 else f"{label}@{number}"',
        "label",
        (T + "workflow.py::test_every_way_of_calling_steps_works",),
    ),
    Bug(
        "runtime.tasks-in-one-lane",
        "two interleaved chains of a workflow get each other's results",
        LANES,
        "        lane = brancher.branch(coroutine)\n",
        "        lane = LANE.get()\n",
        (T + "interleaving.py::test_each_chain_resumes_with_its_own_results",),
    ),
    Bug(
        "runtime.contradiction-ignored",
        "code that contradicts the journal goes on",
        REPLAY,
        "        self._execution.disprove(\n            NonDeterminismError(",
        "        repr(\n            NonDeterminismError(",
        (T + "interleaving.py::test_code_that_contradicts_the_journal_is_refused",),
    ),
    Bug(
        "runtime.left-over-ignored",
        "code that ends without asking for what was recorded completes",
        REPLAY,
        "        if left:\n",
        "        if left and self.is_over:\n",
        (T + "interleaving.py::test_code_that_contradicts_the_journal_is_refused",),
    ),
    Bug(
        "runtime.keeper-given-up",
        "G3: a thread for leases that could not be started once is never tried again, and nobody renews",
        KEEPER,
        "        thread = threading.Thread(target=self._run",
        "        self._thread = thread = threading.Thread(target=self._run",
        (T + "too_many_threads.py::test_a_run_whose_lease_nobody_could_keep_alive_is_given_back",),
    ),
    Bug(
        "runtime.failed-claim-forgotten",
        "G3: what a failed claim has taken all the same waits until the lease expires",
        "_runtime/scheduler.py",
        "            self._is_to_look_for_own = True\n",
        "",
        (T + "store_failure.py::test_what_a_failed_claim_has_taken_all_the_same_is_driven",),
    ),
    Bug(
        "runtime.child-waits-for-the-place-of-its-parent",
        "a run that has the last place waits for its child, and the child for that place",
        "_runtime/runner.py",
        "            with self._admission.letting_in(run_id):  # it may be here",
        "            with nullcontext():  # it may be here",
        (T + "admission.py::test_a_child_that_was_taken_up_by_itself_goes_in_the_place_of_its_parent",),
    ),
    Bug(
        "runtime.cancel-waits-for-a-place",
        "a run that waits for its place is cancelled when it has one",
        "_runtime/runner.py",
        "with self._admission.letting_in(run_id), suppress(RunCancelled, RunFailed):",
        "with suppress(RunCancelled, RunFailed):",
        (T + "admission.py::test_who_waits_for_a_place_hears_that_the_run_was_cancelled",),
    ),
    Bug(
        "runtime.place-for-a-result",
        "the result of a run that has ended waits until another run has",
        "_runtime/runner.py",
        "        return is_elsewhere or not self.taking.goes_on(request, seen)\n",
        "        return is_elsewhere\n",
        (T + "admission.py::test_what_is_not_driven_needs_no_place",),
    ),
    Bug(
        "runtime.children-given-anew",
        "a child that was started before a migration is compared with what the new definition gives it",
        FOLD,
        "        self.inherited = list(self.children)\n",
        "",
        (T + "migrate.py::TestChildrenUnderWay::test_it_goes_on_with_what_it_was_given",),
    ),
    Bug(
        "runtime.replaced-child-goes-on",
        "a child that does not count any more after a rollback is left to whoever takes it up",
        CALLS,
        "                await self.execution.children.cancel(run_id, reason)\n",
        "",
        (T + "children.py::TestRedrive::test_the_child_that_does_not_count_any_more_is_cancelled",),
    ),
    Bug(
        "runtime.children-left-alone",
        "G5: cancelling a run leaves its children to themselves",
        DRIVE,
        "        if children := children_to_end(self._execution.journal.fold):\n",
        "        if self._execution.journal.fold.rollback:\n",
        (T + "children.py::TestCancel::test_cancelling_a_parent_cancels_its_children_leaves_first",),
    ),
    Bug(
        "runtime.child-of-another",
        "a child made anew by code runs as the one of that name that was there first",
        PROGRAM,
        "        if known.pipeline != definition.pipeline:  # made anew by the code of a workflow\n",
        "        if False:\n",
        (T + "children.py::test_a_child_made_by_code_is_the_one_that_it_was_given",),
    ),
    Bug(
        "runtime.parent-not-told",
        "a parent that waits for a child is not woken when that ends",
        DRIVE,
        "            await execution.children.tell_parents(others, execution.run_id)\n",
        "            pass\n",
        (T + "children.py::test_the_parents_of_a_child_that_was_paused_and_goes_on_do_so",),
    ),
    Bug(
        "runtime.other-parents-not-told",
        "a child tells of its end only the run that has started it",
        DRIVE,
        "execution.waits.pending(PARENT))",
        "())",
        (T + "children.py::test_the_parents_of_a_child_that_was_paused_and_goes_on_do_so",),
    ),
    Bug(
        "runtime.progress-counts-again",
        "current_step_index counts the members of combinators too",
        FOLD,
        "self.current_step_index += is_top_level(fact.key) or self._is_fallback(fact.key)",
        "self.current_step_index += 1",
        ("tests/log/test_fold.py::test_the_index_counts_top_level_elements_that_are_done",),
    ),
    Bug(
        "runtime.begins-again-for-ever",
        "a workflow that is always replayed never gets past a sleep",
        "_runtime/drive.py",
        "        self._execution.journal.defer()",
        "        pass",
        (T + "sleep.py::test_a_workflow_that_is_always_replayed_sleeps_once",),
    ),
    Bug(
        "runtime.redriven-beside",
        "a workflow that did something beside a step that failed contradicts its log, once redriven and resumed",
        REPLAY,
        "        return place < fold.places[following]",
        "        return False",
        (T + "redrive.py::test_killed_at_every_commit_while_two_rows_are_tried_again",),
    ),
    Bug(
        "runtime.migration-with-the-last-answer",
        "a fork's update of a workflow's context is undone by what the code had recorded after the last answer",
        CONTEXTS,
        "        if self._changes >= sum(",
        "        if self._changes + 1 >= sum(",
        (T + "fork_and_diff.py::TestFork::test_what_code_has_changed_before_counts_no_more",),
    ),
    Bug(
        "runtime.graph-first-to-go-on",
        "an OR group in a graph: a cached step that is first in the log, and is not yet kept, loses after a crash only",
        GRAPH,
        "                    if not self._is_outrun(node):",
        "                    if True:",
        (T + "graph.py::test_the_first_of_a_group_is_the_first_in_the_log_however_long_it_takes_to_go_on",),
    ),
    # -------------------------------------------------------------------------------------------------- deleting
    Bug(
        "runtime.delete-leaves-children",
        "a run that is created again under its name takes over what a child of the deleted one has come to",
        "_runtime/control.py",
        "            level = [head.run_id for head in heads if head.run_id not in found]\n",
        "            level = []\n",
        ("tests/runtime/test_children.py::TestDelete::test_deleting_a_parent_deletes_all_below_it",),
    ),
    Bug(
        "runtime.delete-tells-nobody",
        "a parent whose child was deleted waits for ever",
        "_runtime/control.py",
        "        await self._runner.tell_parents([parent for parent in parents if parent not in tree], run_id)\n",
        "",
        ("tests/runtime/test_children.py::TestDelete::test_a_parent_whose_child_was_deleted_starts_it_anew",),
    ),
    # ------------------------------------------------------------------------------------------- turns of the loop
    Bug(
        "runtime.explores-by-real-time",
        "in an exploration the runs share the event loop by real time, and who wins a race depends on it",
        PACE,
        "        self._now = _stand_still\n",
        "        self._now = self._clock\n",
        ("tests/testing/test_explorer.py::test_a_race_between_steps_ends_alike_however_long_they_take",),
    ),
    Bug(
        "runtime.loop-held-up",
        "those who take long go on all at once, and the event loop stands still meanwhile",
        PACE,
        "                if (now := self._now()) >= until:",
        "                if (now := self._now()) < until:",
        (T + "pace.py::test_what_takes_long_is_done_once_in_a_while",),
    ),
    Bug(
        "runtime.loop-has-no-rest",
        "a task that a timer wakes waits for several of those who take long",
        PACE,
        "_TURNS_TO_WAKE: Final = 2",
        "_TURNS_TO_WAKE: Final = 0",
        (T + "pace.py::test_answers_wait_in_the_same_queue",),
    ),
    Bug(
        "runtime.all-begin-at-once",
        "runs that are started together are all encoded in one turn of the event loop",
        "_runtime/taking.py",
        "            await pace.turn()\n",
        "            pass\n",
        (T + "pace.py::test_runs_with_large_values_leave_the_loop_to_others",),
    ),
    Bug(
        "runtime.text-named-by-another",
        "a large text is named by the digest of the one before",
        BLOBS,
        "last is not None and tree is last.text:",
        "last is not None and last.text:",
        ("tests/log/test_facts.py::test_the_large_text_that_was_packed_last_is_not_packed_again",),
    ),
    Bug(
        "runtime.held-up-code-goes-on",
        "a run in which some code waits for a lock never comes to rest",
        ACTIVITY,
        "all(code.is_held_up for code in self._code)",
        "not self._code",
        ("tests/runtime/test_workflow_rest.py::TestBehindOthers::test_the_run_pauses",),
    ),
    Bug(
        "runtime.looks-at-code-once",
        "code that comes to a lock later is not looked at again",
        ACTIVITY,
        "if self._watcher is not None and self._code and self._later is None:",
        "if False:",
        ("tests/runtime/test_workflow_rest.py::TestBehindOthers::test_the_run_pauses",),
    ),
    Bug(
        "runtime.store-trouble-to-code",
        "the code of a workflow can catch what goes wrong with the store",
        WORKFLOW,
        "        except BackendError as trouble:  #",
        "        except ZeroDivisionError as trouble:  #",
        (T + "children.py::test_trouble_with_the_store_is_nothing_that_code_can_catch",),
    ),
    Bug(
        "runtime.recalled-over-the-code",
        "in a replay, what a step changed in the context overwrites what the code has changed by then",
        CONTEXTS,
        "patch = self._contexts.put_before(base, self.fields, lengthen(before, patch))",
        "patch = lengthen(before, patch)",
        ("tests/runtime/test_workflow_replayed_context.py::test_a_crash_changes_nothing_of_it",),
    ),
    Bug(
        "runtime.unrecorded-in-a-replay",
        "what the code has changed in a replay, and the log does not have, is never recorded",
        CONTEXTS,
        "            return diff(log.tree, self.fields)\n",
        "            return {}\n",
        ("tests/runtime/test_workflow_replayed_context.py::test_a_crash_changes_nothing_of_it",),
    ),
    Bug(
        "runtime.followers-end-where-a-run-rested",
        "whoever follows a run stops in its middle if it went on while the last events were read",
        READER,
        "                is_over = not follow  # that it rested is an old story\n",
        "",
        (T + "handle.py::TestEvents::test_a_follower_goes_on_with_a_run_that_goes_on_while_it_reads_its_last_events",),
    ),
    Bug(
        "runtime.one-name-for-all-claims",
        "G10, G11: who still drives a run that was deleted writes into the one that has its name now",
        "_runtime/scheduler.py",
        "driver.backend.claim(Owner.for_claim(owner), now=",
        "driver.backend.claim(owner, now=",
        (T + "created_anew.py::test_a_worker_that_drives_both_keeps_them_apart",),
    ),
    Bug(
        "runtime.versions-not-asked-for",
        "who shares a store with another version claims its runs, and puts them off for everybody",
        PROGRAM,
        "return ClaimQuery(definitions=frozenset(map(_key, self._definitions())))",
        "return ClaimQuery(pipeline_names=self.names())",
        (T + "rolling_deploy.py::test_workers_of_two_versions_delay_nobody[memory]",),
    ),
    Bug(
        "runtime.strangers-not-told",
        "nobody hears of runs whose version no worker knows",
        "_runtime/strangers.py",
        "            if self._told.get(name) != moment and (",
        "            if False and (",
        (T + "rolling_deploy.py::TestTelling::test_a_worker_tells_what_nobody_takes[memory]",),
    ),
    Bug(
        "runtime.another-run-goes-on",
        "G10, G11: a run that was created anew since it was looked at goes on from what the one before had done",
        READER,
        "if not found or found[0].hash != hash_:",
        "if not found:",
        (
            T + "created_anew.py::test_one_that_was_looked_at_before_is_looked_at_again",
            T + "inbox.py::test_whatever_happens_to_a_run_is_known",
        ),
    ),
    Bug(
        "runtime.waits-that-were-undone",
        "a runtime that has answered a run goes on believing what a redrive has undone",
        INBOX,
        "case RunRedriven() | RunMigrated():",
        "case RunMigrated():",
        (T + "inbox.py::test_whatever_happens_to_a_run_is_known",),
    ),
    Bug(
        "runtime.answers-read-too-early",
        "of many who answer a run at once some believe what was read before they asked",
        INBOX,
        "if kept.inbox is None or kept.rounds == rounds:",
        "if kept.inbox is None:",
        (T + "inbox.py::test_who_asks_while_somebody_reads_shares_what_is_read_next",),
    ),
    Bug(
        "runtime.missing-at-first-sight",
        "a run that is deleted and imported again while it is read counts as broken",
        "abc/logs.py",
        """        found = await store.read_blobs(run_id, named)  # it may""",
        """        found = found or {}  # it may""",
        (T + "verify.py::test_a_run_that_is_imported_again_while_it_is_read_is_whole",),
    ),
    Bug(
        "runtime.news-taken-for-old",
        "a run that wakes up takes the news of its children for what it knew when it was paused",
        WAITS,
        "self._learn(signals[: fold.awaited.signals])",
        "self._learn(signals)",
        (
            T + "bit_by_bit.py::test_a_parent_that_wakes_looks_at_the_child_that_has_news",
            T + "bit_by_bit.py::test_whichever_commit_fails_no_news_are_lost",
        ),
    ),
    Bug(
        "runtime.forks-know-children",
        "a fork, or a run that is tried again, takes what was seen of children before for what they are now",
        FOLD,
        "        self.awaited.forget()\n        self.error,",
        "        self.awaited.end()\n        self.error,",
        ("tests/log/test_awaited.py::test_after_a_fork_a_redrive_or_a_migration_a_pause_tells_all",),
    ),
    Bug(
        "runtime.decisions-since-now",
        "G13: each pause tells all decisions anew that are still to be made",
        WAITS,
        "since=begun.at, prompt=prompt",
        "since=self._clock.now(), prompt=prompt",
        (T + "effect_once.py::TestSeveral::test_what_is_left_to_decide_is_told_once",),
    ),
    Bug(
        "runtime.retention-cut-off",
        "a program that ends with its run deletes nothing, whatever its retention says",
        "_runtime/retention.py",
        "if not self._is_resting:",
        "if False:",
        (T + "retention.py::TestTrouble::test_closing_lets_a_look_come_to_its_end",),
    ),
    Bug(
        "runtime.early-answer-is-another",
        "an answer that came before its wait, sent again, is refused as another one",
        "_runtime/control.py",
        "if canonical(self._validated(inbox, posted.name, early)) == canonical(tree):",
        "if early is tree:",
        (T + "signals.py::test_an_early_answer_may_be_sent_again",),
    ),
    Bug(
        "runtime.schema-of-a-neighbour",
        "a pipeline beside a workflow says what answers to that have to be",
        "_runtime/control.py",
        "program.definition.pipeline.walk()",
        "program.definition.nodes()",
        (T + "signals.py::test_a_pipeline_beside_a_workflow_does_not_say_what_that_asks_for",),
    ),
)
