"""A stored bit is another: the run is refused before anything executes, or nothing of it has changed (G10)."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo
from flujo_async.errors import FlujoError, IntegrityError
from tests.crash.faults.image import DONE, LEFT, OUTPUT, Image, checkpoint, take_image
from tests.crash.faults.stores import open_store


async def outcome(image: Image, where: str) -> str:
    """Go on with the damaged run; return what came of it, which is never a wrong result."""
    store = open_store(image.kind, image.directory)
    flujo = image.flujo(store)
    try:
        came = check(image, await ending(flujo, "r"), where)
        other = await ending(flujo, "other")
    finally:
        await store.shutdown()
    if isinstance(other, IntegrityError):  # then it is the other one that was hit
        assert (other.run_id, came, image.kind) == ("other", "same", "sqlite"), where
    elif isinstance(other, FlujoError):  # the database as a whole was hit
        assert image.kind != "file", f"{where}: another run's trouble: {other!r}"
    else:
        assert other.output == OUTPUT, where
    return came


async def ending(flujo: Flujo[Any, Any], run_id: str) -> Any:
    """Return the result of a run, or the error that its caller gets."""
    try:
        return await flujo.run(run_id=run_id)
    except FlujoError as error:
        return error


def check(image: Image, result: Any, where: str) -> str:
    """Check how the damaged run ended, and say it."""
    if isinstance(result, IntegrityError):
        assert (result.run_id, image.executed) == ("r", []), where
    elif isinstance(result, FlujoError):
        # A damaged schema, or index, is found when something is written to it.
        most = 0 if image.kind == "file" else len(LEFT)
        assert image.executed == LEFT[: min(most, len(image.executed))], f"{where}: {result!r}"
    else:
        assert (result.output, result.context) == (OUTPUT, dict.fromkeys([*DONE, *LEFT], True)), where
        assert image.executed in (LEFT, [DONE[-1], *LEFT]), where
        return "same" if image.executed == LEFT else "last write dropped"
    return type(result).__name__


def flips_of(path: Path, stride: int) -> Iterator[tuple[int, int]]:
    """Return byte and bit, over a file."""
    for position in range(0, path.stat().st_size, stride):
        yield position, 1 << (position // stride % 8)


def flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ bit]))


async def flip_everywhere(image: Image, name: str, directory: Path, stride: int) -> dict[int, str]:
    """Flip a bit every so many bytes of a file, one at a time; return what came of it, by the byte."""
    outcomes: dict[int, str] = {}
    for position, bit in flips_of(image.directory / name, stride):
        with image.copy(directory / "flipped") as flipped:
            flip(flipped.directory / name, position, bit)
            outcomes[position] = await outcome(flipped, f"{name}: bit {bit} of byte {position}")
    return outcomes


def places_of_records(log: bytes) -> Iterator[int]:
    """Return where the records stand, which are in the chain of hashes: in each line what is before the head."""
    start = 0
    for line in log.splitlines(keepends=True):
        yield from range(start + line.index(b'"records":'), start + line.index(b'"head":'))
        start += len(line)


@pytest.mark.parametrize("stride", [67, pytest.param(1, marks=[pytest.mark.crash, pytest.mark.timeout(900)])])
async def test_a_bit_that_flips_in_a_log_is_found_or_harmless(tmp_path: Path, stride: int) -> None:
    """Run and ``seq`` are named before anything executes; a log whose last newline is hit loses its last line.

    Whatever is hit of a record is found. How much of a head is harmless depends on what is in it, as the name of an
    owner, which is another on each machine.
    """
    image = await take_image("file", tmp_path)
    outcomes = await flip_everywhere(image, "runs/r.jsonl", tmp_path, stride)
    print(f"file, every {stride} bytes: {Counter(outcomes.values())}")
    in_records = outcomes.keys() & set(places_of_records((image.directory / "runs/r.jsonl").read_bytes()))
    assert {outcomes[position] for position in in_records} == {"IntegrityError"}
    assert Counter(outcomes.values())["last write dropped"] <= 1


def flip_a_record(image: Image, column: str, seq: int, position: int) -> bool:
    """Flip a bit of a column of the run's records; return whether it is that long."""
    with closing(sqlite3.connect(image.directory / "runs.db")) as db, db:
        where = "log = (SELECT id FROM runs WHERE run_id = 'r') AND seq = ?"
        [(value,)] = db.execute(f"SELECT {column} FROM facts WHERE {where}", (seq,))
        if position >= len(value):
            return False
        flipped = chr(ord(value[position]) ^ 1 << (position % 5))
        changed = value[:position] + flipped + value[position + 1 :]
        db.execute(f"UPDATE facts SET {column} = ? WHERE {where}", (changed, seq))
        return True


@pytest.mark.parametrize("column", ["body", "hash"])
@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=[pytest.mark.crash, pytest.mark.timeout(900)])])
async def test_a_bit_that_flips_in_a_record_is_found(tmp_path: Path, column: str, stride: int) -> None:
    """Whatever is hit of a record, its run and ``seq`` are named before anything executes, and no other run minds."""
    image = await take_image("sqlite", tmp_path)
    checkpoint(image)
    for seq in range(1, len(DONE) + 2):
        for position in range(0, 10_000, stride):
            with image.copy(tmp_path / "flipped") as flipped:
                if not flip_a_record(flipped, column, seq, position):
                    break
                assert await outcome(flipped, f"{column} {seq}: {position}") == "IntegrityError"


@pytest.mark.parametrize("stride", [7919, pytest.param(61, marks=[pytest.mark.crash, pytest.mark.timeout(900)])])
async def test_a_bit_that_flips_in_a_database_is_found_or_harmless(tmp_path: Path, stride: int) -> None:
    """The whole file: pages of tables, of indexes, and what is free in them."""
    image = await take_image("sqlite", tmp_path)
    checkpoint(image)
    outcomes = await flip_everywhere(image, "runs.db", tmp_path, stride)
    print(f"sqlite, every {stride} bytes: {Counter(outcomes.values())}")
