"""What a shell is told: exit codes, and what to offer on TAB."""

import asyncio
import re
from pathlib import Path

import pytest

from flujo_async.backends import backend_from_url
from flujo_async.cli.exit_code import ExitCode
from tests.faces.conftest import ROOT, STORES, InProcess, Project
from tests.faces.test_runs import Shop, fill


@pytest.fixture
def shop(call: InProcess) -> Shop:
    asyncio.run(fill(backend_from_url(STORES[0])))
    return Shop(STORES[0], call)


def test_the_reference_has_every_exit_code_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    table = page.partition("| exit code | means |")[2].partition("\n\n")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(ExitCode)


EXPECTED = {
    "runs show bad": ExitCode.FINE,
    "runs watch good": ExitCode.FINE,
    "runs --help": ExitCode.FINE,
    "runs watch bad": ExitCode.FAILED,
    "runs pause good": ExitCode.FAILED,
    "runs show nobody": ExitCode.USAGE,
    "runs trace": ExitCode.USAGE,
    "runs resume good": ExitCode.USAGE,
    "runs list --nothing": ExitCode.USAGE,
    "nothing": ExitCode.USAGE,
}


def test_the_exit_code_tells_whose_fault_it_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ctrl-C and a second SIGTERM do stands with the commands that take long."""
    monkeypatch.setenv("FLUJO_DB", shop.db)
    assert {line: shop.call(*line.split()).code for line in EXPECTED} == EXPECTED


def complete(call: InProcess, monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    monkeypatch.setenv("_FLUJO_ASYNC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"flujo-async {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
    return call().out.split()


def test_runs_statuses_and_events_are_completed(call: InProcess, monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    assert complete(call, monkeypatch, f"runs show --db {shop.db} go") == ["good"]
    assert complete(call, monkeypatch, f"runs resume --db {shop.db} go") == ["good"]
    assert complete(call, monkeypatch, f"audit --db {shop.db} --run b") == ["bad"]
    assert complete(call, monkeypatch, "runs list --status p") == ["pending", "paused"]
    assert complete(call, monkeypatch, "runs redrive bad --decision s") == ["skip"]
    assert complete(call, monkeypatch, "runs spans good --status c") == ["completed", "cancelled"]
    assert complete(call, monkeypatch, "audit --event signal.") == [
        "signal.missed",
        "signal.received",
        "signal.refused",
    ]


def test_completing_neither_imports_nor_creates_anything(
    one_project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (one_project.directory / "app.py").write_text("raise SystemExit(9)")
    assert complete(one_project.call, monkeypatch, "runs show ") == []
    assert complete(one_project.call, monkeypatch, "runs show --db nothing.db ") == []
    assert not (tmp_path / "nothing.db").exists()
