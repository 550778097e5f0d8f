"""The page of the state API has every method, as it is, and tells which store does it how."""

from __future__ import annotations

import inspect

import pytest

from flujo_async import FileBackend, InMemoryBackend, SQLiteBackend, StateBackend
from flujo_async.abc.state_api import StateApi
from tests.contract.matrix import FOUND
from tests.contract.test_three_methods import DictBackend
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "state-api.md").read_text(encoding="utf-8")
METHODS = [name for name in vars(StateApi) if not name.startswith("_") and name not in FOUND]
STORES: dict[str, type[StateBackend]] = {
    "memory": InMemoryBackend,
    "file": FileBackend,
    "SQLite": SQLiteBackend,
    "three methods": DictBackend,
}
MEDIUM = {"save_state", "load_state", "delete_state"}


@pytest.mark.parametrize("name", METHODS)
def test_the_page_has_every_method_as_it_is(name: str) -> None:
    parameters = inspect.signature(getattr(StateApi, name)).parameters.values()
    shown = [
        item.name if item.default is item.empty else f"{item.name}={item.default!r}"
        for item in parameters
        if item.name != "self"
    ]
    assert f"`{name}({', '.join(shown)})`" in PAGE


def test_the_page_tells_which_store_does_what_how() -> None:
    lines = ["| method | " + " | ".join(STORES) + " |", "|---" * (len(STORES) + 1) + "|"]
    lines += [f"| `{name}` | " + " | ".join(_how(store, name) for store in STORES.values()) + " |" for name in METHODS]
    assert "\n".join(lines) in PAGE


def _how(store: type[StateBackend], name: str) -> str:
    if getattr(store, name) is getattr(StateBackend, name):
        return "derived"
    return "medium" if store is DictBackend and name in MEDIUM else "own"
