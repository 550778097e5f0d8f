"""What a scene leaves behind that a crash may not change."""

from datetime import timedelta
from typing import Any, NamedTuple

from flujo_async import Flujo
from flujo_async.abc import StateBackend
from tests.crash.scenes import Ledger, Scene
from tests.crash.world import World


class RunRemains(NamedTuple):
    """What one run leaves behind."""

    status: str
    output: Any
    error: str | None
    context: dict[str, Any]
    metadata: dict[str, Any]
    current_step_index: int
    steps: dict[str, tuple[Any, ...]]


Remains = dict[str, RunRemains]
LONG = timedelta(days=10_000)


def director(
    scene: Scene, world: World, backend: StateBackend | str, *, lease_ttl: timedelta = LONG
) -> Flujo[Any, Any]:
    """Return a runtime of a scene. Unless told otherwise, its leases outlast any time that passes."""
    return Flujo(
        scene.make(world),
        pipeline_name="scene",
        state_backend=backend,
        context_type=Ledger,
        clock=world.clock,
        lease_ttl=lease_ttl,
    )


async def remains(scene: Scene, flujo: Flujo[Any, Any]) -> Remains:
    """Return what all runs of a store leave behind."""
    return {summary.run_id: await _of_run(scene, flujo, summary.run_id) for summary in await flujo.list_runs()}


def differences(left: Remains, expected: Remains) -> list[str]:
    """Return where two differ, in words."""
    found = [f"runs: {set(left) ^ set(expected)}"] if left.keys() != expected.keys() else []
    for run_id in left.keys() & expected.keys():
        pairs = zip(RunRemains._fields, left[run_id], expected[run_id], strict=True)
        found += [f"{run_id}: {name}: {one!r}, not {other!r}" for name, one, other in pairs if one != other]
    return found


async def _of_run(scene: Scene, flujo: Flujo[Any, Any], run_id: str) -> RunRemains:
    state = await flujo.state(run_id)
    [summary] = [each for each in await flujo.list_runs() if each.run_id == run_id]
    output = (await flujo.run(run_id=run_id)).output if state.status == "completed" else None
    context = dict(state.pipeline_context)
    if not scene.is_ordered:
        context["seen"] = sorted(context["seen"])
    steps = {
        record.key: (record.input, record.output, record.error, record.status.value, record.attempts * scene.is_exact)
        for record in state.step_history
    }
    assert (summary.status, summary.lease) == (state.status, None)
    return RunRemains(
        state.status, output, state.error_message, context, dict(summary.metadata), state.current_step_index, steps
    )


async def acknowledged(scene: Scene, flujo: Flujo[Any, Any]) -> set[str]:
    """Return the steps whose outcome the logs have, and that nobody will ask to run again, as ``run:key``."""
    done: set[str] = set()
    for summary in await flujo.list_runs():
        kinds = {commit.fact.kind for commit in await flujo.history(summary.run_id)}
        if scene.is_tried_again and "RunRedriven" not in kinds:
            continue  # what has failed, and what is undone, runs again
        records = await flujo.steps(summary.run_id)
        done |= {
            f"{summary.run_id}:{record.key}" for record in records if record.status.value in ("SUCCEEDED", "FAILED")
        }
    return done
