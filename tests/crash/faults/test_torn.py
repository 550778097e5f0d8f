"""The last write is torn at any byte, or what follows it is rubbish: it never happened, and the run goes on."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.faults.image import DONE, LEFT, OUTPUT, Image, take_image
from tests.crash.faults.stores import ON_DISK, open_store

FRAME = 24 + 4096
"""A page in SQLite's write-ahead log, and what stands before it; the log's own header has 32 bytes."""


def beginning_of_the_last_write(image: Image) -> int:
    """Return where in the log the write of the last append begins."""
    content = written(image)
    if image.kind == "file":
        return content.rindex(b"\n", 0, -1) + 1
    frames = range(32, len(content), FRAME)
    commits = [frame for frame in frames if content[frame + 4 : frame + 8] != bytes(4)]
    assert commits[-1] == frames[-1]
    return commits[-2] + FRAME


def written(image: Image) -> bytes:
    """Return the log without the room that a database keeps behind its last frame."""
    content = image.log.read_bytes()
    if image.kind == "file":
        return content
    salts = content[16:24]  # frames have those of the log that they belong to
    frames = range(32, len(content) - FRAME + 1, FRAME)
    return content[: 32 + FRAME * sum(content[frame + 8 : frame + 16] == salts for frame in frames)]


def tears(image: Image, stride: int) -> Iterator[tuple[int, bytes]]:
    """Return what may be left of the last write: where, what is there of it, and of what comes behind it."""
    begin, content = beginning_of_the_last_write(image), written(image)
    for cut in range(begin, len(content), stride):
        yield cut, b""
        yield cut, bytes(len(content) - cut)
        yield cut, bytes(100)
        yield cut, b"\xff{garbage" * 30


async def resume(image: Image, *, is_complete: bool, where: str) -> None:
    """Go on with a run, and check that all of the last write is there, or none of it."""
    store = open_store(image.kind, image.directory)
    try:
        result = await image.flujo(store).run(run_id="r")
        assert (result.output, result.context) == (OUTPUT, dict.fromkeys([*DONE, *LEFT], True)), where
        assert image.executed == (LEFT if is_complete else [DONE[-1], *LEFT]), where
        other = await image.flujo(store).run("x", run_id="other")
        assert (other.output, len(image.executed)) == (OUTPUT, len(LEFT) + (not is_complete)), where
    finally:
        await store.shutdown()


async def tear_everywhere(kind: str, directory: Path, stride: int) -> int:
    """Tear the last write every so many bytes; return in how many ways."""
    image = await take_image(kind, directory)
    count = 0
    for cut, rest in tears(image, stride):
        count += 1
        with image.copy(directory / "torn") as torn:
            torn.log.write_bytes(torn.log.read_bytes()[:cut] + rest)
            await resume(torn, is_complete=False, where=f"torn at {cut}, {rest[:9]!r}")
    return count


@pytest.mark.parametrize(("kind", "stride"), [("file", 150), ("sqlite", 9000)])
async def test_a_torn_write_never_happened(tmp_path: Path, kind: str, stride: int) -> None:
    """At some bytes; all of them are tried by ``-m crash``."""
    assert await tear_everywhere(kind, tmp_path, stride) >= 4


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "stride"), [("file", 1), ("sqlite", 103), ("sqlite-normal", 509)])
async def test_a_write_torn_at_any_byte_never_happened(tmp_path: Path, kind: str, stride: int) -> None:
    """Of a write-ahead log every hundredth byte or so, which comes to every place within a frame."""
    print(f"{kind}: torn in {await tear_everywhere(kind, tmp_path, stride)} ways")


@pytest.mark.parametrize("kind", ON_DISK)
@pytest.mark.parametrize("rubbish", [bytes(5000), b"\xff\x00{" * 9, b'{"records":[{"seq":4'])
async def test_rubbish_behind_the_last_write_is_dropped(tmp_path: Path, kind: str, rubbish: bytes) -> None:
    """What was acknowledged stays."""
    image = await take_image(kind, tmp_path)
    image.log.write_bytes(written(image) + rubbish)
    await resume(image, is_complete=True, where="rubbish")


async def test_a_log_says_what_it_drops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = await take_image("file", tmp_path)
    image.log.write_bytes(image.log.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "flujo_async"):
        await resume(image, is_complete=False, where="the last byte")
    assert any("run 'r': dropped" in message and "unfinished write" in message for message in caplog.messages)
