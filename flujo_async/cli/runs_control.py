"""``flujo-async runs``: what acts on runs."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, cast, get_args

import typer
from pydantic import TypeAdapter

from flujo_async._model.facts import Decision
from flujo_async._model.state import TERMINAL
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import StateBackend
from flujo_async.cli.completion import complete_decision
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.given import STDIN, parsed
from flujo_async.cli.options import FlujoName, Json, MaybeDb, NoDb, RunId
from flujo_async.cli.run_page import print_standing, run_as_json, standing
from flujo_async.cli.runtime import (
    Place,
    Runtime,
    as_typed,
    check_executes,
    flujo_named,
    perform,
    place_at,
    resume_command,
)
from flujo_async.cli.screen import plain, print_json, print_line, say
from flujo_async.cli.store import Found, Store, find_run, find_summary, head_of, is_driven, known_run
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed

app: typer.Typer = typer.Typer()

_DECISIONS: Final = "|".join(get_args(Decision))
_CHECKED_BY_ALL: Final = [None, *(TypeAdapter(kind).json_schema() for kind in (bool, int, float, str, list, dict))]
"""The schemas of answers that need no code to be checked."""

Action: TypeAlias = Callable[[Runtime], Awaitable[object]]
Outcome: TypeAlias = tuple[Found, RunFailed | RunCancelled | None]
"""What a run left, and the error that it ended with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody says to something that a run waits for."""

    name: str
    payload: Any
    by: str | None


Payload: TypeAlias = Annotated[
    str | None, typer.Option("--payload", metavar="JSON", help="The answer; by default null.")
]
PayloadFile: TypeAlias = Annotated[
    str | None,
    typer.Option("--payload-file", metavar="FILE", help="A file that has the answer as JSON; - is the standard input."),
]


@app.command("resume")
def resume_run(run_id: RunId, db: NoDb = None, flujo: FlujoName = None, json: Json = False) -> None:
    """Drive a run until it rests. It may have been interrupted, paused, forked, or answered.

    Of a run that is driven elsewhere it waits for the end. The exit code is 1 if the run fails or is cancelled.
    """
    _drive(flujo_named(flujo), run_id, lambda flujo: flujo.resume(run_id), json=json)


@app.command("cancel")
def cancel_run(
    run_id: RunId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")] = "",
    db: NoDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Cancel a run and its child runs, and wait for the end. What has a compensation is undone.

    The exit code is 1 if the run had ended in another way before.
    """
    named = flujo_named(flujo)
    found = perform(
        named,
        lambda flujo: _act(flujo, run_id, lambda flujo: flujo.cancel(run_id, reason)),
        interrupted=_go_on(run_id, named),
    )
    _print(found, named, json=json)
    if found.summary.status != "cancelled":
        say(f"run {run_id!r} is {found.summary.status}: it ended before it was cancelled")
        raise typer.Exit(ExitCode.FAILED)


@app.command("pause")
def pause_run(run_id: RunId, db: MaybeDb = None, flujo: FlujoName = None, json: Json = False) -> None:
    """Pause a run before its next step; `runs resume` goes on with it.

    Does not wait until a run that is driven elsewhere has paused: `runs watch` does. The exit code is 1 if the run has
    ended.
    """
    place = place_at(flujo, db)
    found = perform(place, lambda flujo: _act(flujo, run_id, lambda flujo: flujo.pause(run_id)))
    _print(found, place, json=json)
    if found.summary.status in TERMINAL:
        say(f"run {run_id!r} is {found.summary.status}: there is nothing to pause")
        raise typer.Exit(ExitCode.FAILED)
    if found.summary.status != "paused":
        say(f"run {run_id!r} pauses before its next step")


@app.command("signal")
def signal_run(  # noqa: PLR0913 -- the options of a command
    run_id: RunId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the run waits for.")],
    payload: Payload = None,
    payload_file: PayloadFile = None,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who answers, for the audit log; by default your login name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run here, until it rests.")] = False,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Answer something that a run waits for. An answer that comes early is kept.

    Executes nothing, unless --resume is given: whoever drives the run goes on with it, or a worker, or `runs resume`.
    The answer is checked by what the run's code asks for; with a store alone, only as far as that is recorded.
    """
    place, answer = place_at(flujo, db), Answer(name, _payload(payload, payload_file), by or _login_name())
    flujo_option = as_typed(place)
    if resume:
        check_executes(place, "--resume")

    async def act(flujo: Runtime) -> Outcome:
        before = await _signal(flujo, run_id, answer, is_checked=not isinstance(place, Store))
        if resume:
            return await _rest(flujo, run_id, lambda flujo: flujo.resume(run_id))
        _tell_who_goes_on(before, flujo_option)
        return await _look(flujo, run_id)

    _report(perform(place, act, interrupted=_go_on(run_id, place)), place, json=json)


@app.command("redrive")
def redrive_run(
    run_id: RunId,
    decision: Annotated[
        str,
        typer.Option(
            metavar=_DECISIONS,
            help="What to do with the step that failed, or waits for a decision.",
            autocompletion=complete_decision,
        ),
    ] = "retry",
    output: Annotated[
        str | None, typer.Option(metavar="JSON", help="What a skipped step counts as having returned; by default null.")
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The step to decide on, of several that wait for that, by default all, or that have failed.",
        ),
    ] = None,
    db: NoDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Try a run again that has failed or was cancelled. Goes on from the step that failed, until it rests.

    For a run that waits for a decision on a step, this is the decision. The exit code is 1 if the run fails again.
    """
    decided = _decision(decision)
    if output is not None and decided != "skip":
        raise InvalidArgument("--output is what a skipped step returns: it goes with --decision skip")
    value = parsed(output, "--output") if output is not None else ...
    named = flujo_named(flujo)

    def again(flujo: Runtime) -> Awaitable[Any]:
        return flujo.redrive(run_id, decision=decided, output=value, step=step)

    _drive(named, run_id, again, json=json)


@app.command("fork")
def fork_run(
    run_id: RunId,
    at: Annotated[int | None, typer.Option(metavar="SEQ", help="The last fact to share; by default the last.")] = None,
    new_run_id: Annotated[str | None, typer.Option(metavar="ID", help="The new run; by default a unique name.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="A field of the context that differs; can be repeated."),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Drive the new run here, until it rests.")] = False,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Create a run that has the same past as another one. That is all up to a fact, of which nothing runs again.

    `runs history` tells the numbers of the facts. Executes nothing, unless --run is given.
    """
    place, update = place_at(flujo, db), dict(map(_assignment, set_ or ()))
    if run:
        check_executes(place, "--run")

    async def act(flujo: Runtime) -> Outcome:
        await head_of(flujo.state_backend, run_id)
        handle = await flujo.fork(run_id, at=at, new_run_id=new_run_id, context_update=update)
        new = handle.run_id
        return await (_rest(flujo, new, lambda flujo: flujo.resume(new)) if run else _look(flujo, new))

    _report(perform(place, act), place, json=json)


@app.command("delete")
def delete_runs(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN_ID", help="The runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Remove runs and their child runs, after asking. Whoever drives one stops at its next step.

    Nothing is removed if one of them does not exist.
    """
    place, run_ids = place_at(flujo, db), list(dict.fromkeys(run_ids))
    fates = perform(place, lambda flujo: _fates(flujo, run_ids))
    if not yes:
        _confirm(fates)
    perform(place, lambda flujo: _delete(flujo, run_ids))
    if json:
        print_json({"deleted": run_ids})
    else:
        print_line(f"deleted {_count(run_ids)}")


def _drive(place: Place, run_id: str, action: Action, *, json: bool) -> None:
    """Execute a run until it rests, and print what it left; errors as in ``_report``."""
    outcome = perform(place, lambda flujo: _rest(flujo, run_id, action), interrupted=_go_on(run_id, place))
    _report(outcome, place, json=json)


def _report(outcome: Outcome, place: Place, *, json: bool) -> None:
    """Print what a run left.

    Raises:
        RunFailed: it failed.
        RunCancelled: it was cancelled.
    """
    found, failure = outcome
    if json or failure is None:
        _print(found, place, json=json)
    if failure is not None:
        raise failure


async def _rest(flujo: Runtime, run_id: str, action: Action) -> Outcome:
    if is_driven(await head_of(flujo.state_backend, run_id)):
        say(f"run {run_id!r} is driven elsewhere: waiting for it")
    failure = None
    try:
        await action(flujo)
    except (RunFailed, RunCancelled) as error:
        failure = error
    return await find_run(flujo.state_backend, run_id), failure


async def _look(flujo: Runtime, run_id: str) -> Outcome:
    return await find_run(flujo.state_backend, run_id), None


async def _act(flujo: Runtime, run_id: str, action: Action) -> Found:
    await head_of(flujo.state_backend, run_id)
    await action(flujo)
    return await find_run(flujo.state_backend, run_id)


async def _signal(flujo: Runtime, run_id: str, answer: Answer, *, is_checked: bool) -> RunSummary:
    """Answer a run, and return how it stood before."""
    before = await head_of(flujo.state_backend, run_id)
    await flujo.signal(run_id, answer.name, answer.payload, by=answer.by)
    _tell_answered(before, answer.name, is_checked=is_checked)
    return before


async def _fates(flujo: Runtime, run_ids: Sequence[str]) -> dict[str, str]:
    return {run_id: await _fate(flujo.state_backend, run_id) for run_id in run_ids}


async def _delete(flujo: Runtime, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        if await find_summary(flujo.state_backend, run_id) is None:
            await flujo.state_backend.delete_run(run_id)  # what was saved by hand
        else:
            await flujo.delete(run_id)


def _print(found: Found, place: Place, *, json: bool) -> None:
    if json:
        print_json(run_as_json(found))
    else:
        print_standing(found, as_typed(place))


def _tell_answered(before: RunSummary, name: str, *, is_checked: bool) -> None:
    awaited = [waiting for waiting in before.waiting_for if waiting.kind == "signal" and waiting.name == name]
    if before.status == "paused" and not any(waiting.run_id is None for waiting in awaited):
        child = next((f"its child {waiting.run_id} does, and is to be answered; this one" for waiting in awaited), "it")
        say(f"run {before.run_id!r} does not wait for {name!r} now; {child} is kept until it does")
    if not is_checked and any(waiting.schema not in _CHECKED_BY_ALL for waiting in awaited):
        say("the answer could not be checked: the store does not have the class that it is to be; the Flujo has")


def _tell_who_goes_on(head: RunSummary, flujo_option: str) -> None:
    if is_driven(head) or head.status != "paused":
        return
    command = resume_command(head.parent_run_id or head.run_id, flujo_option)  # a child goes on with its parent
    if head.queue is not None:
        say(f"a worker of queue {head.queue!r} goes on with it, or {command}")
    else:
        say(f"{command} goes on with it, if no runtime does")


def _login_name() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name, as in some containers
        return None


def _payload(text: str | None, file: str | None) -> Any:
    if text is not None and file is not None:
        raise InvalidArgument("--payload and --payload-file are both the answer: give one of them")
    if file is not None:
        return parsed(_read(file), f"--payload-file {file}")
    return None if text is None else parsed(text, "--payload")


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"--payload-file cannot be read: {error}") from error


def _assignment(text: str) -> tuple[str, Any]:
    name, is_assignment, value = text.partition("=")
    if not name or not is_assignment:
        raise InvalidArgument(f"--set {text}: that is FIELD=JSON, such as --set 'items=3'")
    return name, parsed(value, f"--set {name}")


def _decision(text: str) -> Decision:
    if text not in get_args(Decision):
        raise InvalidArgument(f"--decision {text}: that is {' or '.join(get_args(Decision))}")
    return cast("Decision", text)


def _confirm(fates: Mapping[str, str]) -> None:
    """Ask whether runs are to be deleted.

    Args:
        fates: how each stands.

    Raises:
        Exit: they are not, or there is nobody to ask.
    """
    names = ", ".join(f"{plain(run_id)} ({fate})" for run_id, fate in fates.items())
    sys.stderr.write(f"Delete {names}? [y/N]: ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    is_wanted = answer.strip().lower() in ("y", "yes")
    if not is_wanted:
        say("nothing was deleted; --yes deletes without asking")
        raise typer.Exit(ExitCode.FAILED)


async def _fate(backend: StateBackend, run_id: str) -> str:
    head = await find_summary(backend, run_id)
    if head is None:
        return f"{(await known_run(backend, run_id)).get('status', 'spans')}, saved by hand"
    return f"{standing(head)}, driven right now" if is_driven(head) else standing(head)


def _count(run_ids: Sequence[str]) -> str:
    return f"run {run_ids[0]!r}" if len(run_ids) == 1 else f"{len(run_ids)} runs"


def _go_on(run_id: str, place: Place) -> str:
    return f"interrupted; every step so far is kept, and {resume_command(run_id, as_typed(place))} goes on from there"
