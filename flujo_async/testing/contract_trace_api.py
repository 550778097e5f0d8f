"""The contract of a store: steps, spans, traces and evaluations."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from flujo_async._log.spans import span_id_of
from flujo_async._model.facts import (
    AttemptFailed,
    EventEmitted,
    RunCompleted,
    RunStarted,
    StepCompleted,
    UsageReported,
)
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import InvalidArgument
from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.samples import SECOND, T0, create, log_of, new_run, save_state

START = T0.timestamp()

RAN = log_of(
    RunStarted(at=T0, run_id="run", pipeline_name="hello", pipeline_version="1", fingerprint="f", input=1),
    AttemptFailed(
        at=T0 + SECOND,
        key="a",
        name="fetch",
        attempt=1,
        error={"type": "ValueError", "message": "no"},
        retry_at=T0 + 2 * SECOND,
        first_started_at=T0,
    ),
    EventEmitted(at=T0 + 3 * SECOND, key="a", name="fetch", data={"half": True}),
    UsageReported(at=T0 + 3 * SECOND, key="a", name="fetch", tokens=7, cost=Decimal("0.5")),
    StepCompleted(
        at=T0 + 3 * SECOND, key="a", name="fetch", started_at=T0 + 2 * SECOND, attempts=2, output="x", source=""
    ),
    RunCompleted(at=T0 + 4 * SECOND, output="x"),
)
"""The log of a run with one step, which was tried twice."""


async def ran(backend: StateBackend) -> None:
    """Create a run that has ended."""
    await backend.create_run(new_run("run", records=RAN, status="completed", updated_at=T0 + 4 * SECOND))


class TraceApiContract:
    """What a run did, as its log tells and as callers have saved it."""

    # --------------------------------------------------------------------------------------------------------- steps

    async def test_the_steps_of_a_log_are_told(self, backend: StateBackend, clock: VirtualClock) -> None:
        """With cost, tokens, duration, attempts and input; nobody has saved them."""
        await ran(backend)
        assert await backend.list_run_steps("run") == [
            {
                "step_name": "fetch",
                "step_index": 0,
                "status": "completed",
                "output": "x",
                "raw_response": None,
                "cost_usd": 0.5,
                "token_counts": 7,
                "execution_time_ms": 1000.0,
                "created_at": T0 + 3 * SECOND,
                "key": "a",
                "attempts": 2,
                "error": None,
                "input": 1,
                "started_at": T0 + 2 * SECOND,
                "finished_at": T0 + 3 * SECOND,
            }
        ]
        assert await backend.list_run_steps("nobody") == []

    async def test_a_saved_step_is_really_saved(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Also under the keys that engines use for cost, tokens, duration and times."""
        data: dict[str, Any] = {
            "run_id": "run",
            "step_name": "fetch",
            "step_index": 3,
            "status": "failed",
            "output": {"price": Decimal("1.5")},
            "raw_response": "raw",
            "cost": 0.25,
            "tokens": 7,
            "duration_ms": 12.5,
            "error": "oh",
            "input": [1],
            "start_time": T0,
            "end_time": T0 + SECOND,
        }
        await backend.save_step_result(data)
        assert await backend.list_run_steps("run") == [
            {
                "step_name": "fetch",
                "step_index": 3,
                "status": "failed",
                "output": {"price": Decimal("1.5")},
                "raw_response": "raw",
                "cost_usd": 0.25,
                "token_counts": 7,
                "execution_time_ms": 12.5,
                "created_at": T0,
                "key": "3:fetch",
                "attempts": 1,
                "error": "oh",
                "input": [1],
                "started_at": T0,
                "finished_at": T0 + SECOND,
            }
        ]

    async def test_saved_steps_come_by_their_index(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Behind those of the log; the same step once more takes the place of the first, one of the log's key too."""
        await ran(backend)
        for index, output in ((2, "c"), (1, "b"), (2, "d")):
            await backend.save_step_result({"run_id": "run", "step_name": "s", "step_index": index, "output": output})
        await backend.save_step_result({"run_id": "run", "step_name": "mine", "step_run_id": "a", "step_index": 9})
        steps = await backend.list_run_steps("run")
        assert [(step["step_name"], step["step_index"], step["output"]) for step in steps] == [
            ("mine", 0, None),
            ("s", 1, "b"),
            ("s", 2, "d"),
        ]

    @pytest.mark.parametrize(
        "data",
        [
            {"step_name": "a"},
            {"run_id": "run"},
            {"run_id": "run", "step_name": "a", "cost": "x"},
            {"run_id": "run", "step_name": "a", "token_counts": "x"},
            {"run_id": "run", "step_name": "a", "tokens": {"input": "x"}},
        ],
    )
    async def test_a_step_that_lacks_its_name_is_refused(
        self, backend: StateBackend, clock: VirtualClock, data: dict[str, Any]
    ) -> None:
        """And one whose numbers are none."""
        with pytest.raises(InvalidArgument):
            await backend.save_step_result(data)

    # --------------------------------------------------------------------------------------------------------- spans

    async def test_the_spans_of_a_log_are_told(self, backend: StateBackend, clock: VirtualClock) -> None:
        """The run, the step, each of its attempts; ids are the same whenever they are asked for."""
        await ran(backend)
        spans = await backend.get_spans("run")
        root, step = span_id_of("run"), span_id_of("run", "a")
        assert {span["span_id"]: (span["name"], span["parent_span_id"], span["status"]) for span in spans} == {
            root: ("hello", None, "completed"),
            step: ("fetch", root, "completed"),
            span_id_of("run", "a", 1): ("fetch attempt 1", step, "failed"),
            span_id_of("run", "a", 2): ("fetch attempt 2", step, "completed"),
        }
        times = {span["name"]: tuple(round(span[end] - START) for end in ("start_time", "end_time")) for span in spans}
        assert times == {"hello": (0, 4), "fetch": (0, 3), "fetch attempt 1": (0, 1), "fetch attempt 2": (2, 3)}
        (told,) = [span for span in spans if span["span_id"] == step]
        assert told["events"] == [{"name": "fetch", "time": pytest.approx(START + 3), "data": {"half": True}}]
        assert (told["attributes"]["attempts"], told["attributes"]["cost"], told["attributes"]["tokens"]) == (2, 0.5, 7)

    async def test_spans_come_by_their_start_and_are_filtered(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Ties by id."""
        spans = [{"span_id": name, "name": name, "start_time": at} for name, at in (("b", 1), ("a", 1), ("c", 0.5))]
        await backend.save_spans("run", [*spans, {"span_id": "d", "name": "a", "start_time": 2, "end_time": 3}])
        assert [span["span_id"] for span in await backend.get_spans("run")] == ["c", "a", "b", "d"]
        assert [span["span_id"] for span in await backend.get_spans("run", name="a")] == ["a", "d"]
        assert [span["span_id"] for span in await backend.get_spans("run", status="completed", name="")] == ["d"]
        assert await backend.get_spans("nobody") == []

    async def test_a_span_saved_again_is_replaced(self, backend: StateBackend, clock: VirtualClock) -> None:
        """There are not two; one with the id of a derived one wins; keys of one's own stay."""
        await ran(backend)
        await backend.save_spans("run", [{"span_id": span_id_of("run"), "name": "mine", "mine": 1, "start_time": T0}])
        await backend.save_spans("run", [{"span_id": span_id_of("run"), "name": "again", "mine": 2, "start_time": T0}])
        spans = {span["span_id"]: span for span in await backend.get_spans("run")}
        assert len(spans) == 4
        assert spans[span_id_of("run")] == {
            "span_id": span_id_of("run"),
            "parent_span_id": None,
            "name": "again",
            "start_time": START,
            "end_time": None,
            "status": "running",
            "attributes": {},
            "events": [],
            "mine": 2,
        }

    @pytest.mark.parametrize(
        "spans",
        [
            [{"name": "a"}],
            [{"span_id": "a"}],
            [{"span_id": "a", "name": "a", "start_time": float("nan")}],
            [{"span_id": "a", "name": "a"}, {"span_id": "a", "name": "b"}],
            [{"span_id": "a", "name": "a"}, None],
            ["span"],
            {"span_id": "a", "name": "a"},
            "spans",
            None,
        ],
    )
    async def test_a_span_that_is_none_is_refused(self, backend: StateBackend, clock: VirtualClock, spans: Any) -> None:
        """None is left out in silence."""
        with pytest.raises(InvalidArgument):
            await backend.save_spans("run", spans)
        assert await backend.get_spans("run") == []

    async def test_the_trace_of_a_log_is_a_tree(self, backend: StateBackend, clock: VirtualClock) -> None:
        """One root; ``None`` where there is nothing."""
        await ran(backend)
        root = await backend.get_trace("run")
        assert (root["name"], [child["name"] for child in root["children"]]) == ("hello", ["fetch"])
        attempts = root["children"][0]["children"]
        assert [attempt["name"] for attempt in attempts] == ["fetch attempt 1", "fetch attempt 2"]
        assert await backend.get_trace("nobody") is None

    async def test_a_saved_trace_comes_back(self, backend: StateBackend, clock: VirtualClock) -> None:
        """With events, and as deep as it is; it takes the place of all that was saved before."""
        await backend.save_spans("run", [{"span_id": "old", "name": "old"}])
        trace: dict[str, Any] = {"span_id": "0", "name": "leaf", "start_time": 0, "events": [{"name": "e"}]}
        for n in range(1, 300):
            trace = {"span_id": str(n), "name": "inner", "start_time": 0, "children": [trace]}
        await backend.save_trace("run", trace)
        node, depth = await backend.get_trace("run"), 1
        while node["children"]:
            (node,) = node["children"]
            depth += 1
        assert (depth, node["name"], node["events"]) == (300, "leaf", [{"name": "e"}])

    @pytest.mark.parametrize(
        "trace",
        [
            None,
            7,
            "trace",
            [],
            [None],
            [[{"span_id": "a", "name": "a"}]],
            {},
            {"name": "a"},
            {"span_id": "a"},
            {"span_id": "a", "name": "a", "children": 7},
            {"span_id": "a", "name": "a", "children": "bc"},
            {"span_id": "a", "name": "a", "children": {"span_id": "b", "name": "b"}},
            {"span_id": "a", "name": "a", "children": [None]},
            {"span_id": "a", "name": "a", "children": [{"name": "b"}]},
            {"span_id": "a", "name": "a", "children": [{"span_id": "a", "name": "b"}]},
            {"span_id": "a", "name": "a", "start_time": []},
            {"span_id": "a", "name": "a", "end_time": "soon"},
        ],
        ids=repr,
    )
    async def test_a_trace_that_is_none_is_refused(
        self, backend: StateBackend, clock: VirtualClock, trace: Any
    ) -> None:
        """And what was saved before stays."""
        await backend.save_spans("run", [{"span_id": "old", "name": "old"}])
        with pytest.raises(InvalidArgument):
            await backend.save_trace("run", trace)
        assert [span["span_id"] for span in await backend.get_spans("run")] == ["old"]

    async def test_what_names_a_span_is_a_text(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Whatever it was: a number is as good, and children find their parents."""
        tree = {"span_id": 1, "name": 7, "start_time": 0, "end_time": 1, "status": ["odd"]}
        await backend.save_trace("run", {**tree, "children": [{**tree, "span_id": 2, "parent_span_id": []}]})
        root = await backend.get_trace("run")
        assert [(node["span_id"], node["name"], node["status"]) for node in (root, *root["children"])] == [
            ("1", "7", "['odd']"),
            ("2", "7", "['odd']"),
        ]
        assert (await backend.get_span_statistics())["by_name"] == {"7": 2}

    async def test_several_roots_are_all_told(self, backend: StateBackend, clock: VirtualClock) -> None:
        """A span whose parent is not there, and spans that are each other's parents, are not lost."""
        spans = [
            {"span_id": "a", "name": "a", "start_time": 0, "parent_span_id": "gone"},
            {"span_id": "b", "name": "b", "start_time": 1, "parent_span_id": "c"},
            {"span_id": "c", "name": "c", "start_time": 2, "parent_span_id": "b"},
        ]
        await backend.save_spans("run", spans)
        roots = await backend.get_trace("run")
        assert [(root["span_id"], len(root["children"])) for root in roots] == [("a", 0), ("b", 1)]
        await backend.save_trace("run", roots)
        assert [root["span_id"] for root in await backend.get_trace("run")] == ["a", "b"]

    async def test_finished_spans_are_counted(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Of all runs, driven and saved, in seconds; what has not finished does not count."""
        await ran(backend)
        await backend.save_spans(
            "saved", [{"span_id": "a", "name": "fetch", "start_time": T0, "end_time": T0 + SECOND}]
        )
        await backend.save_spans("saved", [{"span_id": "b", "name": "fetch", "start_time": START}])
        found = await backend.get_span_statistics()
        assert found["total_spans"] == 5
        assert found["by_name"] == {"hello": 1, "fetch": 2, "fetch attempt 1": 1, "fetch attempt 2": 1}
        assert found["by_status"] == {"completed": 4, "failed": 1}
        assert found["avg_duration_by_name"]["fetch"] == pytest.approx({"total": 4, "count": 2, "average": 2})

    async def test_span_statistics_are_of_a_definition_and_a_time(
        self, backend: StateBackend, clock: VirtualClock
    ) -> None:
        """Both ends of the range are in it, by when a span started."""
        await ran(backend)
        await save_state(backend, "saved", {"pipeline_name": "other"})
        span = {"span_id": "a", "name": "x", "start_time": START + 2, "end_time": START + 3}
        await backend.save_spans("saved", [span])
        assert (await backend.get_span_statistics("other"))["by_name"] == {"x": 1}
        assert (await backend.get_span_statistics("hello"))["total_spans"] == 4
        assert (await backend.get_span_statistics(time_range=(START + 2, START + 2)))["total_spans"] == 2
        assert (await backend.get_span_statistics(time_range=(START + 2.5, START + 9)))["total_spans"] == 0
        assert (await backend.get_span_statistics(time_range=(-1e300, 1e300)))["total_spans"] == 5
        assert (await backend.get_span_statistics(time_range=(1e300, 2e300)))["total_spans"] == 0

    # --------------------------------------------------------------------------------------------------- evaluations

    async def test_evaluations_come_newest_first(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Each call is one; also of a run that nobody knows."""
        await create(backend)
        await backend.persist_evaluation("run", 0.5, "fair", "a", {"judge": ["x"]})
        clock.advance(1)
        await backend.persist_evaluation("other", 1)
        clock.advance(1)
        await backend.persist_evaluation("run", 0.5)
        found = await backend.list_evaluations()
        assert [(each["run_id"], each["created_at"]) for each in found] == [
            ("run", T0 + 2 * SECOND),
            ("other", T0 + SECOND),
            ("run", T0),
        ]
        first = {"run_id": "run", "step_name": "a", "score": 0.5, "feedback": "fair", "metadata": {"judge": ["x"]}}
        assert found[2] == {**first, "created_at": T0}
        assert found[1]["metadata"] is None
        assert await backend.list_evaluations(limit=1, run_id="other") == [found[1]]
        assert await backend.list_evaluations(limit=0) == []

    @pytest.mark.parametrize("score", ["good", None, True, float("inf")], ids=repr)
    async def test_a_score_is_a_number(self, backend: StateBackend, clock: VirtualClock, score: Any) -> None:
        """Nothing else can be averaged."""
        with pytest.raises(InvalidArgument):
            await backend.persist_evaluation("run", score)

    async def test_all_that_was_saved_goes_with_the_run(self, backend: StateBackend, clock: VirtualClock) -> None:
        """Whatever knew it knows it no more."""
        await save_state(backend, "run", {})
        await backend.save_run_start({"run_id": "run"})
        await backend.save_step_result({"run_id": "run", "step_name": "a"})
        await backend.save_spans("run", [{"span_id": "a", "name": "a"}])
        await backend.persist_evaluation("run", 1)
        await backend.delete_run("run")
        assert await backend.get_run_details("run") is None
        assert await backend.list_runs() == []
        assert await backend.list_run_steps("run") == []
        assert await backend.get_spans("run") == []
        assert await backend.list_evaluations() == []
