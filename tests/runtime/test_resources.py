"""Resources: what is entered for each attempt, and sees how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest

from flujo_async import Flujo, Resource, Retry, StepContext, map_each, step
from flujo_async.errors import DefinitionError, InvalidArgument, RunFailed, SerializationError
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import until


class Database:
    """Records how it is used."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[str]:
        self.log.append("enter")
        try:
            yield f"connection {self.log.count('enter')}"
        except BaseException as error:
            self.log.append(f"exit {type(error).__name__}")
            raise
        self.log.append("exit")


@pytest.fixture
def database() -> Database:
    return Database()


Connection = Annotated[str, Resource("db")]


async def test_each_attempt_enters_anew_and_sees_its_exception(database: Database) -> None:
    @step(retry=Retry(max_attempts=3, base=0))
    async def query(n: int, db: Connection, ctx: StepContext) -> str:
        if ctx.attempt < 3:
            raise ValueError
        return f"{db} {n}"

    result = await Flujo(query, resources={"db": database.connect}).run(7)
    assert result.output == "connection 3 7"
    assert database.log == ["enter", "exit ValueError", "enter", "exit ValueError", "enter", "exit"]


async def test_an_output_that_cannot_be_stored_is_seen_as_well(database: Database) -> None:
    """So that a transaction is not committed whose step then fails."""

    @step
    async def leak(n: int, db: Connection) -> Any:
        return object()

    with pytest.raises(RunFailed) as caught:
        await Flujo(leak, resources={"db": database.connect}).run(7)
    assert isinstance(caught.value.__cause__, SerializationError)
    assert database.log == ["enter", "exit SerializationError"]


async def test_threads_are_given_what_was_entered_on_the_loop(database: Database) -> None:
    @step
    def query(n: int, db: Connection | None = None) -> str:
        return f"{db} {n}"

    assert (await Flujo(query, resources={"db": database.connect}).run(7)).output == "connection 1 7"


async def test_a_manager_itself_is_entered_again_and_again() -> None:
    class Lock:
        entered = 0

        async def __aenter__(self) -> int:
            self.entered += 1
            return self.entered

        async def __aexit__(self, *exc: object) -> None: ...

    @step
    async def count(n: int, lock: Annotated[int, Resource("lock")]) -> int:
        return lock

    assert (await Flujo(map_each(count, max_concurrency=1), resources={"lock": Lock()}).run([0, 0])).output == [1, 2]
    assert (await Flujo(map_each(count, max_concurrency=1), resources={"lock": Lock}).run([0, 0])).output == [1, 1]


async def test_entering_belongs_to_the_attempt() -> None:
    """It counts for the timeout, and its failure is one of the attempt."""
    clock, tries = VirtualClock(), list[str]()

    @asynccontextmanager
    async def moody() -> AsyncIterator[int]:
        tries.append("enter")
        match len(tries):
            case 1:
                raise ConnectionError
            case 2:
                await asyncio.Event().wait()
        yield len(tries)

    @step(timeout=5, retry=Retry(max_attempts=3, base=0))
    async def query(n: int, db: Annotated[int, Resource("db")]) -> int:
        return db

    run = asyncio.create_task(Flujo(query, resources={"db": moody}, clock=clock).run(7))
    await until(lambda: len(tries) == 2 and clock.sleepers == 1)
    clock.advance(5)
    assert (await run).output == 3


async def test_an_interruption_reaches_the_resource(database: Database) -> None:
    reached = asyncio.Event()

    @step
    async def query(n: int, db: Connection) -> int:
        reached.set()
        await asyncio.Event().wait()
        return n

    run = asyncio.create_task(Flujo(query, resources={"db": database.connect}).run(7))
    await reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert database.log == ["enter", "exit CancelledError"]


@pytest.mark.parametrize("swallowed", [ValueError, TimeoutError])
async def test_a_resource_that_swallows_the_exception_makes_no_success(swallowed: type[Exception]) -> None:
    class Silent:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc: object) -> bool:
            return True

    clock = VirtualClock()

    @step(timeout=5)
    async def query(n: int, db: Annotated[Any, Resource("db")]) -> int:
        if swallowed is ValueError:
            raise ValueError
        await asyncio.Event().wait()
        return n

    run = asyncio.create_task(Flujo(query, resources={"db": Silent()}, clock=clock).run(7))
    if swallowed is TimeoutError:
        await clock.until_asleep()
        clock.advance(5)
    with pytest.raises(RunFailed) as caught:
        await run
    assert isinstance(caught.value.__cause__, swallowed)


@contextmanager
def plain() -> Any:
    yield 1


async def later() -> AbstractAsyncContextManager[int]:
    raise NotImplementedError


@pytest.mark.parametrize("source", [plain, later, lambda: None], ids=["plain", "coroutine", "nothing"])
async def test_a_function_that_returns_no_manager_is_told(source: Callable[[], Any]) -> None:
    """Once: another attempt would end the same."""
    tries: list[int] = []

    def counted() -> Any:
        tries.append(1)
        return source()

    @step(retry=Retry(max_attempts=3, base=0))
    async def query(n: int, db: Connection) -> int:
        return n

    with pytest.raises(RunFailed) as caught:
        await Flujo(query, resources={"db": counted}).run(7)
    assert isinstance(caught.value.__cause__, DefinitionError)
    assert "'db': its function returned" in str(caught.value.__cause__)
    assert len(tries) == 1


def test_something_that_cannot_be_entered_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"'db'.*async context manager"):
        Flujo(step(str), resources={"db": 3})
    with pytest.raises(InvalidArgument, match="resources= is a mapping of resources by name, not \\['db'\\]"):
        Flujo(step(str), resources=["db"])  # type: ignore[arg-type]


def test_an_unknown_resource_is_refused_when_the_runtime_is_made(database: Database) -> None:
    @step
    async def query(n: int, db: Connection) -> int:
        return n

    with pytest.raises(DefinitionError, match=r"step 'query' asks for resource 'db'.*there are cache"):
        Flujo(map_each(query), resources={"cache": database.connect})
