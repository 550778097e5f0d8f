"""What ``FileBackend`` does with files: torn lines, broken ones, full disks, several processes, sudden ends."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal as signals
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flujo_async._model import transition
from flujo_async._model.lease import ClaimQuery
from flujo_async._model.state import RUN_STATUSES
from flujo_async._model.stored import RunQuery
from flujo_async.backends.file import FileBackend
from flujo_async.backends.file_log import RunLog
from flujo_async.backends.file_logs import PATIENCE
from flujo_async.backends.file_name import file_name, run_id_of
from flujo_async.errors import BackendError, IntegrityError, InvalidArgument, SchemaTooNew, StaleLease
from flujo_async.testing.samples import (
    LOG,
    ODD_IDS,
    T0,
    TTL,
    append,
    claimed_ids,
    create,
    entry,
    listed,
    load,
    new_run,
    signal,
)
from tests.growth import counting

PRELUDE = """
import asyncio, os, sys
from flujo_async.backends.file import FileBackend
from flujo_async.errors import BackendError
from flujo_async.testing.samples import *
backend = FileBackend(sys.argv[1])
"""


def script(body: str, directory: Path) -> subprocess.Popen[str]:
    code = PRELUDE + textwrap.dedent(body)
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    return out


async def grown(backend: FileBackend) -> None:
    """A run with four records in three lines, and a signal in a fourth one."""
    lease = await create(backend)
    await append(backend, lease)
    await append(backend, lease, after=2, count=2)
    await backend.post(signal())


# ---------------------------------------------------------------------------------------------------------- reading


async def test_a_log_is_one_readable_line_per_write(tmp_path: Path) -> None:
    await grown(FileBackend(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [[record["seq"] for record in line.get("records", [])] for line in lines] == [[1], [2], [3, 4], []]
    assert lines[2]["records"][0]["fact"] == {"kind": "Test", "n": 3}
    assert lines[3]["signal"]["name"] == "approval"
    assert [line["head"]["last_seq"] for line in lines] == [1, 2, 4, 4]
    assert lines[3]["head"]["signals"] == 1
    assert "created_at" not in lines[1]["head"]


async def test_a_line_grows_with_the_change_and_not_with_the_history(tmp_path: Path) -> None:
    lease = await create(backend := FileBackend(tmp_path), new_run(metadata={"big": "x" * 10_000}))
    for seq in range(1, 21):
        await append(backend, lease, after=seq)
    lengths = [len(line) for line in (tmp_path / "run.jsonl").read_bytes().splitlines()]
    assert max(lengths[1:]) - min(lengths[1:]) < 10
    assert max(lengths[1:]) < 500


async def test_a_write_that_ends_anywhere_never_happened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever part of the last line reached the disk: it is dropped, said so, and the next append follows on."""
    await grown(FileBackend(tmp_path))
    path = tmp_path / "run.jsonl"
    whole = path.read_bytes()
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    seqs = [1, 2, 4, 4]
    for cut in range(line_ends[0], len(whole)):
        caplog.clear()
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in line_ends)
        run = await load(backend := FileBackend(tmp_path))
        assert run.records == LOG[: seqs[complete - 1]]
        assert bool(caplog.records) == (cut not in line_ends)
        assert path.stat().st_size == max(end for end in line_ends if end <= cut)
        assert run.summary.lease is not None
        await append(backend, run.summary.lease, after=len(run.records))
        assert (await load(FileBackend(tmp_path))).records == LOG[: len(run.records) + 1]
    assert {record.name for record in caplog.records} == {"flujo_async"}


async def test_a_creation_that_ends_anywhere_never_happened(tmp_path: Path) -> None:
    """There is no such run, and the next creation is not in its way."""
    backend = FileBackend(tmp_path)
    await create(backend)
    path = tmp_path / "run.jsonl"
    whole = path.read_bytes()
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert await FileBackend(tmp_path).load("run") is None
        assert await listed(FileBackend(tmp_path)) == []
        await create(FileBackend(tmp_path))
        assert (await load(FileBackend(tmp_path))).records == LOG[:1]
        assert os.listdir(tmp_path) == ["run.jsonl"]


async def test_an_object_that_knows_the_log_drops_a_torn_line_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = await create(backend := FileBackend(tmp_path))
    with (tmp_path / "run.jsonl").open("ab") as file:
        file.write(b'{"records":[{"seq":2')
    assert await append(backend, lease) == 2
    assert caplog.record_tuples == [
        ("flujo_async", logging.WARNING, "run 'run': dropped 20 bytes of an unfinished write")
    ]
    assert (await load(FileBackend(tmp_path))).records == LOG[:2]


@pytest.mark.parametrize(("line", "seq"), [(0, 1), (1, 2), (2, 3), (3, 5)], ids=["first", "second", "third", "signal"])
async def test_a_broken_line_is_named(tmp_path: Path, line: int, seq: int) -> None:
    """A line that is not JSON raises, whoever reads it; the run is not lost from listings."""
    await grown(FileBackend(tmp_path))
    path = tmp_path / "run.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = b"\xff" + lines[line][1:]
    path.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError) as caught:
        await FileBackend(tmp_path).load("run")
    assert (caught.value.run_id, caught.value.seq) == ("run", seq)
    assert await listed(FileBackend(tmp_path)) == ["run"]


async def test_a_lost_line_is_named(tmp_path: Path) -> None:
    await grown(FileBackend(tmp_path))
    path = tmp_path / "run.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(IntegrityError) as caught:
        await FileBackend(tmp_path).load("run")
    assert caught.value.seq == 2


async def test_a_log_under_a_wrong_name_is_broken(tmp_path: Path) -> None:
    await create(FileBackend(tmp_path))
    (tmp_path / "run.jsonl").rename(tmp_path / "other.jsonl")
    with pytest.raises(IntegrityError, match="log of run 'run'"):
        await FileBackend(tmp_path).load("other")


async def test_a_broken_log_stops_nothing_but_itself(tmp_path: Path) -> None:
    """It is listed as failed, and neither listing nor claiming of the others suffers; it can be deleted."""
    backend = FileBackend(tmp_path)
    await backend.create_run(new_run("good"))
    (tmp_path / "bad.jsonl").write_text("rubbish\n")
    [bad] = await backend.query_runs(RunQuery(status="failed"))
    assert bad.run_id == "bad"
    assert "rubbish" in (bad.error_message or "") or "not" in (bad.error_message or "")
    assert sorted(await listed(backend)) == ["bad", "good"]
    assert await claimed_ids(backend, statuses=RUN_STATUSES) == ["good"]
    with pytest.raises(IntegrityError):
        await backend.claim("w", now=T0, ttl=TTL, query=ClaimQuery(run_id="bad"))
    await backend.delete_run("bad")
    assert await listed(backend) == ["good"]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": 2}\n', "[1]\n"])
async def test_a_file_of_somebody_else_is_no_run(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Lines of JSON that no log begins with are not listed; and nobody writes into them."""
    backend = FileBackend(tmp_path)
    await backend.create_run(new_run("good"))
    (tmp_path / "other.jsonl").write_text(text)
    assert await listed(backend) == ["good"]
    assert await listed(backend, run_id="other") == []
    assert caplog.record_tuples == []
    for access in (backend.load("other"), backend.create_run(new_run("other"))):
        with pytest.raises(IntegrityError, match=r"other\.jsonl is no log of a run"):
            await access
    assert (tmp_path / "other.jsonl").read_text() == text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
async def test_what_is_no_file_stops_nothing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A directory that is named like a log, or anything else that only looks like one."""
    backend = FileBackend(tmp_path / "runs")
    await backend.create_run(new_run("good"))
    make(tmp_path / "runs" / "other.jsonl")
    assert await listed(backend) == ["good"]
    assert await claimed_ids(backend, statuses=RUN_STATUSES) == ["good"]
    await backend.compact()
    await backend.backup(tmp_path / "copy")
    assert await listed(FileBackend(tmp_path / "copy")) == ["good"]


async def test_a_log_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    await create(FileBackend(tmp_path))
    path = tmp_path / "run.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(SchemaTooNew):
        await FileBackend(tmp_path).load("run")


async def test_listing_does_not_read_what_has_not_changed(tmp_path: Path) -> None:
    """The proof: a file whose content was spoilt without any other sign of a change."""
    backend = FileBackend(tmp_path)
    await create(backend)
    path = tmp_path / "run.jsonl"
    assert await listed(backend) == ["run"]
    await backend.shutdown()
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert await listed(backend, status="running") == ["run"]


# ------------------------------------------------------------------------------------------------------------ files


def test_names_of_files_are_safe_and_apart_on_every_file_system() -> None:
    names = [file_name(run_id) for run_id in ODD_IDS]
    assert len({name.lower() for name in names}) == len(ODD_IDS)
    for run_id, name in zip(ODD_IDS, names, strict=True):
        assert name.isascii()
        assert len(name) <= 255
        assert not set(name) & set('/\\:*?"<>| ')
        assert not name.startswith(".")
        assert "~" in name or run_id_of(name) == run_id
    assert file_name("order-17.b_2") == "order-17.b_2.jsonl"


async def test_a_directory_stays_what_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    backend = FileBackend("runs")
    await create(backend)
    monkeypatch.chdir(elsewhere)
    await create(backend, new_run("another"))
    await backend.put_entries([entry("run")])
    await backend.set_system_state("key", {})
    assert len(await backend.query_runs(RunQuery())) == 2
    assert os.listdir(elsewhere) == []


def test_what_is_no_directory_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        FileBackend("runs\0")


async def test_a_file_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(BackendError, match="this is a file, the file backend keeps runs in a directory"):
        await create(FileBackend(path))
    assert path.read_text() == "mine"


async def test_a_directory_appears_with_the_first_run_and_only_then(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "a" / "b")
    assert await listed(backend) == []
    assert await backend.load("run") is None
    await backend.delete_run("run")
    await backend.shutdown()
    assert not (tmp_path / "a").exists()
    await create(backend)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run.jsonl"]


async def test_deletion_leaves_no_file(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await grown(backend)
    await backend.delete_run("run")
    assert os.listdir(tmp_path) == []


async def test_an_error_of_the_system_is_a_backend_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BackendError) as caught:
        await create(FileBackend(blocked / "runs"))
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
async def test_the_number_of_open_files_is_bounded(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    backend = FileBackend(tmp_path)
    for i in range(150):
        await create(backend, new_run(f"run{i}"))
    assert 50 < open_files() - before < 80
    await backend.shutdown()
    assert open_files() - before < 10


# ----------------------------------------------------------------------------------------------------- system state


async def test_system_state_is_a_readable_file_beside_the_logs(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path / "runs")
    await backend.set_system_state("Worker/1", {"host": "a"})
    path = tmp_path / "runs" / "system" / "%57orker%2f1.json"
    assert json.loads(path.read_text()) == {"format": 1, "key": "Worker/1", "value": {"host": "a"}}
    assert await listed(backend) == []
    await create(backend, new_run("system"))
    assert await listed(FileBackend(tmp_path / "runs")) == ["system"]
    assert await backend.get_system_state("Worker/1") == {"host": "a"}


async def test_looking_for_system_state_writes_nothing(tmp_path: Path) -> None:
    assert await FileBackend(tmp_path / "runs").get_system_state("key") is None
    assert os.listdir(tmp_path) == []


async def test_system_state_that_was_half_written_never_was(tmp_path: Path) -> None:
    """What a crash leaves behind before the file gets its name is neither read nor in the way."""
    backend = FileBackend(tmp_path)
    await backend.set_system_state("key", {"a": 1})
    (tmp_path / "system" / ".new").write_text('{"format":1,"key":"key","va')
    assert await backend.get_system_state("key") == {"a": 1}
    await backend.set_system_state("key", {"a": 2})
    assert await FileBackend(tmp_path).get_system_state("key") == {"a": 2}
    assert sorted(os.listdir(tmp_path / "system")) == [".lock", "key.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":1,"key":"other","value":{}}', '{"format":1,"key":"key"}'])
async def test_system_state_that_others_wrote_is_refused(tmp_path: Path, text: str) -> None:
    backend = FileBackend(tmp_path)
    await backend.set_system_state("key", {"a": 1})
    (tmp_path / "system" / "key.json").write_text(text)
    with pytest.raises(BackendError, match="not the system state of 'key'"):
        await backend.get_system_state("key")
    await backend.set_system_state("key", {"a": 2})
    assert await backend.get_system_state("key") == {"a": 2}


async def test_system_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await backend.set_system_state("key", {"a": 1})
    path = tmp_path / "system" / "key.json"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(SchemaTooNew):
        await backend.get_system_state("key")


async def test_system_state_waits_for_the_process_that_has_the_lock(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await backend.set_system_state("key", {"a": 1})
    with (tmp_path / "system" / ".lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = asyncio.create_task(backend.set_system_state("key", {"a": 2}))
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
    await waiting
    assert await backend.get_system_state("key") == {"a": 2}


# -------------------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("verb", [append, listed, load], ids=["append", "listing", "load"])
async def test_a_verb_waits_for_the_process_that_has_the_lock(tmp_path: Path, verb: Any) -> None:
    """Nobody looks at a log while somebody else writes it."""
    lease = await create(FileBackend(tmp_path))
    arguments = [FileBackend(tmp_path), lease] if verb is append else [FileBackend(tmp_path)]
    with (tmp_path / "run.jsonl").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = asyncio.create_task(verb(*arguments))
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
    await waiting


@pytest.fixture
async def stopped(tmp_path: Path) -> AsyncIterator[None]:
    """A process that was stopped while it had the lock of a run's log; it has written to it since it was listed."""
    body = """
    async def work():
        lease = await create(backend, new_run("stuck"))
        await append(backend, lease)
    asyncio.run(work())
    with backend._logs.using("stuck.jsonl"):
        print("locked", flush=True)
        sys.stdin.read()
    """
    process = script(body, tmp_path)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "locked\n"
    process.send_signal(signals.SIGSTOP)
    yield
    process.kill()
    await asyncio.to_thread(process.communicate)


@pytest.mark.usefixtures("stopped")
async def test_a_stopped_process_does_not_stop_those_who_look_at_many_runs(tmp_path: Path) -> None:
    """They list its run, claim others, and wait for it once: the second time they know."""
    backend = FileBackend(tmp_path)
    for run_id in ("a", "z"):
        await create(backend, new_run(run_id))
    async with asyncio.timeout(20):
        assert await listed(backend, status="running") == ["a", "stuck", "z"]
        assert await claimed_ids(backend, now=T0 + TTL) == ["a", "z"]
        assert await backend.read_signals({"a": 0, "stuck": 0, "z": 0}) == []
        assert await backend.next_due(ClaimQuery()) == T0 + TTL
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        assert await claimed_ids(backend, now=T0 + TTL) == []
    assert loop.time() - began < 20 * PATIENCE


async def test_a_stopped_process_does_not_cost_others_their_leases(tmp_path: Path, stopped: None) -> None:
    """Of all that are renewed at once, one whose log cannot be had is not lost, and the others last longer."""
    backend = FileBackend(tmp_path)
    lease = await create(backend, new_run("a"))
    held = (await FileBackend(tmp_path).query_runs(RunQuery(run_id="stuck")))[0].lease
    assert held is not None
    async with asyncio.timeout(20):
        renewed = await backend.renew([held, lease], now=T0 + TTL, ttl=TTL)
    assert renewed == [held, replace(lease, expires_at=T0 + 2 * TTL)]


TURNS = 40

WORK = """
async def work(turns):
    while turns:
        lease = await claim(backend, f"w{os.getpid()}", run_id=None)
        if lease is None:  # the other processes have all runs
            continue
        seq = (await load(backend, lease.run_id)).summary.last_seq
        await backend.append(lease, [Record(seq + 1, b"{}", str(lease.token))], expected_seq=seq, update=update())
        await backend.release(lease)
        turns -= 1
"""


@pytest.mark.parametrize("forked", [False, True])
async def test_processes_that_share_a_directory_never_have_a_run_at_the_same_time(tmp_path: Path, forked: bool) -> None:
    """Three processes, or two that are forks of one that has files open, take turns on two runs: none is lost."""
    backend = FileBackend(tmp_path)
    for run_id in "ab":
        await backend.create_run(new_run(run_id))
    # Ready, and then all at once.
    begin = "print('ready', flush=True); sys.stdin.readline()"
    fork = "asyncio.run(load(backend, 'a')); pid = os.fork()" if forked else "pid = 0"
    join = "if pid: assert os.waitpid(pid, 0)[1] == 0"
    body = f"{WORK}\n{begin}\n{fork}\nasyncio.run(work({TURNS}))\n{join}"
    processes = [script(body, tmp_path) for _ in range(1 if forked else 3)]
    for process in processes:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    await asyncio.gather(*(asyncio.to_thread(finished, process) for process in processes))
    turns = 0
    for run_id in "ab":
        run = await load(backend, run_id)
        turns += run.summary.attempts
        assert [record.hash for record in run.records[1:]] == [str(n + 1) for n in range(run.summary.attempts)]
    assert turns == TURNS * (2 if forked else 3)


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_log_that_is_taken_away_while_it_is_written_acknowledges_nothing(
    tmp_path: Path, is_replaced: bool
) -> None:
    backend, log = FileBackend(tmp_path), tmp_path / "run.jsonl"
    lease = await create(backend)
    await create(backend, new_run("other"))
    await backend.shutdown()

    def take(path: Path) -> None:
        os.replace(tmp_path / "other.jsonl", path) if is_replaced else path.unlink()

    def write() -> None:
        with backend._logs.using("run.jsonl") as opened:
            head = opened.head()
            assert head is not None
            take(log)
            opened.write(head, records=[LOG[1]])

    theirs = (tmp_path / "other.jsonl").read_bytes()
    with pytest.raises(BackendError, match=f"{log} was removed or replaced while it was written"):
        await asyncio.to_thread(write)
    assert log.exists() == is_replaced
    assert not is_replaced or log.read_bytes() == theirs
    with pytest.raises(IntegrityError if is_replaced else StaleLease):
        await append(backend, lease)


async def test_a_run_whose_log_is_replaced_while_it_is_created_is_not_acknowledged(tmp_path: Path) -> None:
    backend, log = FileBackend(tmp_path), tmp_path / "run.jsonl"
    await create(backend, new_run("other"))
    theirs = (tmp_path / "other.jsonl").read_bytes()

    def begin() -> None:
        with backend._logs.using("run.jsonl", create=True) as opened:
            os.replace(tmp_path / "other.jsonl", log)
            opened.begin(new_run().summary, new_run())

    with pytest.raises(BackendError, match=f"{log} was removed or replaced while it was written"):
        await asyncio.to_thread(begin)
    assert log.read_bytes() == theirs


def test_a_fork_does_not_share_its_parents_locks(tmp_path: Path) -> None:
    """The system sees a descriptor and its copy in a forked child as one holder of a lock."""
    body = """
    asyncio.run(create(backend))
    locked, done = os.pipe(), os.pipe()
    if not os.fork():
        with backend._logs.using("run.jsonl"):
            os.write(locked[1], b"x")
            os.read(done[0], 1)
        os._exit(0)

    async def work():
        os.read(locked[0], 1)
        waiting = asyncio.create_task(load(backend))
        await asyncio.wait([waiting], timeout=0.1)
        print(waiting.done())
        os.write(done[1], b"x")
        await waiting
    asyncio.run(work())
    os.wait()
    """
    assert finished(script(body, tmp_path)) == "False\n"


@pytest.mark.parametrize("acknowledged", [1, 7, 20])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, acknowledged: int) -> None:
    """After ``SIGKILL`` the log ends at the last acknowledged append, or at the one under way."""
    body = """
    async def work():
        lease = await create(backend)
        for seq in range(1, 10_000):
            await backend.append(lease, sealed([b'{"n":1}'] * (seq + 1))[seq:], expected_seq=seq, update=update())
            print(seq + 1, flush=True)
    asyncio.run(work())
    """
    process = script(body, tmp_path)
    assert process.stdout is not None
    for _ in range(acknowledged):
        process.stdout.readline()
    process.send_signal(signals.SIGKILL)
    last = int((process.stdout.read().splitlines() or [str(acknowledged + 1)])[-1])
    process.communicate()
    run = asyncio.run(load(FileBackend(tmp_path)))
    assert run.summary.last_seq in (last, last + 1)
    assert len(run.records) == run.summary.last_seq


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path) -> None:
    """The write that did not fit is gone, and when there is room again, the run goes on."""
    body = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def fails(verb):
        try:
            await verb
        except BackendError as error:
            assert isinstance(error.__cause__, OSError)
            return True
        return False

    async def work():
        lease = await create(backend)
        size = os.path.getsize(sys.argv[1] + "/run.jsonl")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        assert await fails(append(backend, lease, count=5))
        assert os.path.getsize(sys.argv[1] + "/run.jsonl") == size
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        assert await fails(create(backend, new_run("other")))
        assert os.listdir(sys.argv[1]) == ["run.jsonl"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert await append(backend, lease, count=5) == 6
        assert (await load(backend)).records == LOG[:6]
        print("ok")
    asyncio.run(work())
    """
    assert finished(script(body, tmp_path)) == "ok\n"


def test_what_does_not_fit_on_the_disk_takes_no_room_there(tmp_path: Path) -> None:
    """Not even half of it, which nobody would miss: it is needed by those whose writes still fit."""
    body = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    long = "x" * 100_000

    async def work():
        lease = await create(backend)
        await backend.put_entries([entry("run")])
        await backend.set_system_state("key", {})
        await append(backend, lease, blobs=[blob("small")])
        before = sizes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        for verb in (
            append(backend, lease, after=2, blobs=[blob(long)]),
            backend.put_snapshot(lease, Snapshot(1, LOG[0].hash, long.encode())),
            backend.set_system_state("key", {"a": long}),
            backend.put_entries([entry("run", body={"a": long})]),
        ):
            try:
                await verb
            except BackendError:
                print("told")
        print(sizes() == before)

    def sizes():
        return {os.path.join(top, name): os.path.getsize(os.path.join(top, name))
            for top, _, names in os.walk(sys.argv[1]) for name in names}
    asyncio.run(work())
    """
    assert finished(script(body, tmp_path)) == "told\n" * 4 + "True\n"


def test_a_process_ends_on_its_own_without_closing(tmp_path: Path) -> None:
    body = """
    async def work():
        await create(backend)
        asyncio.create_task(backend.wait_for_work(timeout=1000))
        await asyncio.sleep(0)
        print("ok")
    asyncio.run(work())
    """
    assert finished(script(body, tmp_path)) == "ok\n"


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_is_new_in_a_log_is_found_at_the_cost_of_what_is_new(tmp_path: Path, is_ours: bool) -> None:
    """Signals and records, whether we have written them or another process has."""

    def cost(count: int) -> int:
        path = tmp_path / str(count) / file_name("run")
        path.parent.mkdir()
        head = transition.created(new_run(), None, TTL)
        ours = RunLog(path)
        theirs = ours if is_ours else RunLog(path)
        with ours.locked(create=True):
            ours.begin(head, new_run())
        with counting() as counted:
            for number in range(count):
                with theirs.locked():
                    assert theirs.signal(f"s{number - 1}") == (signal(f"s{number - 1}") if number else None)
                    head = transition.signalled(head)
                    theirs.write(head, signal=signal(f"s{number}"), sync=False)
                with ours.locked():
                    assert ours.signals(number) == [signal(f"s{number}")]
                    assert ours.tail(0, None) == list(LOG[:1])
        return counted.bytecodes

    assert cost(60) < 2.15 * cost(30)
