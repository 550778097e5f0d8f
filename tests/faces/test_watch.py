"""``runs watch``: a run that another process drives, seen as it goes on."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from io import StringIO
from typing import Any

from rich.console import Console

from flujo_async import InMemoryBackend, StateBackend
from flujo_async._log.fold import Fold, fold_log
from flujo_async._model.facts import AttemptFailed, StepCompleted, WaitStarted
from flujo_async._model.summary import RunSummary
from flujo_async.backends import backend_from_url
from flujo_async.cli.watch import LivePage
from tests.faces.conftest import CommandLine, Project, eventually, on_terminal
from tests.faces.test_control import YES
from tests.faces.test_runs import LATER, T0, create, paused, started
from tests.faces.test_spans import WRONG


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what a process prints, as it comes."""
    assert process.stdout
    for line in process.stdout:
        yield line.rstrip("\n")


def said(line: str) -> str:
    """Return a line without its time."""
    return line.partition("  ")[2]


def test_it_follows_a_run_until_it_ends(project: Project) -> None:
    with project.hold("held", "a") as driver, project.cli.start("runs", "watch", "a") as watcher:
        shown = lines(watcher)
        assert said(next(shown)) == "started: held"
        assert said(next(shown)).startswith("pack@1: done, ")
        project.go()
        assert [said(line).partition(",")[0] for line in shown] == ["hold: done", "pack@3: done", "completed", ""]
        assert watcher.wait(50) == 0
        driver.communicate(timeout=50)


def test_it_ends_where_the_run_rests(one_project: Project) -> None:
    one_project.run("orders", "a")
    watched = one_project("runs", "watch", "a")
    assert (watched.code, watched.err) == (0, "")
    *_, wait, pause, end = watched.out.splitlines()
    assert said(wait) == "waits for signal approval: Ship it?"
    assert said(pause) == "paused; waits for signal approval"
    assert end == "run 'a' is paused: it waits for signal approval: Ship it?"


def test_json_has_every_fact_on_a_line_and_then_the_run(project: Project) -> None:
    project.run("orders", "a")
    *facts, end = read(project("runs", "watch", "a", "--json").out)
    assert [fact["seq"] for fact in facts] == [1, 2, 3, 4]
    assert [fact["kind"] for fact in facts] == ["RunStarted", "StepCompleted", "WaitStarted", "RunPaused"]
    assert facts == project("runs", "history", "a", "--json").json
    assert end == {"kind": "Rested", "run": project("runs", "list", "--json").json[0]}
    assert [line.get("seq") for line in read(project("runs", "watch", "a", "--json", "--after", "3").out)] == [4, None]


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_exit_code_tells_that_the_run_failed(one_project: Project) -> None:
    (one_project.directory / "closed").touch()
    one_project.run("orders", "a")
    answer = json.dumps({"is_yes": True, "by": "ann"})
    assert one_project("runs", "signal", "a", "approval", "--payload", answer, "--resume").code == 1
    watched = one_project("runs", "watch", "a")
    assert watched.code == 1
    assert said(watched.out.splitlines()[-2]) == "failed: ConnectionError: the shop is closed"
    assert watched.out.endswith("run 'a' is failed\n")
    assert one_project("runs", "cancel", "a").code == 1


def test_ctrl_c_stops_watching_and_nothing_else(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver:
        with one_project.cli.start("runs", "watch", "a") as watcher:
            next(lines(watcher))
            watcher.send_signal(signal.SIGINT)
            _, err = watcher.communicate(timeout=50)
        assert (watcher.returncode, err) == (130, "stopped watching run 'a', which goes on as before\n")
        one_project.go()
        driver.communicate(timeout=50)
    assert one_project.head("a").status == "completed"


def test_a_run_that_nobody_drives_is_told_and_followed_as_soon_as_somebody_does(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver:
        driver.kill()
    with one_project.cli.start("runs", "watch", "a") as watcher:
        assert watcher.stderr
        assert watcher.stderr.readline() == "nobody drives run 'a': `flujo-async runs resume a` would\n"
        one_project.go()
        assert one_project("runs", "resume", "a").code == 0
        out, _ = watcher.communicate(timeout=50)
    assert "  taken up\n" in out
    assert out.endswith("run 'a' is completed\n")


def test_a_run_that_has_its_answer_is_followed_as_soon_as_somebody_goes_on_with_it(one_project: Project) -> None:
    """Also when whoever does is only about to, as a worker is."""
    one_project.run("orders", "a")
    assert one_project("runs", "signal", "a", "approval", "--payload", YES).code == 0
    with one_project.cli.start("runs", "watch", "a") as watcher:
        assert watcher.stderr
        told = watcher.stderr.readline()
        assert told == "run 'a' has its answer: `flujo-async runs resume a` goes on with it, if no runtime does\n"
        assert one_project("runs", "resume", "a").code == 0
        out, _ = watcher.communicate(timeout=50)
    assert out.endswith("run 'a' is completed\n")
    assert watcher.returncode == 0


def test_a_run_that_is_deleted_is_watched_no_longer(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver:
        with one_project.cli.start("runs", "watch", "a") as watcher:
            next(lines(watcher))
            assert one_project("runs", "delete", "a", "--yes").code == 0
            _, err = watcher.communicate(timeout=50)
        driver.kill()
    assert (watcher.returncode, err) == (2, "flujo-async: run 'a' was deleted\n")


def test_there_is_no_such_run_to_watch(one_project: Project) -> None:
    one_project.run("orders", "a")
    assert one_project("runs", "watch", "nobody").code == 2


def test_a_terminal_has_a_page(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver:
        eventually(lambda: one_project.head("a").last_seq == 2)
        one_project.go()
        shown = on_terminal(one_project.cli, "runs", "watch", "a")
        driver.communicate(timeout=50)
    last = shown[shown.rindex("held") :]
    assert "completed" in last
    assert "pack@3" in last
    assert "Ctrl-C" not in last
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_retry_is_told_in_one_line_of_a_terminal(cli: CommandLine) -> None:
    asyncio.run(fail_an_attempt(backend_from_url(f"sqlite:///{cli.directory}/runs.db")))
    shown = on_terminal(cli, "runs", "watch", "a", "--db", "runs.db", NO_COLOR="1")
    *_, line = (line for line in shown.split("\r\n") if line.startswith("↻"))
    assert line == "↻ find: attempt 2 failed (ConnectionError: the index is…), the next is under way"
    assert len(line) == 80


def test_a_page_has_room_for_what_the_run_waits_for() -> None:
    """However long the names of its steps are, and however many of these are tried again."""
    head, fold = asyncio.run(busy())
    out = StringIO()
    page = LivePage(Console(file=out, width=60, height=24, force_terminal=True, color_system=None))
    with page.open():
        page.draw(head, fold)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert len(lines) < 24
    assert lines[1] == "18 earlier steps"
    assert lines[-9].split() == ["map_each/29/wo…ame_of_a_step", "succeeded", "1", "0", "ms"]
    assert lines[-8] == "↻ map_each/0/wo…ame_of_a_ste: attempt 1 failed (ConnectionE…"
    assert lines[-4:] == [
        "↻ 6 more are tried again",
        "? waits for signal approval: Ship it?",
        "",
        "Ctrl-C stops watching, not the run",
    ]


async def busy() -> tuple[RunSummary, Fold]:
    """Return a run with many steps that have long names, of which some are tried again, and a question."""
    keys = [f"map_each/{n}/work_with_a_rather_long_name_of_a_step" for n in range(30)]
    done = [StepCompleted(at=T0, key=key, name="work", started_at=T0, attempts=1, output=1) for key in keys]
    late = [AttemptFailed(at=T0, key=key[:-1], name="w", attempt=1, error=WRONG, retry_at=LATER) for key in keys[:10]]
    async with InMemoryBackend() as backend:
        await create(
            backend, started("a"), *done, *late, WaitStarted(at=T0, key="wait", name="approval", prompt="Ship it?")
        )
        stored = await backend.load("a")
        assert stored is not None
        return stored.summary, fold_log("a", stored.records)


async def fail_an_attempt(backend: StateBackend) -> None:
    failed = AttemptFailed(at=T0, key="find", name="find", attempt=2, error=WRONG, retry_at=T0)
    async with backend:
        await create(backend, started("a"), failed, paused())
