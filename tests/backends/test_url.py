"""URLs of stores."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from flujo_async.backends import backend_from_url
from flujo_async.backends.file import FileBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import InvalidArgument
from flujo_async.testing.samples import create


def test_memory() -> None:
    assert isinstance(backend_from_url("memory://"), InMemoryBackend)


async def test_three_slashes_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = await asyncio.to_thread(backend_from_url, "file:///runs/here")  # it asks the system where it is
    assert isinstance(backend, FileBackend)
    assert os.listdir(tmp_path) == []
    await create(backend)
    assert (tmp_path / "runs" / "here" / "run.jsonl").exists()


async def test_four_slashes_are_absolute(tmp_path: Path) -> None:
    await create(backend_from_url(f"file:///{tmp_path}/runs"))
    assert (tmp_path / "runs" / "run.jsonl").exists()


@pytest.mark.parametrize(
    "url", ["", "memory", "memory:", "memory://x", "redis://x", "file:", "file://", "file:///", "file://x", "sqlite://"]
)
def test_other_urls_are_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"memory|slashes"):
        backend_from_url(url)
