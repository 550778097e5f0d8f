"""Rows as the code of a workflow: what Python does between the calls of steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from flujo_async import RunContext
from flujo_async.errors import LoopExhausted
from tests.crash.drawn.terms import (
    SIGNALS,
    Attempt,
    Beside,
    Child,
    Do,
    Fork,
    Loop,
    Note,
    Row,
    Sleep,
    Term,
    Wait,
)


def called(row: Row) -> Iterator[Do | Child]:
    """Yield the steps and children that the code of a row calls."""
    for part in row.parts:
        match part:
            case Do() | Child():
                yield part
            case Fork():
                yield from called(part.even)
                yield from called(part.odd)
            case Attempt():
                yield from called(part.body)
                yield from called(part.instead)
            case Loop():
                yield from called(part.body)
            case Beside():
                for beside in part.rows:
                    yield from called(beside)
            case _:
                pass


class Code:
    """The code of one execution of a workflow.

    Args:
        calls: its steps and children, by their names.
        ctx: of the execution.
        hour: how many seconds an hour has.
    """

    def __init__(self, calls: Mapping[str, Any], ctx: RunContext, hour: float) -> None:
        self._calls = calls
        self._ctx = ctx
        self._hour = hour

    async def row(self, row: Row, given: int) -> int:
        for part in row.parts:
            given = await self._part(part, given)
        return given

    async def _part(self, part: Term, given: int) -> int:  # noqa: C901, PLR0911 -- one case a term
        ctx = self._ctx
        match part:
            case Do():
                return await self._calls[part.name](given)
            case Child():
                return await ctx.child(self._calls[part.name], given)
            case Sleep():
                await ctx.sleep(self._hour)
                return given
            case Wait():
                if part.name in SIGNALS:
                    return await ctx.wait_for(part.name, schema=int)
                return await ctx.wait_for(part.name, schema=int, timeout=self._hour, default=part.default)
            case Fork():
                return await self.row(part.odd if given % 2 else part.even, given)
            case Loop():
                return await self._loop(part, given)
            case Attempt():
                try:
                    return await self.row(part.body, given)
                except Exception:
                    return await self.row(part.instead, given + 1)
            case Beside():
                return await self._beside(part, given)
            case Note():
                ctx.set_metadata(given=given)
                ctx.random()
                ctx.state.total += part.adds
                return given
            case _:
                raise TypeError(f"that is not code: {part}")

    async def _loop(self, loop: Loop, given: int) -> int:
        for _ in range(loop.turns):
            given = await self.row(loop.body, given)
            if given >= loop.goal or (loop.by_total and self._ctx.state.total > loop.goal):
                return given
        raise LoopExhausted("the goal is not reached")

    async def _beside(self, beside: Beside, given: int) -> int:
        places = asyncio.Semaphore(beside.limit)

        async def one(row: Row) -> int:
            async with places:
                return await self.row(row, given)

        rows = [one(row) for row in beside.rows]
        match beside.how:
            case "gather":
                return sum(map(_or_hundred, await asyncio.gather(*rows, return_exceptions=True)))
            case "tasks":
                return sum([await _settled(task) for task in [asyncio.create_task(row) for row in rows]])
            case "group":
                return await _in_a_group(rows)
            case "raise":
                with suppress(Exception):
                    return sum(await asyncio.gather(*rows))
                return 50


def _or_hundred(end: Any) -> int:
    return 100 if isinstance(end, Exception) else end


async def _settled(task: asyncio.Task[int]) -> int:
    try:
        return await task
    except Exception:
        return 100


async def _in_a_group(rows: list[Any]) -> int:
    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(row) for row in rows]
        return sum(task.result() for task in tasks)
    return 50
