"""Runs in the log of the program."""

import logging

import pytest

from flujo_async import Flujo, Retry, StepContext, child, errors, sleep, step, wait_for
from flujo_async.telemetry import LoggingInstrument


@step(retry=Retry(max_attempts=2, base=0))
async def flaky(value: str, ctx: StepContext) -> str:
    if ctx.attempt == 1:
        raise ValueError("the first time")
    return value


@step
async def same(value: str) -> str:
    return value


@step
async def fails(_: str) -> None:
    raise ZeroDivisionError("no")


async def test_a_run_is_told_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    flujo = Flujo(flaky >> fails, pipeline_name="sum", instruments=[LoggingInstrument()])
    with caplog.at_level(logging.DEBUG, "flujo_async.run"), pytest.raises(errors.RunFailed):
        await flujo.run("a secret", run_id="r")
    told = [(record.levelname, record.getMessage().partition(" after ")[0]) for record in caplog.records]
    started, failed, again, lost, end = told
    assert started[0] == "INFO"
    assert started[1].startswith("run 'r' is started: sum ")
    assert failed == (
        "WARNING",
        "run 'r' step 'flaky': attempt 1 failed, the next is in 0.000 s: ValueError: the first time",
    )
    assert again == ("INFO", "run 'r' step 'flaky': done")
    assert lost == ("ERROR", "run 'r' step 'fails': failed")
    assert end == ("ERROR", "run 'r' has failed: ZeroDivisionError: no")
    assert "secret" not in caplog.text
    assert {record.name for record in caplog.records} == {"flujo_async.run"}


async def test_the_fields_of_a_line_can_be_searched(caplog: pytest.LogCaptureFixture) -> None:
    flujo = Flujo(flaky >> fails, pipeline_name="sum", instruments=[LoggingInstrument()])
    with caplog.at_level(logging.INFO, "flujo_async.run"), pytest.raises(errors.RunFailed):
        await flujo.run("x", run_id="r")
    fields = [
        {name.removeprefix("flujo_"): value for name, value in vars(record).items() if name.startswith("flujo_")}
        for record in caplog.records
    ]
    assert [(line["seq"], line["kind"]) for line in fields] == [
        (1, "RunStarted"),
        (2, "AttemptFailed"),
        (3, "StepCompleted"),
        (4, "StepFailed"),
        (5, "RunFailed"),
    ]
    assert {(line["run_id"], line["pipeline"]) for line in fields} == {("r", "sum")}
    assert [line.get("step") for line in fields] == [None, "flaky", "flaky", "fails", None]
    assert [line.get("attempt") for line in fields] == [None, 1, 2, 1, None]
    assert [line.get("error") for line in fields][-1] == "ZeroDivisionError: no"
    assert all(line["duration"] >= 0 for line in fields[2:])


async def test_waits_children_and_controls_are_told(caplog: pytest.LogCaptureFixture) -> None:
    definition = sleep(0.001) >> wait_for("go") >> child(same, name="inner")
    flujo = Flujo(definition, pipeline_name="outer", instruments=[LoggingInstrument("mine")])
    with caplog.at_level(logging.DEBUG, "mine"):
        await flujo.run("x", run_id="r")
        await flujo.signal("r", "go", "y")
        await flujo.run(run_id="r")
    text = "\n".join(record.getMessage() for record in caplog.records)
    for said in (
        "sleep 'sleep': over",
        "wait 'go': begins",
        "run 'r' is paused, and waits for signal 'go'",
        "run 'r' is taken up (requested)",
        "wait 'go': answered",
        "child run 'r/inner': started",
        "run 'r/inner' is completed",
        "run 'r' is completed",
    ):
        assert said in text, said
    inner = next(record for record in caplog.records if "'r/inner' is completed" in record.getMessage())
    assert vars(inner)["flujo_parent_run_id"] == "r"


async def test_a_quiet_logger_is_not_asked_to_format(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.quiet")
    flujo = Flujo(same, instruments=[LoggingInstrument(logger)])
    with caplog.at_level(logging.WARNING, "tests.quiet"):
        await flujo.run("x")
    assert caplog.records == []


async def test_nothing_is_logged_unless_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "flujo_async"):
        await Flujo(same).run("x")
    assert caplog.records == []
