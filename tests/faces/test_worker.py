"""``worker``: real processes that take runs from queues, are asked to stop, and are killed."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faces.conftest import Project, eventually

YES = json.dumps({"is_yes": True, "by": "ann"})


class Working:
    """A worker at work, and what it tells."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hear(self, event: str, run_id: str | None = None) -> dict[str, Any]:
        """Return the next thing of a kind that the worker tells."""
        assert self.process.stdout
        for line in self.process.stdout:
            told = json.loads(line)
            if told["event"] == event and run_id in (None, told.get("run_id")):
                return dict(told)
        raise AssertionError(f"the worker never told {event}: {self.process.communicate()[1]}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)


@contextmanager
def working(project: Project, *options: str) -> Iterator[Working]:
    with project.cli.start("worker", "--flujo", "app:flujo", "--json", *options) as process:
        try:
            yield Working(process)
            process.communicate(timeout=50)
        finally:
            process.kill()


def test_it_executes_dispatched_runs_and_drains_when_it_is_asked_to_stop(project: Project) -> None:
    project.dispatch("held", "a", "b")
    with working(project) as worker:
        assert worker.hear("started")["queues"] == ["default"]
        assert {worker.hear("taken")["run_id"] for _ in "ab"} == {"a", "b"}
        worker.stop()
        assert worker.hear("draining")["runs"] == 2
        project.dispatch("held", "c")
        project.go()
        left = [worker.hear("left") for _ in "ab"]
        assert {(run["run_id"], run["status"]) for run in left} == {("a", "completed"), ("b", "completed")}
        assert worker.hear("stopped")["interrupted"] == 0
    assert worker.process.returncode == 0
    assert project.head("c").status == "pending"


def test_what_takes_too_long_is_interrupted_for_another_worker(one_project: Project) -> None:
    one_project.dispatch("held", "a")
    with working(one_project, "--drain-timeout", "0.1") as worker:
        worker.hear("taken", "a")
        eventually((one_project.directory / "holding").exists)
        worker.stop(signal.SIGINT)
        assert worker.hear("left")["is_interrupted"] is True
        assert worker.hear("stopped")["interrupted"] == 1
    assert worker.process.returncode == 0
    assert one_project.head("a").lease is None
    one_project.go()
    with working(one_project) as other:
        assert other.hear("left", "a")["status"] == "completed"
        other.stop()
    assert one_project.executed == ["pack", "pack"]


@pytest.mark.parametrize("pipeline", ["held", "blocked"])
def test_a_second_signal_ends_it_at_once(one_project: Project, pipeline: str) -> None:
    """Also where a thread cannot be stopped."""
    one_project.dispatch(pipeline, "a")
    with working(one_project, "--drain-timeout", "3600") as worker:
        eventually((one_project.directory / "holding").exists)
        worker.stop()
        worker.hear("draining")
        worker.stop()
        if pipeline == "held":
            assert worker.hear("left")["is_interrupted"] is True
            assert worker.hear("stopped")["interrupted"] == 1
        worker.process.wait(50)
    assert worker.process.returncode == 128 + signal.SIGTERM
    assert one_project.head("a").status == "running"


def test_another_worker_takes_over_from_one_that_was_killed(project: Project) -> None:
    project.dispatch("held", "a")
    with working(project) as worker:
        worker.hear("taken", "a")
        eventually((project.directory / "holding").exists)
        assert "Waits for" not in project("runs", "list").out
        worker.process.kill()
    assert project("runs", "list").out.splitlines()[-1].split() == ["a", "a", "worker", "of", "queue", "default"]
    assert "Driven by  nobody: a worker of queue default takes it\n" in project("runs", "show", "a").out
    project.go()
    with working(project) as other:
        assert other.hear("left", "a")["status"] == "completed"
        other.stop()
    assert other.process.returncode == 0
    assert project.executed == ["pack", "pack"]


def test_it_goes_on_with_a_run_that_is_answered(one_project: Project) -> None:
    one_project.dispatch("orders", "a")
    with working(one_project) as worker:
        assert worker.hear("left", "a")["status"] == "paused"
        answered = one_project("runs", "signal", "a", "approval", "--payload", YES)
        assert answered.code == 0
        assert answered.err.startswith("a worker of queue 'default' goes on with it")
        assert worker.hear("left", "a")["status"] in ("paused", "completed")
        one_project.wait_until("a", "completed")
        worker.stop()
    assert one_project.executed == ["pack", "ship"]


def test_it_takes_from_its_queues_only(one_project: Project) -> None:
    one_project.go()
    one_project.dispatch("held", "a")
    one_project.dispatch("held", "b", queue="mail")
    one_project.dispatch("held", "c", queue="bills")
    assert "a worker of queue mail" in one_project("runs", "list").out
    assert "Queue      mail, priority 0\n" in one_project("runs", "show", "b").out
    with working(one_project, "--queue", "mail", "--queue", "bills", "--concurrency", "1") as worker:
        assert {worker.hear("left")["run_id"] for _ in "bc"} == {"b", "c"}
        worker.stop()
    assert one_project.head("a").status == "pending"


def test_people_get_a_line_for_each_run(one_project: Project) -> None:
    one_project.go()
    one_project.dispatch("held", "a")
    with one_project.cli.start("worker") as process:
        assert process.stdout
        assert "app:flujo takes runs from queue 'default', 100 at a time\n" in process.stdout.readline()
        assert "  a: completed after " in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert [line.partition("  ")[2] for line in process.stdout] == ["stopping\n", "stopped\n"]
        assert process.wait(50) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--flujo", "app:in_memory"], "keeps its runs in memory"),
        (["--flujo", "app:nothing"], "module 'app' has no 'nothing'"),
        (["--concurrency", "0"], "--concurrency"),
        (["--drain-timeout", "-1"], "--drain-timeout"),
        (["--queue", ""], "a worker has queues"),
    ],
)
def test_a_worker_that_cannot_work(one_project: Project, arguments: list[str], told: str) -> None:
    finished = one_project("worker", *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert told in finished.err
