"""The pytest plugin of flujo_async: fixtures for tests of definitions.

A module of its own, outside the package: pytest imports it in every test session of an environment, and importing the
package would cost each of them half a second. For the same reason it imports nothing of that before it is asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flujo_async import StateBackend
    from flujo_async.testing import CrashExplorer, FaultyBackend, VirtualClock

KINDS = ("memory", "file", "sqlite")
_MARKER = (
    "flujo_always_replay(on=True): begin workflows again after each step, with what is recorded, so that code which "
    "does not do the same in a replay shows at once"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("flujo_async")
    group.addoption(
        "--flujo-backend",
        action="append",
        choices=KINDS,
        help="what the fixture flujo_backend is; given several times, each test that uses it runs on each of them",
    )
    group.addoption(
        "--flujo-always-replay",
        action="store_true",
        help="begin workflows again after each step in all tests, as the marker flujo_always_replay does in one",
    )
    parser.addini("flujo_backend", "what the fixture flujo_backend is: memory, file, sqlite", "args", ["memory"])
    parser.addini("flujo_always_replay", "begin workflows again after each step in all tests", "bool", False)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check what the ini file says."""
    config.addinivalue_line("markers", _MARKER)
    if unknown := set(config.getini("flujo_backend")) - set(KINDS):
        raise pytest.UsageError(f"flujo_backend = {', '.join(sorted(unknown))}: choose of {', '.join(KINDS)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on each of the stores that were asked for."""
    if "_flujo_backend_kind" in metafunc.fixturenames and len(kinds := _kinds(metafunc.config)) > 1:
        metafunc.parametrize("_flujo_backend_kind", kinds, indirect=True)


def _kinds(config: pytest.Config) -> list[str]:
    return list(dict.fromkeys(config.getoption("--flujo-backend") or config.getini("flujo_backend")))


@pytest.fixture
def _flujo_backend_kind(request: pytest.FixtureRequest) -> str:
    kind: str = getattr(request, "param", _kinds(request.config)[0])
    return kind


@pytest.fixture(autouse=True)
def _flujo_always_replay(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("flujo_always_replay")
    config = request.config
    is_asked_for = config.getoption("--flujo-always-replay") or config.getini("flujo_always_replay")
    if marker is not None:
        is_asked_for = marker.kwargs.get("on", marker.args[0] if marker.args else True)
    if not is_asked_for:
        yield
        return
    from flujo_async._runtime.witness import always_replaying

    with always_replaying():
        yield


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock that stands still until it is told to ``advance``."""
    from flujo_async.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def flujo_backend(_flujo_backend_kind: str, tmp_path: Path) -> Iterator[StateBackend]:
    """An empty store: memory, or what ``--flujo-backend`` or the ini option ``flujo_backend`` says."""
    backend = _open(_flujo_backend_kind, tmp_path / "flujo")
    yield backend
    # Its fixture is no coroutine, so that it works in every mode of every plugin for asyncio, and without one.
    closing = threading.Thread(target=lambda: asyncio.run(backend.shutdown()))
    closing.start()
    closing.join()


@pytest.fixture
def faulty_backend(flujo_backend: StateBackend) -> FaultyBackend:
    """The store of ``flujo_backend``, with calls that fail where the test wants it."""
    from flujo_async.testing import FaultyBackend

    return FaultyBackend(flujo_backend)


@pytest.fixture
def crash_explorer(_flujo_backend_kind: str, tmp_path: Path) -> Callable[..., CrashExplorer]:
    """``CrashExplorer``, with the stores of its worlds of the same kind as ``flujo_backend``."""
    from flujo_async.testing import CrashExplorer

    if _flujo_backend_kind == "memory":
        return CrashExplorer
    return partial(CrashExplorer, backend=lambda world: _open(_flujo_backend_kind, tmp_path / f"flujo-{world}"))


def _open(kind: str, path: Path) -> StateBackend:
    from flujo_async import FileBackend, InMemoryBackend, SQLiteBackend

    opens: dict[str, Callable[[], Any]] = {
        "memory": InMemoryBackend,
        "file": lambda: FileBackend(path),
        "sqlite": lambda: SQLiteBackend(path.with_suffix(".db")),
    }
    backend: StateBackend = opens[kind]()
    return backend
