"""Workflows that call steps in every way there is."""

import asyncio

import anyio

from flujo_async import (
    step,
    workflow,
)
from tests.runtime.executed import EXECUTED


@step
async def double(n: int) -> int:
    EXECUTED.append(("double", n))
    await asyncio.sleep(0)
    return n * 2


@step
async def broken(n: int) -> int:
    EXECUTED.append(("broken", n))
    raise ValueError(f"broken {n}") from KeyError("the cause")


@step
async def again(n: int) -> int:
    """One more execution of the same arguments gives another result."""
    EXECUTED.append(("again", n))
    await asyncio.sleep(0)
    return n * 100 + len(EXECUTED)


@workflow
async def with_gather(n: int) -> list[int]:
    return list(await asyncio.gather(*(double(i) for i in range(n))))


@workflow
async def with_task_group(n: int) -> list[int]:
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(double(i)) for i in range(n)]
    return [task.result() for task in made]


@workflow
async def with_create_task(n: int) -> list[int]:
    made = [asyncio.create_task(double(i)) for i in range(n)]
    return [await task for task in reversed(made)][::-1]


@workflow
async def with_wait_for_all(n: int) -> list[int]:
    made = [asyncio.create_task(double(i)) for i in range(n)]
    done, pending = await asyncio.wait(made)
    assert done == set(made)
    assert not pending
    return [task.result() for task in made]


@workflow
async def with_wait_for_each(n: int) -> list[int]:
    results = list[int]()
    pending = {asyncio.create_task(double(i)) for i in range(n)}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        results += [task.result() for task in done]
    return sorted(results)


@workflow
async def with_as_completed(n: int) -> list[int]:
    return sorted([await each for each in asyncio.as_completed([double(i) for i in range(n)])])


@workflow
async def with_anyio(n: int) -> list[int]:
    results: dict[int, int] = {}

    async def one(i: int) -> None:
        results[i] = await double(i)

    async with anyio.create_task_group() as tasks:
        for i in range(n):
            tasks.start_soon(one, i)
    return [results[i] for i in range(n)]


@workflow
async def with_a_loop(n: int) -> list[int]:
    return [await double(i) for i in range(n)]


@workflow
async def with_nested_tasks(n: int) -> list[int]:
    async def both(i: int) -> int:
        one, other = await asyncio.gather(double(i), double(i))
        assert one == other
        return one

    return list(await asyncio.gather(*(both(i) for i in range(n))))


WAYS = [
    with_gather,
    with_task_group,
    with_create_task,
    with_wait_for_all,
    with_wait_for_each,
    with_as_completed,
    with_anyio,
    with_a_loop,
    with_nested_tasks,
]
