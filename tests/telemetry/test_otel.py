"""Runs as traces and metrics of OpenTelemetry, with its own SDK."""

import asyncio
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from flujo_async import (
    Flujo,
    InMemoryBackend,
    Retry,
    RunContext,
    StepContext,
    child,
    errors,
    facts,
    parallel,
    step,
    wait_for,
    workflow,
)
from flujo_async.telemetry import OpenTelemetryInstrument
from tests.runtime.children import ROOT, Child
from tests.telemetry.spans import Traced, exported


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
def instrument(traced: Traced) -> OpenTelemetryInstrument:
    return OpenTelemetryInstrument(traced.provider)


def current() -> str:
    return trace.format_span_id(trace.get_current_span().get_span_context().span_id)


@step
async def where(_: Any) -> str:
    await asyncio.sleep(0)
    return current()


@step(name="in_thread")
def where_in_thread(_: Any) -> str:
    return current()


@step(retry=Retry(max_attempts=2, base=0))
async def flaky(value: int, ctx: StepContext) -> int:
    if ctx.attempt == 1:
        raise ValueError("the first time")
    return value + 1


@step
async def fails(_: Any) -> None:
    raise ZeroDivisionError("no")


async def test_a_run_is_a_trace(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    flujo = Flujo(flaky >> child(where, name="inner"), pipeline_name="outer", instruments=[instrument])
    with traced.tracer.start_as_current_span("caller"):
        await flujo.run(1, run_id="r")
    tree = traced.tree
    assert tree.outline() == [
        "caller",
        "  run outer",
        "    step flaky",
        "      attempt flaky",
        "      attempt flaky",
        "    step inner",
        "    run inner",
        "      step where",
        "        attempt where",
    ]
    assert len(tree.trace_ids) == 1
    run, attributes = tree.only("run outer"), tree.only("step flaky")["attributes"]
    assert run["attributes"]["flujo.run.id"] == "r"
    assert run["attributes"]["flujo.run.status"] == "completed"
    assert tree.only("run inner")["attributes"]["flujo.run.parent_id"] == "r"
    assert (attributes["flujo.step.key"], attributes["flujo.step.attempts"]) == ("flaky", 2)
    first, second = tree.named("attempt flaky")
    assert first["status"] == {"status_code": "ERROR", "description": "ValueError: the first time"}
    assert first["attributes"]["error.type"] == "ValueError"
    assert first["events"][0]["attributes"]["exception.type"] == "ValueError"
    assert [span["attributes"]["flujo.attempt.outcome"] for span in (first, second)] == ["failed", "succeeded"]
    assert tree.only("step flaky")["status"] == {"status_code": "UNSET"}


async def test_spans_last_as_long_as_what_they_stand_for(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    flujo = Flujo(flaky, instruments=[instrument])
    result = await flujo.run(1)
    (record,) = result.steps
    run, span, attempt = (traced.tree.named(name)[0] for name in ("run flaky", "step flaky", "attempt flaky"))
    assert moment(run["start_time"]) == result.started_at
    assert moment(run["end_time"]) == result.finished_at
    assert moment(span["end_time"]) == record.finished_at
    assert moment(run["start_time"]) <= moment(span["start_time"]) <= moment(attempt["start_time"])


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_the_current_span_is_that_of_the_attempt(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    """In the task of a step or in its thread, also where several run at the same time."""
    result = await Flujo(parallel(where, where_in_thread) >> where, instruments=[instrument]).run(1)
    attempts = {span["context"]["span_id"][2:] for span in traced.tree.spans if span["name"].startswith("attempt")}
    assert len(attempts) == 3
    assert attempts == {record.output for record in result.steps}


async def test_parallel_calls_of_a_workflow_do_not_mix(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    @workflow
    async def many(count: int) -> list[str]:
        async def chain(number: int) -> str:
            with traced.tracer.start_as_current_span(f"mine {number}"):
                return await where(await where(number))

        return [current(), *await asyncio.gather(*map(chain, range(count))), current()]

    output = (await Flujo(many, instruments=[instrument]).run(10)).output
    tree = traced.tree
    run = tree.only("run many")["context"]["span_id"][2:]
    assert [output[0], output[-1]] == [run, run]
    assert len(set(output)) == 10 + 1
    assert len(tree.named("step where")) == len(tree.named("attempt where")) == 20
    steps = {span["context"]["span_id"] for span in tree.named("step where")}
    assert {span["parent_id"] for span in tree.named("attempt where")} == steps
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_run_that_was_killed_and_resumed_has_one_trace(tmp_path: Path) -> None:
    """The parents are right although one process was killed, and no step is there twice."""
    url, spans = f"sqlite:///{tmp_path}/runs.db", tmp_path / "spans"
    process = await Child.start("stop", url, spans, module="tests.telemetry.child")
    trace_id = await process.line()  # of what the first process was asked in; it is in the second attempt now
    await process.kill()
    assert exported(spans).outline() == ["step first (lost)", "  attempt first", "attempt second (lost)"]

    again = await Child.start("drive", url, spans, module="tests.telemetry.child")
    assert await again.line() == "3"
    assert await again.end() == 0
    tree = exported(spans)
    tree.spans.remove(tree.only("caller"))  # who asks for a run that exists is not its parent
    assert tree.trace_ids == {trace_id}
    assert tree.outline() == [
        "run sum (lost)",  # the parent is what the first process was in when it was killed
        "  step first",
        "    attempt first",
        "  step second",
        "    attempt second",
        "    attempt second",
    ]
    assert [span["attributes"]["flujo.attempt.number"] for span in tree.named("attempt second")] == [1, 2]


async def test_a_resumed_run_goes_on_in_its_trace(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    """Without a caller as well; and what was recorded is not exported again."""
    backend, elsewhere = InMemoryBackend(), Traced()
    await Flujo(where >> wait_for("go") >> flaky, state_backend=backend, instruments=[instrument]).run(1, run_id="r")
    assert traced.tree.outline() == ["step where (lost)", "  attempt where"]
    other = OpenTelemetryInstrument(elsewhere.provider)
    flujo = Flujo(where >> wait_for("go") >> flaky, state_backend=backend, instruments=[other])
    await flujo.signal("r", "go", 1)
    await flujo.run(run_id="r")
    assert elsewhere.tree.trace_ids == traced.tree.trace_ids
    assert elsewhere.tree.outline() == [
        "run where >> go >> flaky",
        "  step flaky",
        "    attempt flaky",
        "    attempt flaky",
    ]
    assert traced.tree.only("step where")["parent_id"] == elsewhere.tree.spans[0]["context"]["span_id"]


async def test_baggage_is_carried_along(instrument: OpenTelemetryInstrument) -> None:
    """And what whoever resumes the run has in hand is none of it."""

    @step
    async def who(_: Any) -> object:
        return dict(baggage.get_all())

    backend = InMemoryBackend()
    flujo = Flujo(wait_for("go") >> who, state_backend=backend, instruments=[instrument])
    token = context.attach(baggage.set_baggage("tenant", "one"))
    await flujo.run(1, run_id="r")
    context.detach(token)
    await flujo.signal("r", "go", 1)
    token = context.attach(baggage.set_baggage("tenant", "two"))
    result = await flujo.run(run_id="r")
    context.detach(token)
    assert result.output == {"tenant": "one"}


async def test_a_run_that_nobody_observed_at_first_has_one_trace_too() -> None:
    backend = InMemoryBackend()
    await Flujo(wait_for("go") >> where, state_backend=backend).run(1, run_id="r")
    one, two = Traced(), Traced()
    for traced in (one, two):
        instrument = OpenTelemetryInstrument(traced.provider)
        flujo = Flujo(wait_for("go") >> where, state_backend=backend, instruments=[instrument])
        if traced is two:
            await flujo.signal("r", "go", 1)
        await flujo.run(run_id="r")
    assert one.tree.spans == []
    assert two.tree.outline() == ["run go >> where", "  step where", "    attempt where"]


async def test_what_is_tried_again_stands_below_what_failed(
    traced: Traced, instrument: OpenTelemetryInstrument
) -> None:
    works = [False, False, True]

    @step
    async def weak(_: int) -> int:
        if not works.pop(0):
            raise ValueError("no")
        return 1

    flujo = Flujo(weak, instruments=[instrument])
    with pytest.raises(errors.RunFailed):
        await flujo.run(1, run_id="r")
    with pytest.raises(errors.RunFailed):
        await flujo.redrive("r")
    await flujo.redrive("r")
    one = ["run weak", "  step weak", "    attempt weak"]
    assert traced.tree.outline() == [*one, *(f"  {line}" for line in one), *(f"  {line}" for line in one)]
    statuses = [span["attributes"]["flujo.run.status"] for span in traced.tree.named("run weak")]
    assert sorted(statuses) == ["completed", "failed", "failed"]
    assert traced.tree.named("run weak")[0]["status"]["description"] == "ValueError: no"


async def test_a_fork_is_in_the_trace_of_its_source(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    flujo = Flujo(where, instruments=[instrument])
    await flujo.run(1, run_id="r")
    await flujo.fork("r", at=1, new_run_id="f")
    await flujo.run(run_id="f")
    one = ["run where", "  step where", "    attempt where"]
    assert traced.tree.outline() == [*one, *(f"  {line}" for line in one)]
    assert traced.tree.spans[-1]["attributes"]["flujo.run.id"] == "f"


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBased(TraceIdRatioBased(0))])
async def test_what_is_not_sampled_is_not_exported(sampler: Any) -> None:
    """In a process that samples everything neither: the run carries along that it is not."""
    silent, loud, backend = Traced(sampler), Traced(ParentBased(TraceIdRatioBased(1))), InMemoryBackend()
    instruments = [OpenTelemetryInstrument(silent.provider)]
    await Flujo(where >> wait_for("go"), state_backend=backend, instruments=instruments).run(1, run_id="r")
    flujo = Flujo(where >> wait_for("go"), state_backend=backend, instruments=[OpenTelemetryInstrument(loud.provider)])
    await flujo.signal("r", "go", 1)
    await flujo.run(run_id="r")
    assert silent.tree.spans == []
    assert [span["name"] for span in loud.tree.spans] == []


async def test_without_an_sdk_nothing_happens() -> None:
    """The API alone does nothing, and the run carries nothing along."""
    flujo = Flujo(where, instruments=[OpenTelemetryInstrument()])
    await flujo.run(1, run_id="r")
    started = (await flujo.history("r"))[0].fact
    assert isinstance(started, facts.RunStarted)
    assert started.carrier == {}


async def test_spans_of_others_keep_their_ids(traced: Traced, instrument: OpenTelemetryInstrument) -> None:
    """Two instruments on one provider do not get into each other's way either."""
    flujo = Flujo(where, instruments=[instrument])
    other = Flujo(where, instruments=[OpenTelemetryInstrument(traced.provider)], pipeline_name="other")
    await asyncio.gather(flujo.run(1), other.run(1))
    assert sorted(traced.tree.outline()) == sorted(
        ["run where", "run other", *["  step where"] * 2, *["    attempt where"] * 2]
    )
    assert len(traced.tree.trace_ids) == 2


async def test_the_global_provider_may_be_set_after_the_instrument(tmp_path: Path) -> None:
    script = """if True:
        import asyncio
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
        from flujo_async import Flujo, step
        from flujo_async.telemetry import OpenTelemetryInstrument

        flujo = Flujo(step(lambda value: value, name="same"), instruments=[OpenTelemetryInstrument()])
        provider = TracerProvider()
        exporter = ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        asyncio.run(flujo.run(1))
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert output.decode().split("\n") == ["attempt same", "step same", "run same", ""]


async def test_runs_steps_and_attempts_are_counted_and_measured(traced: Traced) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    try:
        instrument = OpenTelemetryInstrument(traced.provider, meters)
        flujo = Flujo(flaky >> fails, pipeline_name="sum", instruments=[instrument])
        for _ in range(2):
            with pytest.raises(errors.RunFailed):
                await flujo.run(1)
        found = measured(reader)
    finally:
        meters.shutdown()
    assert found["flujo.runs.started"] == {(): 2}
    assert found["flujo.runs.ended"] == found["flujo.run.duration"] == {("failed",): 2}
    assert found["flujo.runs.driven"] == {(): 0}
    assert found["flujo.steps"] == found["flujo.step.duration"] == {("flaky", "succeeded"): 2, ("fails", "failed"): 2}
    assert found["flujo.attempts"] == found["flujo.attempt.duration"]
    assert found["flujo.attempts"] == {("failed", "flaky"): 2, ("succeeded", "flaky"): 2, ("failed", "fails"): 2}
    assert found["flujo.retries"] == {("flaky",): 2}


async def test_what_is_used_is_counted_once(traced: Traced) -> None:
    """By the run that has used it, not by its parent; that of a failed attempt, too."""

    @step(retry=Retry(max_attempts=2, base=0))
    async def ask(value: int, ctx: StepContext) -> int:
        ctx.report_usage(tokens={"input": 10, "output": 1}, cost="0.5")
        if ctx.attempt == 1:
            raise ValueError("the first time")
        return value

    @workflow(name="sum")
    async def answer(value: int, ctx: RunContext) -> int:
        ctx.report_usage(tokens=7)
        return await ask(value)

    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    try:
        instrument = OpenTelemetryInstrument(traced.provider, meters)
        result = await Flujo(child(answer, name="inner"), pipeline_name="sum", instruments=[instrument]).run(1)
        found = measured(reader)
    finally:
        meters.shutdown()
    assert (result.usage.tokens, float(result.usage.cost)) == (29, 1.0)
    assert found["flujo.usage.tokens"] == {("ask", "input"): 20, ("ask", "output"): 2, ("sum",): 7}
    assert found["flujo.usage.cost"] == {("ask",): 1.0}


def measured(reader: InMemoryMetricReader) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what was counted, by the values of the attributes that are not the name of the definition."""
    data: Any = reader.get_metrics_data()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        points = found.setdefault(metric.name, {})
        for point in metric.data.data_points:
            attributes = dict(point.attributes)
            assert attributes.pop("flujo.pipeline.name") in ("sum", "inner")
            values = tuple(attributes[name] for name in sorted(attributes))
            points[values] = point.count if hasattr(point, "count") else point.value
    return found
