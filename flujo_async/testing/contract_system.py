"""The contract of a store: system state, which belongs to no run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from flujo_async.abc.backend import StateBackend
from flujo_async.errors import InvalidArgument, SerializationError
from flujo_async.testing.samples import ODD_IDS, create, listed, load, new_run

VALUES: list[dict[str, Any]] = [
    {},
    {"": None, "$": "dict", "nested": {"a": [1, -1.5, True, None, {"b": []}]}},
    {"text": "\u00e9\u4e16\U0001f600\u2028\n\\", "big": 2**53 + 1, "long": "x" * 100_000},
]


class SystemContract:
    """JSON objects by key."""

    system_keys: ClassVar[Sequence[str]] = (*ODD_IDS, "flujo-async.index", "flujo-async.system", "run", "x" * 5000)
    """Keys that the store has to keep apart."""

    @pytest.mark.parametrize("value", VALUES, ids=["empty", "nested", "text"])
    async def test_system_state_comes_back_equal(self, backend: StateBackend, value: dict[str, Any]) -> None:
        """Whatever a JSON object can hold."""
        await backend.set_system_state("key", value)
        assert await backend.get_system_state("key") == value

    async def test_a_key_without_system_state_has_none(self, backend: StateBackend) -> None:
        """Neither in an empty store nor beside others."""
        assert await backend.get_system_state("key") is None
        await backend.set_system_state("other", {"a": 1})
        assert await backend.get_system_state("key") is None

    async def test_the_last_system_state_counts(self, backend: StateBackend) -> None:
        """It replaces what was there, as a whole."""
        await backend.set_system_state("key", {"a": 1, "b": 2})
        await backend.set_system_state("key", {"a": 3})
        assert await backend.get_system_state("key") == {"a": 3}

    async def test_odd_keys_are_kept_apart(self, backend: StateBackend) -> None:
        """A key is any text: no path, no pattern, no letter case gets in the way."""
        for i, key in enumerate(self.system_keys):
            await backend.set_system_state(key, {"i": i})
        for i, key in enumerate(self.system_keys):
            assert await backend.get_system_state(key) == {"i": i}, key

    @pytest.mark.parametrize("key", ["", "a\0b", "\ud800", 1, None], ids=repr)
    async def test_what_is_no_key_is_refused(self, backend: StateBackend, key: Any) -> None:
        """An empty one would be a slip, and the others cannot be stored everywhere."""
        with pytest.raises(InvalidArgument):
            await backend.set_system_state(key, {})
        with pytest.raises(InvalidArgument):
            await backend.get_system_state(key)

    @pytest.mark.parametrize("value", [object(), b"bytes", float("nan"), [{"a": float("-inf")}, None]])
    async def test_system_state_that_is_not_json_is_refused(self, backend: StateBackend, value: Any) -> None:
        """And what was there stays."""
        await backend.set_system_state("key", {"a": 1})
        with pytest.raises(SerializationError):
            await backend.set_system_state("key", {"a": value})
        assert await backend.get_system_state("key") == {"a": 1}

    async def test_everyone_gets_system_state_of_their_own(self, backend: StateBackend) -> None:
        """Neither what a writer does to it later nor what a reader does is seen by others."""
        value: dict[str, Any] = {"list": [1], "object": {}}
        await backend.set_system_state("key", value)
        value["list"].append(2)
        first = await backend.get_system_state("key")
        assert first is not None
        assert first == {"list": [1], "object": {}}
        first["object"]["more"] = True
        assert await backend.get_system_state("key") == {"list": [1], "object": {}}

    async def test_runs_and_system_state_do_not_meet(self, backend: StateBackend) -> None:
        """A key may be a run's id: neither is listed as the other, nor goes with it."""
        await backend.set_system_state("run", {"a": 1})
        await backend.set_system_state("system", {"b": 1})
        assert await backend.load("run") is None
        assert await listed(backend) == []
        await create(backend)
        await create(backend, new_run("system"))
        await backend.delete_run("run")
        assert await listed(backend) == ["system"]
        assert await backend.get_system_state("run") == {"a": 1}
        await backend.set_system_state("system", {})
        assert (await load(backend, "system")).summary.run_id == "system"

    async def test_simultaneous_writers_leave_one_whole_value(self, backend: StateBackend) -> None:
        """One of them wins; other keys are not touched."""
        values = [{str(i): i} for i in range(8)]
        calls = [backend.set_system_state("key", value) for value in values]
        await asyncio.gather(*calls, *(backend.set_system_state(f"key{i}", {"i": i}) for i in range(8)))
        assert await backend.get_system_state("key") in values
        for i in range(8):
            assert await backend.get_system_state(f"key{i}") == {"i": i}

    async def test_system_state_survives_a_restart(self, backend: StateBackend, second: StateBackend) -> None:
        """Without any closing; and what the other object writes is seen by this one."""
        await backend.set_system_state("key", {"a": 1})
        assert await second.get_system_state("key") == {"a": 1}
        await second.set_system_state("key", {"a": 2})
        assert await backend.get_system_state("key") == {"a": 2}
