"""Large values: stored once, beside the log, and back as they were."""

from hashlib import sha256
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_async import Flujo, RunContext, StepContext, step, workflow
from flujo_async._codec.blobs import digests_in
from flujo_async._codec.tree import dumps
from flujo_async.abc import StateBackend
from flujo_async.errors import IntegrityError
from tests.runtime.pretend import Wrapped
from tests.runtime.stores import Store

LARGE = 'é"\\' * 30_000


class Document(BaseModel):
    title: str
    text: str
    pages: list[list[int]] = []


class Notes(BaseModel):
    text: str = ""
    seen: list[str] = []


@step
async def fetch(title: str, ctx: StepContext) -> Document:
    ctx.state.text = LARGE
    ctx.emit({"raw": LARGE})
    return Document(title=title, text=LARGE, pages=[list(range(2000)), list(range(9000))])


@step
async def pass_on(document: Document, ctx: StepContext) -> Document:
    assert document.text == LARGE == ctx.state.text
    ctx.state.seen.append(document.title)
    return document


@step
async def title(document: Document) -> str:
    return document.title


PIPELINE = fetch >> pass_on >> pass_on >> pass_on >> title


async def records_of(backend: StateBackend, run_id: str) -> Any:
    stored = await backend.load(run_id)
    assert stored is not None
    return stored.records


async def test_equal_large_values_are_stored_once(store: Store) -> None:
    """Whichever step they come from, and however often."""
    backend = store.open()
    result = await Flujo(PIPELINE, state_backend=backend, context_type=Notes).run("a", run_id="r")
    assert result.context.text == LARGE
    records = await records_of(backend, "r")
    named = set[str]().union(*(digests_in(record.body) for record in records))
    assert len(named) == 2, "the text, and the long page; the short one stays in the log"
    assert max(len(record.body) for record in records) < 32 * 1024
    again = Flujo(PIPELINE, state_backend=store.open(), context_type=Notes)
    assert await again.run(run_id="r") == result
    assert (await again.state("r", at=3)).pipeline_context == {"text": LARGE, "seen": []}
    assert [event.data["raw"] async for event in again.handle("r").events() if event.kind == "EventEmitted"] == [LARGE]
    assert (await again.steps("r"))[1].output.pages[1] == list(range(9000))


async def test_a_large_input_and_context_stand_beside_the_log_too(store: Store) -> None:
    @step
    async def length(text: str) -> int:
        return len(text)

    flujo = Flujo(length, state_backend=store.open(), context_type=Notes)
    await flujo.run(LARGE, run_id="r", context=Notes(text=LARGE))
    [first, *_] = await records_of(store.open(), "r")
    assert len(digests_in(first.body)) == 1
    assert len(first.body) < 1000
    fork = await flujo.fork("r", context_update={"text": LARGE + "!"})
    assert (await fork.state()).pipeline_context["text"] == LARGE + "!"


async def test_only_the_first_append_hands_a_value_over(store: Store) -> None:
    """The store is not given again what it has from this run."""
    given: list[int] = []

    class Watched(Wrapped):
        async def append(self, lease: Any, records: Any, **more: Any) -> int:
            given.extend(len(blob.data) for blob in more["blobs"])
            return await self.inner.append(lease, records, **more)

    await Flujo(PIPELINE, state_backend=Watched(store.open()), context_type=Notes).run("a")
    assert len(given) == 2


async def test_a_workflow_gets_large_results_back_in_a_replay(store: Store) -> None:
    executed: list[str] = []

    @step
    async def make(size: int) -> str:
        executed.append("make")
        return "x" * size

    @workflow
    async def code(size: int, ctx: RunContext) -> int:
        return len(await make(size)) + len(await make(size + 1))

    flujo = Flujo(code, state_backend=store.open(), always_replay=True)
    assert (await flujo.run(50_000)).output == 100_001
    assert executed == ["make", "make"]


@pytest.mark.parametrize("damage", ["missing", "changed"])
async def test_a_blob_that_is_missing_or_damaged_is_a_broken_log(damage: str, store: Store) -> None:
    """Named with run and record, before anything executes."""

    class Damaged(Wrapped):
        async def read_blobs(self, run_id: str, digests: Any) -> dict[str, bytes]:
            found = await self.inner.read_blobs(run_id, digests)
            return {} if damage == "missing" else {digest: data[:-2] + b'?"' for digest, data in found.items()}

    await Flujo(PIPELINE, state_backend=store.open(), context_type=Notes).run("a", run_id="r")
    with pytest.raises(IntegrityError, match=damage.replace("changed", "damaged")) as caught:
        await Flujo(PIPELINE, state_backend=Damaged(store.open()), context_type=Notes).run(run_id="r")
    assert (caught.value.run_id, caught.value.seq) == ("r", 2)


@pytest.mark.parametrize("text", ['"$":"blob","v":"' + "0" * 64 + '"', '{"$":"blob","v":"' + "0" * 64 + '"}'])
async def test_what_only_looks_like_a_blob_is_a_value_like_any_other(text: str, store: Store) -> None:
    @step
    async def echo(value: Any) -> Any:
        return value

    flujo = Flujo(echo, state_backend=store.open())
    for value in (text, {"$": "blob", "v": "0" * 64}, [text * 1000]):
        result = await flujo.run(value, metadata={"$": "blob", "v": "0" * 64})
        assert (await flujo.run(run_id=result.run_id)).output == value


@pytest.mark.parametrize("name", ["0" * 64, sha256(dumps("m" * 40_000)).hexdigest()], ids=["another", "its own"])
async def test_a_context_that_looks_like_a_blob_is_one_like_any_other(name: str, store: Store) -> None:
    """Beside what is large indeed, also in it."""
    context = {"$": "blob", "v": name, "text": "m" * 40_000}

    @step
    async def echo(value: Any) -> Any:
        return value

    async with Flujo(echo >> echo, state_backend=store.open()) as flujo:
        await flujo.run("m" * 40_000, run_id="r", context=context)
    flujo = Flujo(echo >> echo, state_backend=store.open())
    assert (await flujo.run(run_id="r")).context == context
    assert (await flujo.verify()).ok
