"""A run that was saved by hand, and that has no log, on paper and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from flujo_async._model.entry import EntryQuery
from flujo_async._model.stored import RunQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.known_runs import SAVED_KINDS, KnownRunQuery
from flujo_async.cli.screen import ago, brief, columns, duration, moment, plain, print_line, print_pairs, put
from flujo_async.cli.store import known_run


@dataclass(frozen=True, slots=True)
class Saved:
    """What a store knows of a run without a log.

    Attributes:
        run: what lists show of it; the name alone if there are only spans of it.
        context: its context; ``None`` if nobody has saved one.
        steps: its steps that were saved.
    """

    run: Mapping[str, Any]
    context: Mapping[str, Any] | None
    steps: Sequence[Mapping[str, Any]]


async def find_saved(backend: StateBackend, run_id: str) -> Saved:
    """Return what was saved of a run.

    Raises:
        RunNotFound: nothing.
    """
    run, state = await known_run(backend, run_id), await backend.load_state(run_id)
    context = (state or {}).get("pipeline_context")  # whatever somebody has saved there
    told = cast("Mapping[str, Any]", context) if isinstance(context, Mapping) else None
    return Saved(run, told, await backend.list_run_steps(run_id))


async def saved_by_hand(backend: StateBackend, query: RunQuery) -> list[str]:
    """Return the names of the runs that match, and that are known only because somebody has saved them."""
    kept = [await backend.read_entries(EntryQuery(kind=kind, limit=1)) for kind in SAVED_KINDS]
    if not any(kept):
        return []
    known = await backend.known_runs(KnownRunQuery(status=query.status, pipeline_name=query.pipeline_name))
    driven = {head.run_id for head in await backend.query_runs(RunQuery())}
    return [run.run_id for run in known if run.run_id not in driven]


def saved_as_json(saved: Saved) -> dict[str, Any]:
    """Return it as JSON."""
    return {**saved.run, "context": saved.context, "steps": saved.steps}


def print_saved(saved: Saved, *, everything: bool) -> None:
    """Print it; ``everything`` cuts no value."""
    print_pairs(_head(saved), everything=everything)
    if saved.context:
        print_line("")
        print_line("Context")
        print_pairs(((str(name), repr(value)) for name, value in saved.context.items()), everything=everything)
    if saved.steps:
        print_line("")
        _print_steps(saved.steps)


def _head(saved: Saved) -> Iterator[tuple[str, str]]:
    run, now = saved.run, datetime.now(UTC)
    yield "Run", run["run_id"]
    yield "Saved", "by hand: it has no log"
    for label, name in (("Pipeline", "pipeline_name"), ("Parent", "parent_run_id"), ("Status", "status")):
        if run.get(name):
            yield label, str(run[name])
    for label, name in (("Created", "created_at"), ("Updated", "updated_at")):
        if name in run:
            yield label, f"{moment(run[name])}, {ago(run[name], now)}"
    if run.get("metadata"):
        yield "Metadata", repr(run["metadata"])
    if run.get("error_message"):
        yield "Error", str(run["error_message"])


def _print_steps(steps: Sequence[Mapping[str, Any]]) -> None:
    table = columns("Step", "Status", "Output", whole=("Status",), numbers=("Time",))
    for step in steps:
        took = step["execution_time_ms"]
        said = repr(step["output"]) if step["error"] is None else str(step["error"])
        time = duration(took / 1000) if isinstance(took, int | float) else ""
        table.add_row(plain(str(step["step_name"])), plain(str(step["status"])), brief(said), time)
    put(table)
