"""Documents: what a user's three methods keep under one id each."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from flujo_async._codec.tree import check_format, dumps, loads
from flujo_async.errors import BackendError

T = TypeVar("T")
State: TypeAlias = dict[str, Any]

FORMAT = 1
"""The version of the documents."""


class ThreeMethods(Protocol):
    """What a user's class has to implement at the least; states are plain JSON (``json.dumps`` takes them)."""

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        """Keep ``state`` under ``run_id``, in place of what was there."""
        ...

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        """Return what was saved under ``run_id``, or ``None``."""
        ...

    async def delete_state(self, run_id: str) -> None:
        """Forget what was saved under ``run_id``, if anything was."""
        ...


class Medium:
    """Keeps documents of this version by a user's three methods, whose failures are ``BackendError``."""

    def __init__(self, store: ThreeMethods) -> None:
        self._store = store

    async def save(self, name: str, state: State) -> None:
        """Keep a document in place of what was there."""
        await _explained(self._store.save_state(name, {"format": FORMAT, **state}), name)

    async def load(self, name: str) -> State | None:
        """Return a document, if there is one.

        Raises:
            BackendError: this package has not written it, or a newer version has.
        """
        state = await _explained(self._store.load_state(name), name)
        if state is None:
            return None
        version = state.get("format")
        if not isinstance(version, int):
            raise BackendError(f"what load_state({name!r}) returned was not written by this package")
        check_format(f"the document {name!r}", version, FORMAT)
        return state

    async def delete(self, name: str) -> None:
        """Forget a document, if there is one."""
        await _explained(self._store.delete_state(name), name)


def pure(tree: State) -> State:
    """Return a tree as plain JSON that nobody else has.

    Raises:
        SerializationError: it holds something that is not JSON.
    """
    # Tuples, other mappings and what the caller still holds: gone after one pass through the codec.
    return cast("State", loads(dumps(tree)))


async def _explained(call: Coroutine[Any, Any, T], name: str) -> T:
    try:
        return await call
    except BackendError:
        raise
    except Exception as error:  # whatever a user's own store may raise is the store's trouble
        raise BackendError(f"the store failed on {name!r}: {error!r}") from error
