"""The contract of a store: entries, which callers keep of runs by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import InvalidArgument, SerializationError
from flujo_async.testing.samples import ODD_IDS, SECOND, T0, append, create, entry, head, kept, listed, load, new_run

BODIES: list[dict[str, Any]] = [
    {},
    {"price": {"$": "decimal", "v": "1.50"}, "nested": {"a": [1, -1.5, True, None, {"": []}]}},
    {"text": "\u00e9\u4e16\U0001f600\u2028\n\\", "big": 2**53 + 1, "long": "x" * 100_000},
]


class EntryContract:
    """What is kept beside the runs."""

    entry_run_ids: ClassVar[Sequence[str]] = ODD_IDS
    """Run ids that the store has to keep apart."""

    @pytest.mark.parametrize("body", BODIES, ids=["empty", "nested", "text"])
    async def test_an_entry_comes_back_equal(self, backend: StateBackend, body: dict[str, Any]) -> None:
        """Whatever a JSON object can hold, and to the microsecond."""
        put = entry(body=body, created_at=T0, updated_at=T0 + SECOND)
        await backend.put_entries([put])
        assert await kept(backend) == [put]

    async def test_an_entry_is_replaced_and_keeps_when_it_was_created(self, backend: StateBackend) -> None:
        """The same run, kind and key are the same entry."""
        await backend.put_entries([entry(body={"a": 1, "b": 2})])
        later = entry(body={"a": 3}, created_at=T0 + SECOND, updated_at=T0 + SECOND)
        await backend.put_entries([later])
        assert await kept(backend) == [replace(later, created_at=T0)]

    async def test_the_last_of_equal_entries_counts(self, backend: StateBackend) -> None:
        """Also within one call."""
        await backend.put_entries([entry(body={"n": n}) for n in range(3)])
        assert await kept(backend) == [entry(body={"n": 2})]

    async def test_run_kind_and_key_tell_entries_apart(self, backend: StateBackend) -> None:
        """Two that differ in one of the three are two."""
        put = [entry(), entry("other"), entry(kind="span"), entry(key="k")]
        await backend.put_entries(put)
        assert len(await kept(backend)) == len(put)

    async def test_entries_come_newest_first(self, backend: StateBackend) -> None:
        """Ties by run, kind and key, whatever the order in which they were put."""
        older = [entry("b", "span", "x"), entry("b", "step", "x"), entry("b", "step", "y"), entry("c", "run", "a")]
        newer = entry("z", created_at=T0 + SECOND / 1_000_000)
        await backend.put_entries([*reversed(older), newer])
        assert await kept(backend) == [newer, *older]

    async def test_a_filter_applies_before_the_page_is_cut(self, backend: StateBackend) -> None:
        """Run and kind, then ``offset``, then ``limit``; an offset needs no limit."""
        steps = [entry(kind="step", key=str(n), created_at=T0 + n * SECOND) for n in range(4)]
        await backend.put_entries([*steps, entry(kind="span"), entry("other", kind="step")])
        newest = steps[::-1]
        assert await kept(backend, run_id="run", kind="step") == newest
        assert await kept(backend, run_id="run", kind="step", offset=1, limit=2) == newest[1:3]
        assert await kept(backend, run_id="run", kind="step", offset=3) == newest[3:]
        assert await kept(backend, limit=0) == []
        assert await kept(backend, run_id="nobody") == []

    @pytest.mark.parametrize("page", [{"limit": -1}, {"offset": -1}], ids=str)
    async def test_a_negative_page_is_refused(self, backend: StateBackend, page: dict[str, Any]) -> None:
        """No store is asked."""
        with pytest.raises(InvalidArgument):
            await backend.read_entries(EntryQuery(**page))

    async def test_entries_can_take_the_place_of_all_of_one_kind(self, backend: StateBackend) -> None:
        """Of the runs that they are of; what is of another kind or run stays, and what is there again keeps its age."""
        kind: EntryKind = "span"
        await backend.put_entries([entry(kind=kind, key=key) for key in "abc"])
        await backend.put_entries([entry(kind="step"), entry("other", kind=kind)])
        again = entry(kind=kind, key="b", body={"n": 1}, created_at=T0 + SECOND)
        await backend.put_entries([again], instead_of=kind)
        assert await kept(backend, kind=kind, run_id="run") == [replace(again, created_at=T0)]
        assert await kept(backend) == [entry("other", kind=kind), replace(again, created_at=T0), entry(kind="step")]

    async def test_entries_that_are_not_json_are_refused_as_a_whole(self, backend: StateBackend) -> None:
        """None of them is kept, and what was there stays."""
        await backend.put_entries([entry(body={"n": 1})])
        with pytest.raises(SerializationError):
            await backend.put_entries([entry(body={"n": 2}), entry("other", body={"a": cast("Any", object())})])
        assert await kept(backend) == [entry(body={"n": 1})]

    async def test_everyone_gets_entries_of_their_own(self, backend: StateBackend) -> None:
        """Neither what a writer does to a body later nor what a reader does is seen by others."""
        body: dict[str, Any] = {"list": [1]}
        await backend.put_entries([entry(body=body)])
        body["list"].append(2)
        (first,) = await kept(backend)
        assert first.body == {"list": [1]}
        cast("Any", first.body)["list"].append(3)
        assert (await kept(backend))[0].body == {"list": [1]}

    async def test_odd_run_ids_and_keys_are_kept_apart(self, backend: StateBackend) -> None:
        """Any text names a run or a key."""
        put = [
            entry(run_id, key=key) for run_id in self.entry_run_ids for key in ("", "k", "K", "../k", "\u00e9" * 600)
        ]
        await backend.put_entries(put)
        for run_id in self.entry_run_ids:
            assert [found.key for found in await kept(backend, run_id=run_id)] == ["", "../k", "K", "k", "\u00e9" * 600]

    async def test_entries_do_not_touch_a_run(self, backend: StateBackend) -> None:
        """Its log, head and lease are as they were, and its owner goes on."""
        lease = await create(backend)
        before = await load(backend)
        await backend.put_entries([entry(kind=kind) for kind in ("state", "run", "step", "span", "evaluation")])
        assert await load(backend) == before
        assert (await head(backend)).lease == lease
        await append(backend, lease)
        assert len(await kept(backend)) == 5

    async def test_entries_go_with_their_run(self, backend: StateBackend) -> None:
        """Also where there never was a run; those of others stay."""
        await create(backend)
        await create(backend, new_run("other"))
        await backend.put_entries([entry(), entry(kind="step"), entry("other"), entry("entries only")])
        await backend.delete_run("run")
        await backend.delete_run("entries only")
        assert await kept(backend) == [entry("other")]
        assert await listed(backend) == ["other"]
        await create(backend)
        assert await kept(backend, run_id="run") == []

    async def test_a_new_entry_of_a_deleted_run_begins_anew(self, backend: StateBackend) -> None:
        """Nothing remembers when the one before was created."""
        await backend.put_entries([entry()])
        await backend.delete_run("run")
        later = entry(created_at=T0 + SECOND)
        await backend.put_entries([later])
        assert await kept(backend) == [later]

    async def test_simultaneous_writers_of_entries_lose_none(self, backend: StateBackend) -> None:
        """Each of them writes for two runs."""
        put = [[entry("a", key=str(n)), entry("b", key=str(n))] for n in range(8)]
        await asyncio.gather(*map(backend.put_entries, put))
        assert len(await kept(backend, run_id="a")) == len(await kept(backend, run_id="b")) == 8

    async def test_entries_survive_a_restart(self, backend: StateBackend, second: StateBackend) -> None:
        """Without any closing; and what the other object writes is seen by this one."""
        await backend.put_entries([entry(), entry("other")])
        assert await kept(second) == [entry("other"), entry()]
        await second.put_entries([entry(body={"n": 1})])
        await second.delete_run("other")
        assert await kept(backend) == [entry(body={"n": 1})]

    async def test_compaction_keeps_entries(self, backend: StateBackend) -> None:
        """Those that count, and nothing else."""
        await backend.put_entries([entry(), entry(key="gone", kind="span"), entry("gone")])
        await backend.put_entries([entry(kind="span")], instead_of="span")
        await backend.put_entries([entry(body={"n": 1})])
        await backend.delete_run("gone")
        before = await kept(backend)
        await backend.compact()
        assert await kept(backend) == before
        await backend.put_entries([entry("more")])
        assert await kept(backend) == sorted([*before, entry("more")], key=_order)

    async def test_a_backup_has_the_entries(self, backend: StateBackend, copy: StateBackend, target: Path) -> None:
        """As they were then."""
        await create(backend)
        await backend.put_entries([entry(), entry("other", body={"n": 1})])
        await backend.backup(target)
        await backend.delete_run("other")
        assert await kept(copy) == [entry("other", body={"n": 1}), entry()]


def _order(found: Entry) -> tuple[str, str, str]:
    return found.run_id, found.kind, found.key
