"""Pipelines of the package, built from definitions that are data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any

from pydantic import BaseModel

from flujo_async import (
    Depends,
    Retry,
    RunContext,
    StepContext,
    any_of,
    as_step,
    branch,
    child,
    graph,
    loop,
    map_each,
    parallel,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async.reducers import add, append
from tests.crash.drawn.coding import Code, called
from tests.crash.drawn.terms import (
    HOUR,
    SIGNALS,
    UNDOING,
    Child,
    Coded,
    Do,
    Each,
    Fork,
    Graph,
    Inline,
    Loop,
    Node,
    Parallel,
    Row,
    Sleep,
    Term,
    Wait,
)

Happens = Callable[[str, StepContext], object]
"""Called with what is done, and by which attempt, when it begins."""


class Marks(BaseModel):
    """The context."""

    total: Annotated[int, add] = 0
    seen: Annotated[list[str], append] = []


class Building:
    """Builds pipelines whose side effects are told to ``happens``."""

    def __init__(self, happens: Happens, *, hour: float = HOUR, turn: float = 0) -> None:
        """Prepare to build.

        Args:
            happens: is told.
            hour: how many seconds an hour has.
            turn: how many seconds a step sleeps in a turn.
        """
        self._happens = happens
        self._hour = hour
        self._turn = turn

    def row(self, row: Row) -> Any:
        first, *others = map(self.term, row.parts)
        for other in others:
            first = first >> other
        return first

    def term(self, term: Term) -> Any:  # noqa: C901, PLR0911 -- one case a term
        match term:
            case Do():
                return step(name=term.name, **self._policy(term))(self._function(term))
            case Sleep():
                return sleep(self._hour)
            case Wait():
                return self._wait(term)
            case Inline():
                return as_step(self.row(term.body), name=term.name)
            case Child():
                return child(self.row(term.body), name=term.name)
            case Parallel():
                return self._parallel(term)
            case Each():
                return self._each(term)
            case Fork():
                return branch(lambda n: n % 2, {0: self.row(term.even), 1: self.row(term.odd)})
            case Loop():
                return self._loop(term)
            case Graph():
                return self._graph(term)
            case Coded():
                return self._code(term)
            case _:
                raise TypeError(f"only code can do that: {term}")

    # --------------------------------------------------------------------------------------------------- one step

    def _function(self, term: Do) -> Callable[[int, StepContext], Any]:
        async def run(given: int, ctx: StepContext) -> int:
            self._happens(f"{term.name} {given}", ctx)
            before = ctx.state.total
            if term.notes != "nothing":
                ctx.state.total += term.adds
            if term.notes == "all":
                ctx.state.seen.append(f"{term.name} {given}")
            for _ in range(term.turns):
                await asyncio.sleep(self._turn)
            if term.backoff is not None and ctx.attempt == 1:
                raise ConnectionError(term.name)
            if term.fails_on and given % term.fails_on == 0:
                raise ValueError(f"{term.name} {given}")
            return given + term.adds + (before % 3 if term.reads else 0)

        return run

    def _policy(self, term: Do) -> dict[str, Any]:
        policy: dict[str, Any] = {"effect": term.effect}
        if term.durability is not None:
            policy["durability"] = term.durability
        if term.backoff is not None:
            policy["retry"] = Retry(max_attempts=2, base=term.backoff / HOUR * self._hour, cap=HOUR, jitter=0)
        if term.instead is not None:
            policy["fallback"] = self.term(term.instead)
        if term.undo is not None:
            policy["compensate"] = self._undo(term)
        return policy

    def _undo(self, term: Do) -> Any:
        async def undo(output: int, ctx: StepContext) -> None:
            self._happens(f"undo {term.name} {output}", ctx)
            ctx.state.total += UNDOING
            if term.undo == "flaky" and ctx.attempt == 1:
                raise ConnectionError(term.name)

        return step(name=f"un{term.name}", retry=Retry(max_attempts=2, base=0))(undo)

    def _wait(self, term: Wait) -> Any:
        if term.name in SIGNALS:
            return wait_for(term.name, schema=int)
        return wait_for(term.name, schema=int, timeout=self._hour, default=term.default)

    # ------------------------------------------------------------------------------------------------ combinators

    def _parallel(self, term: Parallel) -> Any:
        members = [self.term(member) for member in term.members]
        group = parallel(*members, on_error=term.on_error, max_concurrency=term.max_concurrency)
        return as_step(group >> _pure(f"{term.name}sum", lambda values: sum(values.values())), name=term.name)

    def _each(self, term: Each) -> Any:
        group = map_each(self.row(term.body), on_error=term.on_error, max_concurrency=term.max_concurrency)
        items = _pure(f"{term.name}items", lambda given: [given + n for n in range(term.items)])
        return as_step(items >> group >> _pure(f"{term.name}sum", sum), name=term.name)

    def _loop(self, term: Loop) -> Any:
        def by_total(given: int, marks: Any) -> bool:
            return given >= term.goal or marks.total > term.goal

        def by_number(given: int) -> bool:
            return given >= term.goal

        return loop(self.row(term.body), until=by_total if term.by_total else by_number, max_iterations=term.turns)

    def _graph(self, term: Graph) -> Any:
        steps = list[Any]()
        for node in term.nodes:
            steps.append(self._node(node, steps))
        needed = {need.node for node in term.nodes for need in node.needs}
        ends = [term.nodes[number].step.name for number in range(len(steps)) if number not in needed]

        def outputs(given: Any) -> int:
            values = [given[name] for name in ends] if isinstance(given, dict) else [given]
            return sum(value or 0 for value in values)

        start = _pure(f"{term.name}in", lambda given: {"given": given})
        return as_step(
            start >> graph(*steps, on_error=term.on_error) >> _pure(f"{term.name}out", outputs), name=term.name
        )

    def _node(self, node: Node, steps: list[Any]) -> Any:
        on: dict[str, Any] = {}
        for place, need in enumerate(node.needs):
            before: Any = steps[need.node]
            if node.spare and place == 0:
                before = any_of(self._taking(node.spare, {"given": int}), before)
            depends = Depends(before, when=_is_even) if need.only_even else Depends(before)
            on[f"p{place}"] = Annotated[int | None, depends]
        return self._taking(node.step, on or {"given": int})

    def _taking(self, term: Do, parameters: Mapping[str, Any]) -> Any:
        """Return a step with these parameters, which works with their sum."""
        run = self._function(term)

        async def add_up(ctx: StepContext, **given: int | None) -> int:
            return await run(sum(value or 0 for value in given.values()), ctx)

        annotations = {"ctx": StepContext, **parameters}
        function: Any = add_up
        function.__annotations__ = annotations
        function.__signature__ = Signature(
            [Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint) for name, hint in annotations.items()]
        )
        policy = self._policy(term)
        if term.instead is not None:  # it is given what the step is given, by the same names
            policy["fallback"] = self._taking(term.instead, dict.fromkeys(parameters, int | None))
        return step(name=term.name, **policy)(function)

    def _code(self, term: Coded) -> Any:
        parts = list(called(term.body))
        steps = {part.name: self.term(part) for part in parts if isinstance(part, Do)}
        children: dict[str, Any] = {part.name: child(self.row(part.body)) for part in parts if isinstance(part, Child)}
        calls = {**steps, **{name: node.body for name, node in children.items()}}
        known = branch(lambda _: "", children) if children else None  # named in the code, so known in every process

        async def code(given: int, ctx: RunContext) -> int:
            assert known or not children
            return await Code(calls, ctx, self._hour).row(term.body, given)

        return workflow(name=term.name)(code)


def _is_even(value: int) -> bool:
    return value % 2 == 0


def _pure(name: str, function: Callable[[Any], Any]) -> Any:
    async def run(given: Any) -> Any:
        return function(given)

    return step(name=name)(run)
