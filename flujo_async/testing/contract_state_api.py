"""The contract of a store: states, lists of runs, statistics and upkeep, as users of workflow stores know them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import pytest
from pydantic import BaseModel

from flujo_async._model.facts import RunStarted
from flujo_async._model.usage import Usage
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import FlujoError, InvalidArgument, SerializationError
from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.samples import SECOND, T0, TTL, append, create, head, listed, load, log_of, new_run, save_state

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


STARTED = RunStarted(at=T0, run_id="run", pipeline_name="p", pipeline_version="1", fingerprint="f", input=1)


class _Model(BaseModel):
    name: str
    price: Decimal


class StateApiContract:
    """What callers ask of a store about runs."""

    is_medium: ClassVar[bool] = False
    """Whether ``save_state``, ``load_state`` and ``delete_state`` are the author's own, and mean the medium."""

    @pytest.fixture
    def clock(self, backend: StateBackend) -> VirtualClock:
        """Return the clock of the store."""
        backend.clock = clock = VirtualClock(T0)
        return clock

    @pytest.fixture
    def states(self, backend: StateBackend, clock: VirtualClock) -> StateBackend:
        """Return the store, if the three methods are those of the state API."""
        if self.is_medium:
            pytest.skip("the three methods are the author's own")
        return backend

    # ------------------------------------------------------------------------------------------------------- states

    async def test_a_state_comes_back_as_it_was_saved(self, states: StateBackend) -> None:
        """Every key, and every value that the codec knows, of its type."""
        state: dict[str, Any] = {
            "pipeline_context": {"price": Decimal("1.50"), "id": UUID(int=1), "raw": b"\xff", "at": T0, "tags": {"a"}},
            "step_history": [("a", 1)],
            "status": "running",
            "of_my_own": {"nested": [1, None, 2**70]},
        }
        await states.save_state("run", state)
        assert await states.load_state("run") == state

    async def test_models_are_saved_as_dictionaries(self, states: StateBackend) -> None:
        """Whoever reads them needs no class."""
        await states.save_state("run", {"item": _Model(name="a", price=Decimal(1))})
        assert await states.load_state("run") == {"item": {"name": "a", "price": Decimal(1)}}

    async def test_a_state_that_nobody_saved_is_none(self, states: StateBackend) -> None:
        """Also after it was deleted, which may be done twice."""
        assert await states.load_state("run") is None
        await states.save_state("run", {"a": 1})
        await states.delete_state("run")
        await states.delete_state("run")
        assert await states.load_state("run") is None
        assert await states.list_states() == []

    async def test_a_state_is_replaced_as_a_whole_and_keeps_its_age(self, states: StateBackend) -> None:
        """A key that is not given again is gone; the first ``created_at`` stays."""
        await states.save_state("run", {"a": 1, "created_at": T0, "updated_at": T0})
        await states.save_state("run", {"b": 1, "created_at": T0 + HOUR, "updated_at": T0 + HOUR})
        assert await states.load_state("run") == {"b": 1, "created_at": T0, "updated_at": T0 + HOUR}

    async def test_what_is_done_to_a_state_later_is_not_saved(self, states: StateBackend) -> None:
        """The store has a copy of its own, and so has every reader."""
        state: dict[str, Any] = {"list": [1]}
        await states.save_state("run", state)
        state["list"].append(2)
        first: Any = await states.load_state("run")
        assert first == {"list": [1]}
        first["list"].append(3)
        assert await states.load_state("run") == {"list": [1]}

    async def test_a_value_that_cannot_be_stored_is_told_by_its_path(self, states: StateBackend) -> None:
        """Nothing turns into its ``repr``, and the state before stays."""
        await states.save_state("run", {"a": 1})
        with pytest.raises(SerializationError) as caught:
            await states.save_state("run", {"context": {"items": [object()]}})
        assert caught.value.path == "state.context.items[0]"
        assert await states.load_state("run") == {"a": 1}

    async def test_a_saved_state_leaves_a_log_alone(self, states: StateBackend) -> None:
        """And the log wins where both say something."""
        records = log_of(STARTED)
        lease = await create(states, new_run(records=records))
        before = await load(states)
        await states.save_state("run", {"status": "failed", "of_my_own": 1})
        assert await load(states) == before
        state = await states.load_state("run")
        assert state is not None
        keys = ("status", "of_my_own", "pipeline_id", "pipeline_name", "version", "created_at", "step_history")
        assert [state[key] for key in keys] == ["running", 1, "f", "p", 1, T0, []]
        assert (await head(states)).lease == lease

    @pytest.mark.parametrize("run_id", ["", "a\0b", "\ud800", "x" * 513, 1, None], ids=repr)
    async def test_what_is_no_run_id_is_refused(self, backend: StateBackend, clock: VirtualClock, run_id: Any) -> None:
        """By everything that takes one."""
        calls = [
            save_state(backend, run_id, {}),
            backend.save_run_start({"run_id": run_id}),
            backend.save_run_end(run_id, {}),
            backend.get_run_details(run_id),
            backend.list_run_steps(run_id),
            backend.get_spans(run_id),
            backend.save_spans(run_id, [{"span_id": "a", "name": "a"}]),
            backend.persist_evaluation(run_id, 1.0),
            backend.delete_run(run_id),
        ]
        for call in calls:
            with pytest.raises(InvalidArgument):
                await call

    # -------------------------------------------------------------------------------------------------------- lists

    async def test_driven_and_saved_runs_are_in_one_list(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Each once: what has a head is as its head says, whatever was saved of it."""
        await create(backend, new_run("driven", pipeline_id="f", metadata={"a": 1}))
        await save_state(backend, "driven", {"status": "failed", "pipeline_name": "other"})
        await save_state(backend, "saved", {"status": "paused", "pipeline_name": "hello", "created_at": T0 + HOUR})
        await backend.save_run_start({"run_id": "begun", "created_at": T0 - HOUR})
        runs = await backend.list_workflows()
        assert [(run["run_id"], run["status"], run["pipeline_name"]) for run in runs] == [
            ("saved", "paused", "hello"),
            ("driven", "running", "hello"),
            ("begun", "running", "unknown"),
        ]
        assert [run["run_id"] for run in await backend.list_runs()] == ["saved", "driven", "begun"]
        assert await backend.list_states() == [
            {name: run[name] for name in ("run_id", "status", "created_at", "updated_at")} for run in runs
        ]
        assert [await backend.get_run_details(run["run_id"]) for run in runs] == runs

    async def test_a_driven_run_is_listed_with_what_its_head_has(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """Moments are moments, costs and durations are numbers."""
        run = new_run(pipeline_id="f", metadata={"a": 1}, parent_run_id="parent", is_background=True)
        lease = await create(backend, run)
        usage = Usage(7, Decimal("1.5"), {"input": 7})
        end: dict[str, Any] = {"status": "failed", "error_message": "oh", "usage": usage, "current_step_index": 2}
        await append(backend, lease, updated_at=T0 + 2 * SECOND, **end)
        (found,) = await backend.list_runs()
        assert found == {
            "run_id": "run",
            "pipeline_id": "f",
            "pipeline_name": "hello",
            "pipeline_version": "1.0.0",
            "current_step_index": 2,
            "status": "failed",
            "created_at": T0,
            "updated_at": T0 + 2 * SECOND,
            "start_time": T0,
            "end_time": T0 + 2 * SECOND,
            "total_steps": 2,
            "error_message": "oh",
            "execution_time_ms": 2000.0,
            "memory_usage_mb": None,
            "metadata": {"a": 1},
            "is_background_task": True,
            "parent_run_id": "parent",
            "task_id": "run",
            "background_error": "oh",
            "total_cost": 1.5,
            "usage": {"tokens": 7, "cost": Decimal("1.5"), "token_counts": {"input": 7}},
            "waiting_for": [],
            "version": 2,
        }

    async def test_a_saved_run_is_as_its_state_says_then_its_end_then_its_start(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """What none of them says has a default."""
        await backend.save_run_start({"run_id": "run", "pipeline_name": "start", "pipeline_version": "1"})
        clock.advance(2)
        await backend.save_run_end("run", {"status": "failed", "pipeline_version": "2", "total_cost": 1.5})
        found = await backend.get_run_details("run")
        assert found is not None
        keys = ("pipeline_name", "pipeline_version", "pipeline_id", "status", "total_cost", "execution_time_ms")
        assert [found[key] for key in keys] == ["start", "2", "unknown", "failed", 1.5, 2000.0]
        await save_state(backend, "run", {"status": "paused", "pipeline_version": "3"})
        found = await backend.get_run_details("run")
        assert found is not None
        assert [found[key] for key in keys] == ["start", "3", "unknown", "paused", 1.5, None]

    async def test_a_run_that_begins_again_has_not_ended(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Its steps, and when it first began, stay."""
        await backend.save_run_start({"run_id": "run"})
        await backend.save_step_result({"run_id": "run", "step_name": "a", "step_index": 0})
        await backend.save_run_end("run", {})
        clock.advance(60)
        ended = await backend.get_run_details("run")
        await backend.save_run_start({"run_id": "run"})
        again = await backend.get_run_details("run")
        assert ended is not None
        assert again is not None
        assert [ended["status"], again["status"], again["created_at"]] == ["completed", "running", T0]
        assert len(await backend.list_run_steps("run")) == 1

    async def test_an_unknown_run_has_no_details(self, backend: StateBackend, clock: VirtualClock) -> None:
        """A step, a span or an evaluation of its name makes it none."""
        await backend.save_step_result({"run_id": "run", "step_name": "a"})
        await backend.save_spans("run", [{"span_id": "a", "name": "a"}])
        await backend.persist_evaluation("run", 1.0)
        assert await backend.get_run_details("run") is None
        assert await backend.list_runs() == []

    async def test_newer_runs_come_first(self, backend: StateBackend, clock: VirtualClock) -> None:
        """As time, not as text; ties by ``run_id``."""
        east = timezone(timedelta(hours=5))
        await create(backend, new_run("c"))
        await save_state(backend, "b", {"created_at": T0})
        await save_state(backend, "oldest", {"created_at": (T0 - HOUR).astimezone(east)})
        await save_state(backend, "newest", {"created_at": (T0 + HOUR).isoformat()})
        assert [run["run_id"] for run in await backend.list_workflows()] == ["newest", "b", "c", "oldest"]
        moments = [run["created_at"] for run in await backend.list_workflows()]
        assert {(type(moment), moment.tzinfo) for moment in moments} == {(datetime, UTC)}

    async def test_filters_apply_before_the_page_is_cut(self, backend: StateBackend, clock: VirtualClock) -> None:
        """``offset`` needs no ``limit``, ``limit=0`` is nothing, and what is empty filters nothing."""
        for n in range(4):
            await create(backend, new_run(f"d{n}", created_at=T0 + n * SECOND))
            await save_state(backend, f"s{n}", {"status": "paused", "created_at": T0 + n * SECOND, "pipeline_id": "p"})
        assert await _ids(backend.list_workflows(status="paused", limit=2, offset=1)) == ["s2", "s1"]
        assert await _ids(backend.list_workflows(offset=6)) == ["d0", "s0"]
        assert await _ids(backend.list_runs(offset=7)) == ["s0"]
        assert await _ids(backend.list_workflows(limit=0)) == []
        assert await _ids(backend.list_workflows(pipeline_id="p", limit=1)) == ["s3"]
        assert len(await backend.list_workflows(status="", pipeline_id="")) == 8
        assert len(await backend.list_runs(status="", pipeline_name="", metadata_filter={})) == 8

    async def test_runs_are_filtered_by_definition_and_metadata(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """Metadata by a part of them, as deep as it goes; a part of a list is not the list."""
        metadata = {"team": {"name": "a", "size": 3}, "tags": [1, 2]}
        await create(backend, new_run("driven", metadata=metadata, pipeline_id="p"))
        await save_state(backend, "saved", {"metadata": metadata, "pipeline_name": "other"})
        assert await _ids(backend.list_runs(metadata_filter={"team": {"size": 3}})) == ["driven", "saved"]
        assert await _ids(backend.list_runs(metadata_filter={"tags": [1]})) == []
        await save_state(backend, "dated", {"metadata": {"due": T0}})
        assert await _ids(backend.list_runs(metadata_filter={"due": T0})) == ["dated"]
        with pytest.raises(SerializationError, match="metadata_filter"):
            await backend.list_runs(metadata_filter={"due": object()})
        with pytest.raises(InvalidArgument):
            await backend.list_runs(pipeline_name="\ud800")
        assert await _ids(backend.list_runs(pipeline_name="other")) == ["saved"]
        assert await _ids(backend.list_workflows(pipeline_id="p")) == ["driven"]

    async def test_a_bad_status_or_number_is_refused(self, backend: StateBackend, clock: VirtualClock) -> None:
        """By an error of this package that is a ``ValueError`` too."""
        calls = [
            save_state(backend, "run", {"status": "resting"}),
            backend.save_run_end("run", {"status": "resting"}),
            backend.list_workflows(status="resting"),
            backend.list_states("resting"),
            backend.list_runs(status=["failed"]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            backend.get_span_statistics(time_range=(T0, T0)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            backend.list_runs(limit=-1),
            backend.list_background_tasks(offset=-1),
            backend.list_evaluations(limit=-1),
            backend.get_failed_workflows(hours_back=-1),
            backend.cleanup_old_workflows(days_old=-1),
            backend.cleanup_stale_background_tasks(stale_hours=float("nan")),
            save_state(backend, "run", {"created_at": "yesterday"}),
            save_state(backend, "run", {"metadata": "mine"}),
            backend.save_run_start({"run_id": "run", "metadata": [1]}),
            backend.save_run_start({}),
        ]
        for call in calls:
            with pytest.raises(FlujoError) as caught:
                await call
            assert isinstance(caught.value, ValueError)
        assert await backend.list_runs() == []

    async def test_failed_runs_are_found_by_when_they_failed(self, backend: StateBackend, clock: VirtualClock) -> None:
        """The last failure first; ``updated_at`` at the edge of the window is in it."""
        for n in range(4):
            lease = await create(backend, new_run(f"r{n}", created_at=T0 - n * HOUR))
            await append(backend, lease, status="failed", error_message="oh", updated_at=T0 + n * HOUR)
        await save_state(backend, "saved", {"status": "failed", "updated_at": T0 + 3 * HOUR})
        await save_state(backend, "running", {"updated_at": T0 + 3 * HOUR})
        clock.advance(3 * HOUR)
        assert await _ids(backend.get_failed_workflows(hours_back=2)) == ["r3", "saved", "r2", "r1"]
        assert len(await backend.get_failed_workflows(hours_back=10**9)) == 5

    async def test_background_runs_are_those_that_nobody_waits_for(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """By ``updated_at``; of one parent, if one is asked for."""
        await create(backend, new_run("front"))
        await create(backend, new_run("a", is_background=True, parent_run_id="p"))
        await save_state(backend, "b", {"is_background_task": True, "task_id": "t", "updated_at": T0 + HOUR})
        lease = await create(backend, new_run("c", is_background=True))
        await append(backend, lease, status="failed", error_message="oh", updated_at=T0 + HOUR)
        assert await _ids(backend.list_background_tasks()) == ["b", "c", "a"]
        assert await _ids(backend.list_background_tasks(parent_run_id="p")) == ["a"]
        assert await _ids(backend.list_background_tasks(status="running", offset=1)) == ["a"]
        assert await _ids(backend.list_background_tasks(limit=1)) == ["b"]
        clock.advance(HOUR)
        assert await _ids(backend.get_failed_background_tasks(hours_back=0)) == ["c"]
        assert await _ids(backend.get_failed_background_tasks(parent_run_id="p")) == []
        clock.advance(DAY + HOUR)
        assert await _ids(backend.get_failed_background_tasks()) == []

    # ---------------------------------------------------------------------------------------------------- statistics

    async def test_an_empty_store_counts_nothing(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Zeros, not errors."""
        assert await backend.get_workflow_stats() == {
            "total_workflows": 0,
            "status_counts": {},
            "recent_workflows_24h": 0,
            "average_execution_time_ms": 0,
            "background_status_counts": {},
        }

    async def test_runs_are_counted(self, backend: StateBackend, clock: VirtualClock) -> None:
        """The average is over those that have ended."""
        lease = await create(backend, new_run("a"))
        await append(backend, lease, status="completed", updated_at=T0 + 3 * SECOND)
        await create(backend, new_run("b", is_background=True, created_at=T0 - DAY - SECOND))
        await save_state(backend, "c", {"status": "failed", "execution_time_ms": 1000, "created_at": T0 - DAY})
        expected = {
            "total_workflows": 3,
            "status_counts": {"completed": 1, "running": 1, "failed": 1},
            "recent_workflows_24h": 2,
            "average_execution_time_ms": 2000.0,
            "background_status_counts": {"running": 1},
        }
        assert await backend.get_workflow_stats() == expected
        assert await asyncio.to_thread(backend.get_workflow_stats_sync) == expected
        assert backend.get_workflow_stats_sync() == expected

    # -------------------------------------------------------------------------------------------------------- upkeep

    async def test_old_runs_that_have_ended_are_deleted(self, backend: StateBackend, clock: VirtualClock) -> None:
        """By ``created_at``; what goes on stays, and nothing of what goes is left."""
        for status in ("pending", "running", "paused", "completed", "failed", "cancelled"):
            await backend.create_run(new_run(f"driven {status}", status=status))
            await save_state(backend, f"saved {status}", {"status": status})
        await backend.save_step_result({"run_id": "driven failed", "step_name": "a"})
        await save_state(backend, "young", {"status": "completed", "created_at": T0 + SECOND})
        clock.advance(2 * DAY)
        assert await backend.cleanup_old_workflows(days_old=2) == 0
        clock.advance(0.5)
        assert await backend.cleanup_old_workflows(days_old=2) == 6
        left = {run["status"] for run in await backend.list_runs() if run["run_id"] != "young"}
        assert left == {"pending", "running", "paused"}
        assert await backend.list_run_steps("driven failed") == []
        assert await listed(backend) == ["driven paused", "driven pending", "driven running"]

    async def test_what_somebody_needs_is_not_deleted(self, backend: StateBackend, clock: VirtualClock) -> None:
        """A run that is being redriven, and a child whose parent may still ask for it."""
        await create(backend, new_run("leased", status="failed"))
        await backend.create_run(new_run("parent"))
        await backend.create_run(new_run("child", status="completed", parent_run_id="parent"))
        clock.advance(1)
        assert await backend.cleanup_old_workflows(days_old=0) == 0
        clock.advance(TTL)
        assert await backend.cleanup_old_workflows(days_old=0) == 1
        assert await listed(backend) == ["child", "parent"]

    async def test_a_stale_background_run_fails(self, backend: StateBackend, clock: VirtualClock) -> None:
        """By a fact in its log, so that it can be redriven; nobody can write it with an older lease."""
        records = log_of(STARTED)
        await create(backend, new_run(records=records, is_background=True))
        await save_state(backend, "saved", {"is_background_task": True, "status": "running", "of_my_own": 1})
        await backend.save_run_start({"run_id": "begun", "is_background_task": True})
        clock.advance(2 * HOUR)
        assert await backend.cleanup_stale_background_tasks(stale_hours=2) == 0
        clock.advance(1)
        assert await backend.cleanup_stale_background_tasks(stale_hours=2) == 3
        assert await backend.cleanup_stale_background_tasks(stale_hours=2) == 0
        failed = await backend.get_failed_background_tasks()
        assert [run["run_id"] for run in failed] == ["begun", "run", "saved"]
        assert all("Task timeout: process likely crashed" in run["background_error"] for run in failed)
        found = await head(backend)
        assert (found.status, found.last_seq, found.lease, found.updated_at) == ("failed", 2, None, clock.now())

    async def test_a_broken_log_does_not_keep_others_from_being_cleaned_up(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """It is left as it is, for people to look at."""
        for run_id in ("a", "b", "c"):
            [record] = log_of(replace(STARTED, run_id=run_id))
            body = record.body.replace(b'"fingerprint":"f"', b'"fingerprint":"g"') if run_id == "b" else record.body
            records = [replace(record, body=body)]
            await backend.create_run(new_run(run_id, records=records, is_background=True))
        clock.advance(1)
        assert await backend.cleanup_stale_background_tasks(stale_hours=0) == 2
        assert {run["run_id"]: run["status"] for run in await backend.list_runs()} == {
            "a": "failed",
            "b": "running",
            "c": "failed",
        }

    async def test_a_background_run_that_is_alive_is_left_alone(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """Its owner is, or it sleeps; and what is no background run is nobody's business here."""
        await create(backend, new_run("front", created_at=T0))
        await create(backend, new_run("asleep", is_background=True, wake_at=T0 + 10 * DAY))
        await create(backend, new_run("leased", is_background=True, created_at=T0 + DAY))
        clock.advance(DAY + SECOND)
        assert await backend.cleanup_stale_background_tasks(stale_hours=1) == 0
        assert {run["status"] for run in await backend.list_runs()} == {"running"}


async def _ids(runs: Any) -> list[str]:
    return [run["run_id"] for run in await runs]
