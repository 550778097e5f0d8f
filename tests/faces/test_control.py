"""Acting on runs: signals, resuming, pausing, cancelling, trying again, forking, deleting."""

import json
import re
import shlex
import signal

import pytest

from tests.faces.conftest import Project, eventually, on_terminal

YES = json.dumps({"is_yes": True, "by": "ann"})


def test_an_answer_is_kept_and_the_run_goes_on_when_it_is_resumed(project: Project) -> None:
    project.run("orders", "a")
    answered = project.cli("runs", "signal", "a", "approval", "--payload", YES)
    assert (answered.code, answered.err) == (0, "`flujo-async runs resume a` goes on with it, if no runtime does\n")
    assert "Signals    1 that nobody has read yet\n" in answered.out
    assert project.executed == ["pack"]
    assert project.head("a").status == "paused"

    resumed = project.cli("runs", "resume", "a")
    assert (resumed.code, resumed.err) == (0, "")
    assert resumed.out == "Run     a\nStatus  completed\nOutput  'shipped for ann'\n"
    assert project.executed == ["pack", "ship"]
    assert project("runs", "resume", "a").out == resumed.out
    assert project.executed == ["pack", "ship"]


def test_the_answer_comes_from_the_standard_input_and_the_run_goes_on_at_once(project: Project) -> None:
    project.run("orders", "a")
    command = ("runs", "signal", "a", "approval", "--payload-file", "-", "--resume", "--json")
    finished = project.cli(*command, answer=YES)
    assert finished.code == 0, finished.err
    assert finished.json["status"] == "completed"
    assert finished.json["output"] == "shipped for ann"
    assert [step["key"] for step in finished.json["steps"]] == ["pack", "ship"]


def test_the_answer_comes_from_a_file(one_project: Project) -> None:
    one_project.run("orders", "a")
    (one_project.directory / "answer.json").write_text(YES)
    assert one_project("runs", "signal", "a", "approval", "--payload-file", "answer.json").code == 0
    assert one_project.head("a").signals == 1


def test_a_store_alone_takes_an_answer_that_it_cannot_check(one_project: Project) -> None:
    one_project.run("orders", "a")
    answered = one_project("runs", "signal", "a", "approval", "--payload", YES, "--db", "runs.db")
    assert answered.code == 0
    assert answered.err.startswith("the answer could not be checked: ")
    assert "\n`flujo-async runs resume a --flujo MODULE:ATTRIBUTE` goes on with it, " in answered.err
    assert one_project("runs", "resume", "a", "--json").json["output"] == "shipped for ann"


def test_an_answer_to_another_question_is_kept(one_project: Project) -> None:
    one_project.run("orders", "a")
    answered = one_project("runs", "signal", "a", "color", "--payload", '"red"')
    assert answered.code == 0
    assert answered.err.startswith("run 'a' does not wait for 'color' now; it is kept until it does\n")


def test_who_goes_on_is_told_as_it_is_to_be_typed(one_project: Project) -> None:
    """Without pyproject.toml, ``runs resume`` is to be told the Flujo as well."""
    (one_project.directory / "pyproject.toml").unlink()
    one_project.run("orders", "a b")
    answered = one_project("runs", "signal", "a b", "approval", "--payload", YES, "--flujo", "app:flujo")
    assert one_project(*hinted(answered.err)).code == 0


def test_who_takes_up_a_run_is_told_as_it_is_to_be_typed(one_project: Project) -> None:
    """By those who show it and who watch it: of one that was interrupted, of one that nobody has begun."""
    (one_project.directory / "pyproject.toml").unlink()
    with one_project.hold("held", "a b") as driver:
        driver.kill()
    shown = one_project("runs", "show", "a b", "--flujo", "app:flujo")
    resume = hinted(shown.out)
    with one_project.cli.start("runs", "watch", "a b", "--flujo", "app:flujo") as watcher:
        assert watcher.stderr
        told = watcher.stderr.readline()
        watcher.send_signal(signal.SIGINT)
        watcher.communicate(timeout=50)
    assert told.startswith("nobody drives run 'a b'")
    assert hinted(told) == resume
    assert hinted(one_project("runs", "show", "a b", "--db", "runs.db").out, "MODULE:ATTRIBUTE") != resume
    forked = one_project("runs", "fork", "a b", "--new-run-id", "c d", "--flujo", "app:flujo")
    assert hinted(forked.out, run_id="c d") == [*resume[:2], "c d", *resume[3:]]
    one_project.go()
    assert one_project(*resume).code == 0


def hinted(text: str, flujo: str = "app:flujo", run_id: str = "a b") -> list[str]:
    """Return the command that is recommended to have a run go on."""
    hint = re.search("`flujo-async (.*)`", text)
    assert hint, text
    assert hint[1] == f"runs resume {shlex.quote(run_id)} --flujo {flujo}"
    return shlex.split(hint[1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a", "approval", "--payload", "yes"], "--payload is no JSON: "),
        (["a", "approval", "--payload", "NaN"], "--payload is no JSON: NaN is no JSON"),
        (["a", "approval", "--payload", "1", "--payload-file", "-"], "give one of them"),
        (["a", "approval", "--payload-file", "nowhere.json"], "--payload-file cannot be read: "),
        (["a", "approval", "--payload", '"yes"'], "run 'a': this is no answer to 'approval': "),
        (["a", "", "--payload", "1"], "flujo-async: "),
        (["nobody", "approval"], "there is no run 'nobody'; `runs list` names them all"),
    ],
)
def test_what_is_no_answer_changes_nothing(one_project: Project, arguments: list[str], told: str) -> None:
    one_project.run("orders", "a")
    finished = one_project("runs", "signal", *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert told in finished.err
    assert finished.err.count("\n") == 1
    assert one_project.head("a").signals == 0


def test_the_first_answer_counts(one_project: Project) -> None:
    one_project.run("orders", "a")
    command = ("runs", "signal", "a", "approval", "--payload")
    assert one_project(*command, YES).code == 0
    assert one_project(*command, YES).code == 0
    other = one_project(*command, YES.replace("ann", "bob"))
    assert other.code == 2
    assert "has another answer to 'approval' already" in other.err


def test_cancel_undoes_what_was_done(project: Project) -> None:
    project.run("undone", "a")
    cancelled = project("runs", "cancel", "a", "--reason", "out of tea")
    assert (cancelled.code, cancelled.err) == (0, "")
    assert cancelled.out == "Run     a\nStatus  cancelled\nReason  out of tea\n"
    assert project.executed == ["pack", "unpack"]
    resumed = project("runs", "resume", "a")
    assert (resumed.code, resumed.out) == (1, "")
    assert resumed.err == "flujo-async: run 'a' was cancelled: out of tea\n"


def test_cancel_reaches_another_process(project: Project) -> None:
    with project.hold("held", "a") as driver:
        cancelled = project.cli("runs", "cancel", "a", "--json")
        assert (cancelled.code, cancelled.json["status"]) == (0, "cancelled")
        assert "RunCancelled" in driver.communicate(timeout=50)[1]


def test_what_has_ended_is_neither_cancelled_nor_paused(one_project: Project) -> None:
    one_project.go()
    one_project.run("held", "a")
    cancelled, paused = one_project("runs", "cancel", "a"), one_project("runs", "pause", "a")
    assert (cancelled.code, paused.code) == (1, 1)
    assert cancelled.err == "run 'a' is completed: it ended before it was cancelled\n"
    assert paused.err == "run 'a' is completed: there is nothing to pause\n"


def test_pause_reaches_another_process_at_its_next_step(project: Project) -> None:
    with project.start("ticking", "a") as driver:
        eventually(lambda: "pack" in project.executed)
        paused = project.cli("runs", "pause", "a")
        assert (paused.code, paused.err) in [(0, "run 'a' pauses before its next step\n"), (0, "")]
        driver.communicate(timeout=50)
    assert project.head("a").status == "paused"
    assert "Waits for  `runs resume`: somebody paused it, since " in project("runs", "show", "a").out
    project.go()
    resumed = project.cli("runs", "resume", "a", "--json")
    assert (resumed.code, resumed.json["status"]) == (0, "completed")
    assert project.executed == ["pack"]


def test_a_store_alone_is_enough_to_pause_what_nobody_drives(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver:
        driver.kill()
    paused = one_project("runs", "pause", "a", "--db", "runs.db", "--json")
    assert (paused.code, paused.json["status"]) == (0, "paused")
    assert [waiting["kind"] for waiting in paused.json["waiting_for"]] == ["pause"]


def test_a_killed_run_is_shown_as_interrupted_and_resumed(project: Project) -> None:
    with project.hold("held", "a") as driver:
        driver.kill()
    assert "interrupted" in project("runs", "list").out
    assert "nobody: `flujo-async runs resume a` takes it up" in project("runs", "show", "a").out
    project.go()
    assert project("runs", "resume", "a").code == 0
    assert project.executed == ["pack", "pack"]


def test_ctrl_c_interrupts_a_run_that_can_be_resumed(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver:
        driver.kill()
    (one_project.directory / "holding").unlink()
    with one_project.cli.start("runs", "resume", "a") as process:
        eventually((one_project.directory / "holding").exists)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=50)
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted; every step so far is kept, and `flujo-async runs resume a` goes on from there\n"
    assert one_project.head("a").lease is None
    one_project.go()
    assert one_project("runs", "resume", "a", "--json").json["status"] == "completed"


def test_resume_waits_for_a_run_that_is_driven_elsewhere(one_project: Project) -> None:
    with one_project.hold("held", "a") as driver, one_project.cli.start("runs", "resume", "a") as waiting:
        assert waiting.stderr
        assert waiting.stderr.readline() == "run 'a' is driven elsewhere: waiting for it\n"
        one_project.go()
        assert "Status  completed" in waiting.communicate(timeout=50)[0]
        driver.communicate(timeout=50)
    assert one_project.executed == ["pack", "pack"]


def fail(project: Project) -> None:
    (project.directory / "closed").touch()
    project.run("orders", "a")
    failed = project("runs", "signal", "a", "approval", "--payload", YES, "--resume")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err == "flujo-async: run 'a' failed at 'ship': ConnectionError: the shop is closed\n"


def test_resume_tells_of_a_run_that_had_failed_what_tries_it_again(one_project: Project) -> None:
    fail(one_project)
    executed = one_project.executed
    resumed = one_project("runs", "resume", "a")
    assert (resumed.code, resumed.out) == (1, "")
    first, second = resumed.err.splitlines()
    assert first == "flujo-async: run 'a' failed at 'ship': ConnectionError: the shop is closed"
    assert second == "this is what is recorded: nothing was executed now, and a redrive tries it again"
    assert one_project.executed == executed


def test_redrive_tries_a_dead_letter_again(project: Project) -> None:
    fail(project)
    header, line = project("dead-letters", "list").out.splitlines()
    assert header.split() == ["Run", "Pipeline", "Failed", "Error"]
    assert line.split()[:2] == ["a", "orders"]
    assert line.endswith("ConnectionError: the shop is closed")

    again = project.cli("runs", "redrive", "a", "--json")
    assert (again.code, again.json["status"]) == (1, "failed")
    (project.directory / "closed").unlink()
    redriven = project.cli("runs", "redrive", "a")
    assert (redriven.code, redriven.out) == (0, "Run     a\nStatus  completed\nOutput  'shipped for ann'\n")
    empty = project("dead-letters", "list")
    assert (empty.code, empty.out, empty.err) == (0, "", "no run has failed\n")
    assert project("dead-letters", "list", "--json").json == []
    assert project("runs", "redrive", "a").code == 2


def test_redrive_can_skip_the_step_that_failed(one_project: Project) -> None:
    fail(one_project)
    lonely = one_project("runs", "redrive", "a", "--output", '"by hand"')
    assert lonely.code == 2
    assert "--output is what a skipped step returns" in lonely.err
    skipped = one_project("runs", "redrive", "a", "--decision", "skip", "--output", '"by hand"', "--json")
    assert (skipped.code, skipped.json["output"]) == (0, "by hand")


def test_redrive_decides_on_a_step_that_was_killed_in_the_middle(project: Project) -> None:
    with project.hold("charged", "a") as driver:
        driver.kill()
    resumed = project("runs", "resume", "a")
    assert resumed.code == 0
    assert "a decision on step charge, by `runs redrive`" in resumed.out
    project.go()
    decided = project.cli("runs", "redrive", "a", "--decision", "retry", "--json")
    assert (decided.code, decided.json["output"]) == (0, "tea")
    assert project.executed == ["charge", "charge"]


def test_a_fork_shares_the_past_and_nothing_else(project: Project) -> None:
    project.run("orders", "a")
    history = project("runs", "history", "a", "--json").json
    assert [fact["kind"] for fact in history][:2] == ["RunStarted", "StepCompleted"]
    assert [fact["seq"] for fact in history] == list(range(1, len(history) + 1))

    forked = project("runs", "fork", "a", "--at", "2", "--new-run-id", "b", "--set", "items=99", "--json").json
    assert (forked["run_id"], forked["status"], forked["forked_from"]) == ("b", "pending", "a")
    assert forked["context"] == {"items": 99}
    assert project("runs", "show", "a", "--json").json["context"] == {"items": 3}
    assert "Fork of    a\n" in project("runs", "show", "b").out
    assert project.executed == ["pack"]

    changes = project("runs", "diff", "b", "2", "3", "--json").json
    assert {"path": "context.items", "before": 3, "after": 99, "kind": "changed"} in changes
    assert project("runs", "diff", "b", "2", "2").err == "there is no difference between 2 and 2\n"
    assert "context.items  3          99\n" in project("runs", "diff", "b", "2", "3").out


def test_a_fork_can_run_at_once(one_project: Project) -> None:
    one_project.run("orders", "a")
    forked = one_project("runs", "fork", "a", "--at", "2", "--run", "--json")
    assert (forked.code, forked.json["status"]) == (0, "paused")
    assert forked.json["run_id"] != "a"
    assert one_project.executed == ["pack"]


def test_a_fork_in_a_store_alone(one_project: Project) -> None:
    """The class of the context is not known there."""
    one_project.run("orders", "a")
    forked = one_project("runs", "fork", "a", "--new-run-id", "b", "--set", "items=99", "--db", "runs.db")
    assert forked.code == 0, forked.err
    assert one_project("runs", "resume", "b", "--json").json["context"] == {"items": 99}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fork", "a", "--at", "99"], "has facts 1 to 4, not 99"),
        (["fork", "a", "--new-run-id", "a"], "there is a run 'a' already"),
        (["fork", "a", "--set", "items"], "--set items: that is FIELD=JSON"),
        (["fork", "a", "--set", "items=many"], "--set items is no JSON"),
        (["fork", "nobody"], "there is no run 'nobody'"),
        (["diff", "a", "0", "2"], "has facts 1 to 4, not 0"),
        (["diff", "nobody", "1", "2"], "there is no run 'nobody'"),
        (["history", "nobody"], "there is no run 'nobody'"),
        (["resume", "nobody"], "there is no run 'nobody'"),
        (["pause", "nobody"], "there is no run 'nobody'"),
        (["cancel", "nobody"], "there is no run 'nobody'"),
        (["redrive", "nobody"], "there is no run 'nobody'"),
        (["redrive", "a"], "run 'a' is paused: only a run that has failed"),
        (["redrive", "a", "--decision", "maybe"], "flujo-async: --decision maybe: that is retry or skip\n"),
        (["delete", "nobody", "--yes"], "there is no run 'nobody'"),
    ],
)
def test_what_cannot_be_done(one_project: Project, arguments: list[str], told: str) -> None:
    one_project.run("orders", "a")
    finished = one_project("runs", *arguments)
    assert (finished.code, finished.out) == (2, "")
    assert told in finished.err
    assert "Traceback" not in finished.err


def test_delete_asks_first(one_project: Project) -> None:
    one_project.run("orders", "a", "b")
    refused = one_project.cli("runs", "delete", "a", "b", answer="n\n")
    assert (refused.code, refused.out) == (1, "")
    assert "Delete a (paused), b (paused)? [y/N]: " in refused.err
    assert "nothing was deleted; --yes deletes without asking\n" in refused.err
    nobody_asked = one_project.cli("runs", "delete", "a", "b")
    assert (nobody_asked.code, nobody_asked.out) == (1, "")
    assert len(one_project("runs", "list", "--json").json) == 2
    deleted = one_project.cli("runs", "delete", "a", answer="y\n")
    assert (deleted.code, deleted.out) == (0, "deleted run 'a'\n")
    assert [run["run_id"] for run in one_project("runs", "list", "--json").json] == ["b"]


def test_delete_does_not_ask_if_told_so(project: Project) -> None:
    project.run("orders", "a", "b", "c")
    assert project("runs", "delete", "a", "nobody", "--yes").code == 2
    assert len(project("runs", "list", "--json").json) == 3
    assert project("runs", "delete", "a", "b", "--yes", "--json", "--db", project.db).json == {"deleted": ["a", "b"]}
    assert project("runs", "delete", "c", "c", "--yes").out == "deleted run 'c'\n"
    assert project("runs", "list", "--json").json == []


@pytest.mark.parametrize("command", [["list"], ["show", "an-order"], ["history", "an-order"]])
def test_eighty_columns_are_enough(one_project: Project, command: list[str]) -> None:
    one_project.run("orders", "an-order", "an-order-whose-name-is-rather-long-as-unique-names-happen-to-be")
    shown = re.sub(r"\x1b\[\d*m", "", on_terminal(one_project.cli, "runs", *command))
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "approval" in shown


@pytest.mark.parametrize(
    ("width", "header"),
    [
        (140, "Run Pipeline Version Status Steps Created Updated"),
        (80, "Run Pipeline Status Steps Updated"),
        (60, "Run Pipeline Status Steps Updated"),
        (50, "Run Pipeline Status Updated"),
        (40, "Run Status Updated"),
        (30, "Run Status"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_names_that_can_be_read(
    one_project: Project, width: int, header: str
) -> None:
    one_project.run("orders", "an-order", "6a1ee4ac-47ba-4a02-8e5e-5a1fbf5b51ce/child/collect-all-items")
    sent = on_terminal(one_project.cli, "runs", "list", COLUMNS=str(width))
    table = re.sub(r"\x1b\[\d*m", "", sent).partition("\r\n\r\n")[0].splitlines()
    assert table[0].split() == header.split()
    assert max(map(len, table)) <= width
    assert len(table) <= 1 + 4 + 1


def test_a_command_drives_no_other_run(one_project: Project) -> None:
    """Not even one that is due in the store, with a runtime that would take it up."""
    app = one_project.directory / "app.py"
    app.write_text(app.read_text().replace("context_type=Cart)", "context_type=Cart, recover=True)"))
    with one_project.hold("held", "orphan") as driver:
        driver.kill()
    one_project.go()
    attempts = one_project.head("orphan").attempts
    assert one_project("runs", "fork", "orphan", "--at", "1", "--new-run-id", "b", "--run").code == 0
    assert one_project("runs", "signal", "orphan", "anything").code == 0
    assert one_project.head("orphan").attempts == attempts
    assert one_project.head("orphan").status == "running"
