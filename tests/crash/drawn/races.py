"""Code of workflows, drawn at random, that races calls and cancels them; it writes down what it hears.

No oracle tells what such code comes to: that depends on who is first. But a replay has to hear what the run has heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, TypeAlias

import anyio
from hypothesis import strategies as st

from flujo_async import RunContext, Step, step

SHORT = 0.5
"""Seconds of a durable sleep through which a run stays in memory; through ``LONG`` it does not."""
LONG = 5.0


@dataclass(frozen=True)
class Call:
    """A step.

    Attributes:
        lasts: for how many turns of the event loop, or, if that is no whole number, seconds.
        fails: whether it raises in the end.
        ends: for how many turns it goes on once it is cancelled.
    """

    name: str
    lasts: float = 0
    fails: bool = False
    ends: int = 0


@dataclass(frozen=True)
class Nap:
    """A durable sleep."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Wait:
    """A wait for a signal that nobody sends."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Row:
    """One after the other."""

    parts: tuple[Term, ...]


@dataclass(frozen=True)
class Attempt:
    """A row whose failure is caught, or that is followed by another one whatever becomes of it."""

    body: Row
    then: Row
    how: Literal["except", "finally"]


@dataclass(frozen=True)
class Within:
    """A row in something that limits it, or keeps it from being cancelled."""

    body: Row
    how: Literal["timeout", "wait_for", "scope", "shield", "shielded scope"]
    seconds: float


@dataclass(frozen=True)
class Beside:
    """Some rows at the same time; ``how`` tells what becomes of the others when one has ended or failed."""

    rows: tuple[Row, ...]
    how: Literal["gather", "tasks", "group", "anyio", "first", "left", "completed", "scope"]


Term: TypeAlias = Call | Nap | Wait | Attempt | Within | Beside


class Heard:
    """What the code of a workflow hears, call by call, until its process dies: a replay begins anew."""

    def __init__(self, is_dead: Callable[[], bool]) -> None:
        self.items: list[str] = []
        self._is_dead = is_dead
        self._is_over = False

    def end(self) -> None:
        """Write down nothing more: what the code has left behind may begin anew in a replay."""
        self._is_over = True

    def _add(self, item: str) -> None:
        if not (self._is_over or self._is_dead()):
            self.items.append(item)

    async def call(self, name: str, call: Awaitable[Any]) -> None:
        self._add(f"{name}?")
        try:
            await call
        except BaseException as error:
            self._add(f"{name}: {type(error).__name__}")
            raise
        self._add(f"{name}!")


def steps_of(row: Row) -> Iterator[Call]:
    """Yield the steps that a row calls."""
    for part in row.parts:
        match part:
            case Call():
                yield part
            case Attempt():
                yield from steps_of(part.body)
                yield from steps_of(part.then)
            case Within():
                yield from steps_of(part.body)
            case Beside():
                for beside in part.rows:
                    yield from steps_of(beside)
            case _:
                pass


def made_of(call: Call) -> Step[Any, Any]:
    """Return a step that does what is said of it."""

    async def run() -> None:
        try:
            if isinstance(call.lasts, int):
                await _turns(call.lasts)
            else:
                await asyncio.sleep(call.lasts)
        except asyncio.CancelledError:
            await _turns(call.ends)
            raise
        if call.fails:
            raise ValueError(call.name)

    return step(name=call.name)(run)


async def _turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Code:
    """The code of one execution of a workflow."""

    def __init__(self, steps: dict[str, Step[Any, Any]], heard: Heard, ctx: RunContext) -> None:
        self._steps = steps
        self._heard = heard
        self._ctx = ctx

    async def row(self, row: Row) -> None:
        for part in row.parts:
            await self._part(part)

    async def _part(self, part: Term) -> None:
        match part:
            case Call():
                await self._heard.call(part.name, self._steps[part.name]())
            case Nap():
                await self._heard.call(part.name, self._ctx.sleep(part.seconds))
            case Wait():
                await self._heard.call(part.name, self._ctx.wait_for(part.name, timeout=part.seconds, default=0))
            case Attempt():
                await self._attempt(part)
            case Within():
                await self._within(part)
            case Beside():
                await self._beside(part)

    async def _attempt(self, attempt: Attempt) -> None:
        try:
            await self.row(attempt.body)
        except Exception:
            if attempt.how == "finally":
                raise
        finally:
            await self.row(attempt.then)

    async def _within(self, within: Within) -> None:
        match within.how:
            case "timeout":
                with suppress(TimeoutError):
                    async with asyncio.timeout(within.seconds):
                        await self.row(within.body)
            case "wait_for":
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.row(within.body), within.seconds)
            case "scope":
                with anyio.move_on_after(within.seconds):
                    await self.row(within.body)
            case "shield":
                await asyncio.shield(self.row(within.body))
            case "shielded scope":
                with anyio.CancelScope(shield=True):
                    await self.row(within.body)

    async def _beside(self, beside: Beside) -> None:  # noqa: C901 -- one case a way
        rows = [self.row(row) for row in beside.rows]
        match beside.how:
            case "gather":
                await asyncio.gather(*rows)
            case "tasks":
                await asyncio.gather(*(_quietly(row) for row in rows))
            case "group":
                with suppress(ExceptionGroup):
                    async with asyncio.TaskGroup() as group:
                        for row in rows:
                            group.create_task(row)
            case "anyio":
                with suppress(ExceptionGroup):
                    async with anyio.create_task_group() as members:
                        for row in rows:
                            members.start_soon(_itself, row)
            case "first" | "left":
                await _first(rows, is_awaited=beside.how == "first")
            case "completed":
                for first in asyncio.as_completed([asyncio.create_task(row) for row in rows]):  # of rows it makes a set
                    with suppress(Exception):
                        await first
            case "scope":
                with anyio.CancelScope() as scope:
                    await asyncio.gather(_ending(rows[0], scope), *rows[1:])


async def _quietly(row: Awaitable[None]) -> None:
    """As with ``return_exceptions=True``; but that forgets, when cancelled, that a scope of anyio did it."""
    with suppress(Exception):
        await row


async def _itself(row: Awaitable[None]) -> None:
    await row


async def _ending(row: Awaitable[None], scope: anyio.CancelScope) -> None:
    try:
        await row
    finally:
        scope.cancel()


async def _first(rows: Sequence[Coroutine[Any, Any, None]], *, is_awaited: bool) -> None:
    tasks = [asyncio.create_task(row) for row in rows]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        if is_awaited:
            await asyncio.gather(*tasks, return_exceptions=True)


# ------------------------------------------------------------------------------------------------------------ drawing


@st.composite
def races(draw: Any) -> Row:
    """Return code; the simplest is one call."""
    return _Drawing(draw).row(draw(st.sampled_from([0, 1, 1, 2, 2, 2, 3])))


class _Drawing:
    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._numbers = count(1)
        self._is_limited = False

    def row(self, depth: int) -> Row:
        return Row(tuple(self._term(depth) for _ in range(self._draw(st.integers(1, 3)))))

    def _term(self, depth: int) -> Term:
        flat: list[Callable[[int], Term]] = [self._call, self._call, self._call, self._nap]
        deep: list[Callable[[int], Term]] = [self._attempt, self._within, self._beside, self._beside]
        make = self._draw(st.sampled_from([*flat, *deep, *deep] if depth else flat))
        return make(depth - 1)

    def _name(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    def _call(self, _: int) -> Call:
        draw = self._draw
        lasts = draw(st.sampled_from([0, 1, 2, 5, 20, 0.1, 0.3, 1.0, 100.0]))
        return Call(self._name("s"), lasts, draw(st.integers(1, 4)) == 4, draw(st.sampled_from([0, 0, 0, 1, 5, 20])))

    def _nap(self, _: int) -> Nap | Wait:
        make = self._draw(st.sampled_from([Nap, Wait]))
        return make(self._name("n"), self._draw(st.sampled_from([SHORT, SHORT, LONG])))

    def _attempt(self, depth: int) -> Attempt:
        return Attempt(self.row(depth), self.row(0), self._draw(st.sampled_from(["except", "except", "finally"])))

    def _within(self, depth: int) -> Within:
        limits = ["timeout", "wait_for", "scope"]
        # Time that is over within a shield cancels no call, so nobody knows of it in a replay.
        how = self._draw(st.sampled_from([*limits, "shielded scope", *([] if self._is_limited else ["shield"])]))
        before, self._is_limited = self._is_limited, self._is_limited or how in limits
        body = self.row(depth)
        self._is_limited = before
        return Within(body, how, self._draw(st.sampled_from([0.2, 0.7, 3.0])))

    def _beside(self, depth: int) -> Beside:
        hows = ["gather", "tasks", "group", "anyio", "first", "left", "scope"]
        # A limit around `as_completed` ends the waiting and no call, as within a shield.
        hows += [] if self._is_limited else ["completed"]
        rows = tuple(self.row(depth) for _ in range(self._draw(st.integers(2, 3))))
        return Beside(rows, self._draw(st.sampled_from(hows)))
