"""What a crash may not change."""

from collections import Counter
from typing import Any, NamedTuple

from flujo_async import Flujo
from tests.crash.zoo import INPUT, RUN


class Outcome(NamedTuple):
    """What a run leaves behind that a crash may not change."""

    output: Any
    total: int
    seen: list[str]
    last: str
    current_step_index: int
    steps: dict[str, tuple[Any, Any, str, int]]


async def outcome_of(flujo: Flujo[Any, Any], *, given: bool = True, run_id: str = RUN) -> Outcome:
    """Drive the run to its end, and return what it left."""
    result = await (flujo.run(INPUT, run_id=run_id) if given else flujo.run(run_id=run_id))
    state = await flujo.state(run_id)
    steps = {record.key: (record.input, record.output, record.status.value, record.attempts) for record in result.steps}
    context = result.context
    return Outcome(result.output, context.total, context.seen, context.last, state.current_step_index, steps)


async def acknowledged(flujo: Flujo[Any, Any]) -> set[str]:
    """Return the steps whose outcome the log has."""
    if not await flujo.list_runs():
        return set()
    return {record.key for record in await flujo.steps(RUN) if record.status.value != "RUNNING"}


def executions(effects: list[tuple[str, int]]) -> Counter[str]:
    """Return how often each step began its last attempt."""
    return Counter(key for key, _ in effects)
