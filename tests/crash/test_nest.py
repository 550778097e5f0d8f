"""What is forked is a process like any other: all proofs that kill one rest on it."""

import os
import sys

from tests.crash.life import KILLED
from tests.crash.nest import fork


def main(how: str, *words: str) -> None:
    """Be the process."""
    print(os.getpid(), hash("word"), os.environ.get("WORD"), *words, flush=True)
    match how:
        case "fail":
            raise LookupError("nothing")
        case "wait":
            print("waits", flush=True)
            while True:
                pass
        case _:
            sys.exit(int(how))


async def lived(how: str, *words: str, **environment: str) -> tuple[list[str], str, int | None]:
    """Return what one said, what it complained of, and how it ended."""
    process = await fork(__name__, how, *words, environment=environment)
    out, err = await process.communicate()
    said = out.decode().split()
    assert said.pop(0) == str(process.pid)
    return said, err.decode(), process.returncode


async def test_it_gets_arguments_and_an_environment_of_its_own() -> None:
    (_, *said), err, ended = await lived("0", "one", "two", WORD="own")
    assert (said, err, ended) == (["own", "one", "two"], "", 0)
    (_, *said), _, _ = await lived("0")
    assert said == ["None"]


async def test_how_it_ends_is_told() -> None:
    assert (await lived("3"))[1:] == ("", 3)
    _, err, ended = await lived("fail")
    assert ended == 1
    assert "LookupError: nothing" in err


async def test_it_can_be_killed_and_has_its_number_until_then() -> None:
    process = await fork(__name__, "wait")
    while await process.stdout.readline() != b"waits\n":
        pass
    process.kill()
    process.kill()
    await process.communicate()
    assert process.returncode == KILLED


async def test_two_in_a_row_do_not_hash_alike() -> None:
    """Whatever follows the order of a set comes out otherwise in the next life."""
    hashes = [(await lived("0"))[0][0] for _ in range(2)]
    assert len(set(hashes)) == 2
