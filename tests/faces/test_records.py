"""``audit``, ``evaluations``, ``state`` and ``cleanup``: what a store keeps beside what runs do."""

import asyncio
import getpass
import json
from datetime import UTC, datetime, timedelta

import pytest

from flujo_async import StateBackend
from flujo_async._model.facts import RunCancelled, RunForked, RunPaused, RunResumed, SignalReceived
from flujo_async._model.lease import ClaimQuery
from flujo_async._model.state import TERMINAL, Waiting
from flujo_async.backends import backend_from_url
from tests.faces.conftest import InProcess, Project
from tests.faces.test_runs import T0, create, started

DB = "sqlite:///runs.db"


@pytest.fixture
def kept(call: InProcess) -> InProcess:
    asyncio.run(fill(backend_from_url(DB)))
    return call


async def fill(backend: StateBackend) -> None:
    waiting = Waiting(kind="signal", name="approval", since=T0)
    answer = SignalReceived(
        at=T0 + timedelta(seconds=1), key="approval", name="approval", signal_id="s", payload=1, sent_by="ann"
    )
    owner = RunResumed(at=T0 + timedelta(seconds=2), owner="host:4711:123:abc", cause="recovered")
    last = RunCancelled(at=T0 + timedelta(seconds=3), reason="no more tea")
    async with backend:
        await create(
            backend, started("a"), RunPaused(at=T0, waiting_for=(waiting,)), answer, owner, last, status="cancelled"
        )
        fork = RunForked(at=T0 + timedelta(seconds=4), run_id="b", source_run_id="a")
        await create(backend, started("b"), fork, status="failed", parent_run_id="c")
        await create(backend, started("c"))
        await backend.save_run_start({"run_id": "by hand", "created_at": T0})
        await backend.save_run_end("by hand", {"status": "completed"})
        await backend.persist_evaluation("a", 0.75, "good, but\x1b[2J long", "write", {"judge": "m"})
        await backend.persist_evaluation("b", 1)


class TestAudit:
    def test_it_tells_who_did_what(self, kept: InProcess) -> None:
        shown = kept("audit", "--db", "runs.db")
        assert [line.split()[2:] for line in shown.out.splitlines()[1:]] == [
            ["workflow.forked", "b", "from", "run", "a"],
            ["workflow.cancelled", "a", "no", "more", "tea"],
            ["workflow.recovered", "a", "by", "process", "4711"],
            ["signal.received", "a", "approval,", "by", "ann"],
            ["workflow.paused", "a", "waits", "for", "approval"],
        ]

    def test_it_can_be_asked_for_some(self, kept: InProcess) -> None:
        asked = ("a", "--event", "signal.received", "--event", "workflow.paused", "--limit", "1")
        shown = kept("audit", "--db", "runs.db", *asked, "--json")
        assert [(line["event"], line["by"], line["seq"]) for line in shown.json] == [("signal.received", "ann", 3)]
        assert kept("audit", "--db", "runs.db", *asked).err == "there are more than 1; --limit shows them\n"
        none = kept("audit", "--db", "runs.db", "--since", "24h")
        assert (none.code, none.out, none.err) == (0, "", "there is nothing of the kind in the audit log\n")
        assert kept("audit", "--db", "runs.db", "--event", "nothing").code == 2
        nobody = kept("audit", "nobody", "--db", "runs.db")
        assert (nobody.code, nobody.out) == (2, "")
        assert nobody.err == "flujo-async: there is no run 'nobody'; `runs list` names them all\n"


class TestSignal:
    def test_the_audit_log_knows_who_has_answered(self, one_project: Project) -> None:
        one_project.run("orders", "a", "b")
        answer = ("approval", "--payload", json.dumps({"is_yes": True, "by": "x"}), "--resume")
        assert one_project("runs", "signal", "a", *answer, "--by", "ann").code == 0
        assert one_project("runs", "signal", "b", *answer).code == 0
        told = one_project("audit", "--event", "signal.received", "--json").json
        assert {line["run_id"]: line["by"] for line in told} == {"a": "ann", "b": getpass.getuser()}
        assert "approval: answered by ann\n" in one_project("runs", "watch", "a").out


class TestEvaluations:
    def test_they_are_listed_the_newest_first(self, kept: InProcess) -> None:
        shown = kept("evaluations", "list", "--db", "runs.db")
        assert [line.split()[1:3] for line in shown.out.splitlines()[1:]] == [["b", "1"], ["a", "write"]]
        assert "\x1b" not in shown.out
        (one,) = kept("evaluations", "list", "--db", "runs.db", "--run", "a", "--json").json
        assert (one["score"], one["step_name"], one["metadata"]) == (0.75, "write", {"judge": "m"})

    def test_there_are_none_or_more(self, kept: InProcess) -> None:
        some = kept("evaluations", "list", "--db", "runs.db", "--limit", "1")
        assert some.err == "there are more than 1; --limit shows them\n"
        none = kept("evaluations", "list", "--db", "runs.db", "--run", "c")
        assert (none.code, none.out, none.err) == (0, "", "nothing of run 'c' was evaluated\n")
        by_hand = kept("evaluations", "list", "--db", "runs.db", "--run", "by hand", "--json")
        assert (by_hand.code, by_hand.json) == (0, [])

    @pytest.mark.parametrize("more", [[], ["--json"]])
    def test_a_run_that_is_not_there_is_told(self, kept: InProcess, more: list[str]) -> None:
        nobody = kept("evaluations", "list", "--db", "runs.db", "--run", "nobody", *more)
        assert (nobody.code, nobody.out) == (2, "")
        assert nobody.err == "flujo-async: there is no run 'nobody'; `runs list` names them all\n"

    def test_what_was_only_evaluated_is_shown(self, kept: InProcess) -> None:
        """A program may evaluate what no store has driven."""
        asyncio.run(backend_from_url(DB).persist_evaluation("elsewhere", 0.5))
        assert len(kept("evaluations", "list", "--db", "runs.db", "--run", "elsewhere", "--json").json) == 1


class TestState:
    def test_what_is_set_can_be_got(self, kept: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        assert kept("state", "set", "shop", '{"is_open": true}', "--db", "runs.db").code == 0
        assert kept("state", "get", "shop", "--db", "runs.db").json == {"is_open": True}
        monkeypatch.setattr("sys.stdin.read", lambda: '{"is_open": false}')
        assert kept("state", "set", "shop", "-", "--db", "runs.db", "--json").json == {"is_open": False}
        assert kept("state", "get", "shop", "--db", "runs.db", "--json").json == {"is_open": False}

    @pytest.mark.parametrize("value", ["[1]", "yes", '{"x": NaN}'])
    def test_only_json_objects_are_kept(self, kept: InProcess, value: str) -> None:
        assert kept("state", "set", "shop", value, "--db", "runs.db").code == 2
        missing = kept("state", "get", "shop", "--db", "runs.db")
        assert (missing.code, missing.out) == (2, "")
        assert missing.err == "flujo-async: runs.db keeps nothing under 'shop'\n"


class TestCleanup:
    def test_a_dry_run_tells_what_would_go(self, kept: InProcess) -> None:
        """Those that have ended, without the child of a run that goes on."""
        told = kept("cleanup", "--older-than", "1d", "--dry-run", "--db", "runs.db", "--json").json
        assert told == {"runs": 2, "run_ids": ["a", "by hand"], "is_dry_run": True}
        shown = kept("cleanup", "--older-than", "1d", "--dry-run", "--db", "runs.db").out.splitlines()
        assert [line.split()[0] for line in shown[1:]] == ["a", "by", "would"]
        assert len(kept("runs", "list", "--db", "runs.db", "--json").json) == 3

    def test_it_deletes_what_it_tells(self, kept: InProcess) -> None:
        done = kept("cleanup", "--older-than", "1d", "--db", "runs.db")
        assert done.out.splitlines()[-1] == "deleted 2 runs in runs.db"
        assert [run["run_id"] for run in kept("runs", "list", "--db", "runs.db", "--json").json] == ["b", "c"]
        assert kept("cleanup", "--older-than", "1d", "--db", "runs.db").out == "deleted 0 runs in runs.db\n"

    def test_it_names_what_it_has_deleted(self, kept: InProcess) -> None:
        """Not what it found: somebody may go on with a run meanwhile."""
        claiming = backend_from_url(DB).claim(
            "somebody", now=datetime.now(UTC), ttl=timedelta(hours=1), query=ClaimQuery("a", statuses=TERMINAL)
        )
        assert len(asyncio.run(claiming)) == 1
        told = kept("cleanup", "--older-than", "1d", "--db", "runs.db", "--json")
        assert told.json == {"runs": 1, "run_ids": ["by hand"], "is_dry_run": False}
        again = kept("cleanup", "--older-than", "1d", "--db", "runs.db")
        assert again.out.splitlines()[-1] == "deleted 0 runs in runs.db"
        assert again.err == "left, because somebody goes on with it, or it cannot be read: a\n"

    def test_what_is_younger_stays(self, kept: InProcess) -> None:
        assert kept("cleanup", "--older-than", "5200w", "--db", "runs.db", "--json").json["runs"] == 0

    @pytest.mark.parametrize("age", ["", "30", "d", "0d", "-1d", "1y", "900000d", "999999999999w"])
    def test_an_age_is_a_number_and_a_unit(self, kept: InProcess, age: str) -> None:
        refused = kept("cleanup", f"--older-than={age}", "--db", "runs.db")
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith(f"flujo-async: --older-than {age}: that is ")

    def test_an_age_of_nothing_is_refused(self, kept: InProcess) -> None:
        refused = kept("cleanup", "--older-than", "0s", "--db", "runs.db")
        assert refused.err == "flujo-async: --older-than 0s: that is to be longer than nothing, such as 1s\n"
