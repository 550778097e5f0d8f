"""Bugs in what observes runs, and in what calls it."""

from __future__ import annotations

from tests.bite.bug import Bug

JOURNAL = "_runtime/journal.py"
TELLER = "_runtime/instruments.py"
TRACES = "telemetry/otel_traces.py"
OTEL = "telemetry/otel.py"
INSTRUMENTS = "tests/telemetry/test_instruments.py::test_"
SPANS = "tests/telemetry/test_otel.py::test_"

BUGS = (
    Bug(
        "telemetry.tells-too-early",
        "a fact is told of before it is durable",
        JOURNAL,
        "        writing.when_done(tell)\n",
        "        self.on_durable and self.on_durable(unheard)\n",
        (f"{INSTRUMENTS}what_was_not_written_is_not_told",),
    ),
    Bug(
        "telemetry.tells-of-failures",
        "a write that has failed is told of",
        JOURNAL,
        "            if writing.exception() is None and self.on_durable is not None:\n",
        "            if self.on_durable is not None:\n",
        (f"{INSTRUMENTS}what_was_not_written_is_not_told",),
    ),
    Bug(
        "telemetry.tells-twice",
        "what was told is told again with the next write",
        JOURNAL,
        "        unheard, self._unheard = self._unheard, []\n",
        "        unheard = self._unheard\n",
        (f"{INSTRUMENTS}an_instrument_hears_of_every_fact_of_a_run",),
    ),
    Bug(
        "telemetry.lets-errors-through",
        "an instrument that raises breaks the run",
        TELLER,
        "        except Exception:  # whatever it is, the run goes on\n",
        "        except KeyError:\n",
        (f"{INSTRUMENTS}an_instrument_that_raises_breaks_nothing",),
    ),
    Bug(
        "telemetry.nags",
        "an instrument that raises fills the log",
        TELLER,
        "            self._told.add((id(instrument), method))\n",
        "",
        (f"{INSTRUMENTS}an_instrument_that_raises_breaks_nothing",),
    ),
    Bug(
        "telemetry.attempt-too-early",
        "waiting for a turn counts as part of an attempt",
        "_runtime/one_attempt.py",
        """        async with AsyncExitStack() as stack:
            await self._enter(stack)
            if policy.effect""",
        """        async with AsyncExitStack() as stack:
            self._begin(self._execution.clock.now())
            await self._enter(stack)
            if policy.effect""",
        (f"{INSTRUMENTS}waiting_for_a_turn_is_not_part_of_an_attempt",),
    ),
    Bug(
        "telemetry.ids-by-chance",
        "the span of a run has another id in each process",
        TRACES,
        "        return tracer, nullcontext() if ids is None else ids.chosen(span_id, trace_id, is_random=is_random)\n",
        "        return tracer, nullcontext()\n",
        (f"{SPANS}a_run_is_a_trace", f"{SPANS}a_run_that_was_killed_and_resumed_has_one_trace"),
    ),
    Bug(
        "telemetry.forgets-the-carrier",
        "what a run carries along is not looked at: a fork begins a trace of its own",
        TRACES,
        "        carried = propagate.extract(run.carrier, Context())\n",
        "        carried = Context()\n",
        (f"{SPANS}a_fork_is_in_the_trace_of_its_source",),
    ),
    Bug(
        "telemetry.samples-anew",
        "each process decides anew whether a run is sampled",
        TRACES,
        "        if place.own.is_valid and not place.own.trace_flags.sampled:",
        "        if False:",
        (f"{SPANS}what_is_not_sampled_is_not_exported",),
    ),
    Bug(
        "telemetry.leaves-its-context",
        "the span of a run stays the current one when the run has ended",
        OTEL,
        "            context.detach(token)\n",
        "            del token\n",
        (f"{SPANS}parallel_calls_of_a_workflow_do_not_mix",),
    ),
)
