"""A store that may not be written, or is gone, or another: told by name, left alone, and gone on with."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flujo_async.errors import BackendError, RunNotFound
from tests.crash.faults.image import DONE, LEFT, OUTPUT, Image, take_image
from tests.crash.faults.stores import ON_DISK, open_store

Close = Callable[[Path], Callable[[], object]]


def command(*words: str | Path) -> Callable[[], object]:
    """Return what runs a command; one that is not there, or not permitted, skips the test."""

    def run() -> None:
        if shutil.which(str(words[0])) is None:
            pytest.skip(f"this machine has no {words[0]}")
        done = subprocess.run([*map(str, words)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"not permitted: {' '.join(map(str, words))}: {done.stderr.decode().strip()}")

    return run


def mounted_read_only(path: Path) -> Callable[[], object]:
    """Make a directory a read-only mount; return what undoes it."""
    command("mount", "--bind", path, path)()
    undo = command("umount", "--lazy", path)
    try:
        command("mount", "-o", "remount,ro,bind", path)()
    except BaseException:
        undo()
        raise
    return undo


def immutable(path: Path) -> Callable[[], object]:
    """Make all files and directories immutable; return what undoes it."""
    undo = command("chattr", "-R", "-i", path)
    try:
        command("chattr", "-R", "+i", path)()
    except BaseException:
        undo()
        raise
    return undo


def without_permission(path: Path) -> Callable[[], object]:
    """Take the permissions to write away; return what undoes it."""
    if os.geteuid() == 0:
        pytest.skip("root may write whatever the permissions say")
    everything = [path, *path.rglob("*")]
    for each in everything:
        each.chmod(0o500 if each.is_dir() else 0o400)
    return lambda: [each.chmod(0o700) for each in everything]


@pytest.fixture(params=[mounted_read_only, immutable, without_permission], ids=lambda close: close.__name__)
def close(request: pytest.FixtureRequest) -> Iterator[Close]:
    """What makes a directory read-only; undone at the end, whatever happens."""
    undoing: list[Callable[[], object]] = []

    def close(path: Path) -> Callable[[], object]:
        undoing.append(request.param(path))
        return lambda: undoing.pop()()

    yield close
    for undo in undoing:
        undo()


async def resume(image: Image) -> None:
    """Go on, and check that what was acknowledged stays."""
    store = open_store(image.kind, image.directory)
    try:
        result = await image.flujo(store).run(run_id="r")
        assert (result.output, result.context, image.executed) == (OUTPUT, dict.fromkeys([*DONE, *LEFT], True), LEFT)
    finally:
        await store.shutdown()


@pytest.mark.parametrize("kind", ON_DISK)
async def test_a_read_only_store_is_told_and_left_alone(tmp_path: Path, kind: str, close: Close) -> None:
    """By every call, before anything executes; when it can be written again, the run goes on."""
    image = await take_image(kind, tmp_path)
    before = {path: path.read_bytes() for path in image.directory.rglob("*") if path.is_file()}
    reopen = close(image.directory)
    store = open_store(kind, image.directory)
    try:
        flujo = image.flujo(store)
        for call in (flujo.run(run_id="r"), flujo.run("x", run_id="new"), flujo.start("x"), flujo.dispatch("x")):
            with pytest.raises(BackendError, match=r"[Rr]ead-?only|not permitted|[Pp]ermission|writable"):
                await call
        assert image.executed == []
    finally:
        await store.shutdown()
    assert {path: path.read_bytes() for path in before} == before
    reopen()
    await resume(image)


@pytest.mark.parametrize("kind", ["sqlite", "sqlite-normal"])
async def test_a_directory_that_is_gone_is_told_and_not_made_anew(tmp_path: Path, kind: str) -> None:
    image = await take_image(kind, tmp_path)
    image.directory.rename(tmp_path / "elsewhere")
    store = open_store(kind, image.directory)
    with pytest.raises(BackendError, match="its directory has to exist"):
        await image.flujo(store).run("x", run_id="r")
    assert not image.directory.exists()
    (tmp_path / "elsewhere").rename(image.directory)
    await resume(image)


async def test_a_log_that_is_removed_under_a_run_stops_it(tmp_path: Path) -> None:
    """No success is reported over what nobody will find."""
    image = Image("file", tmp_path)
    flujo = image.flujo(open_store("file", tmp_path), lambda: shutil.rmtree(tmp_path / "runs"))
    with pytest.raises(RunNotFound):
        await flujo.run("x", run_id="r")
    assert image.executed == [*DONE, "snap"]


@pytest.mark.parametrize("kind", ["sqlite", "sqlite-normal"])
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_database_that_is_taken_away_under_a_run_stops_it(tmp_path: Path, kind: str, is_replaced: bool) -> None:
    """Nothing is acknowledged that nobody will find, and what stands there now is left alone; put back, it goes on."""
    theirs = ((await take_image(kind, tmp_path)).directory / "runs.db").read_bytes()
    image, away = Image(kind, tmp_path / "mine"), tmp_path / "away"
    image.directory.mkdir()
    path = image.directory / "runs.db"

    def take() -> None:
        away.mkdir()
        for file in image.directory.iterdir():
            os.link(file, away / file.name)
        path.unlink()
        if is_replaced:
            path.write_bytes(theirs)

    store = open_store(kind, image.directory)
    for flujo, run_id in ((image.flujo(store, take), "r"), (image.flujo(store), "new")):
        with pytest.raises(BackendError, match=f"{path} was {'replaced' if is_replaced else 'removed'} while"):
            await flujo.run("x", run_id=run_id)
    await store.shutdown()
    assert image.executed == [*DONE, "snap"]
    assert path.exists() == is_replaced
    assert not is_replaced or path.read_bytes() == theirs
    shutil.rmtree(image.directory)
    away.rename(image.directory)
    store = open_store(kind, image.directory)
    result = await image.flujo(store).run(run_id="r")
    await store.shutdown()
    assert (result.output, image.executed[-1]) == (OUTPUT, "c")
