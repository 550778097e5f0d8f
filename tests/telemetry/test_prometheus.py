"""The runs of a store, scraped."""

import asyncio
import logging
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from flujo_async import Flujo, errors, step
from flujo_async.telemetry import PrometheusCollector

STATISTICS = {
    "total_workflows": 5,
    "status_counts": {"completed": 3, "failed": 2},
    "recent_workflows_24h": 4,
    "average_execution_time_ms": 1_500.0,
    "background_status_counts": {"completed": 1},
}


class Store:
    """Stands in for a store."""

    def __init__(self, answer: Mapping[str, Any] | Exception) -> None:
        self.answer = answer

    def get_workflow_stats_sync(self) -> Mapping[str, Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def scraped(registry: CollectorRegistry) -> dict[str, float]:
    return values(generate_latest(registry).decode())


def values(text: str) -> dict[str, float]:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def test_a_scrape_tells_the_statistics_of_the_store() -> None:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(Store(STATISTICS)))
    found = scraped(registry)
    assert {name: value for name, value in found.items() if value} == {
        "flujo_runs completed": 3,
        "flujo_runs failed": 2,
        "flujo_background_runs completed": 1,
        "flujo_runs_created_24h": 4,
        "flujo_run_duration_average_seconds": 1.5,
        "flujo_store_up": 1,
    }
    assert found["flujo_runs paused"] == 0  # a series that is there from the start can be alerted on
    assert len(found) == 6 * 2 + 3


def test_a_store_that_does_not_answer_leaves_the_other_metrics(caplog: pytest.LogCaptureFixture) -> None:
    store, registry = Store(STATISTICS), CollectorRegistry()
    registry.register(PrometheusCollector(store))
    store.answer = errors.BackendError("the disk is gone")
    with caplog.at_level(logging.WARNING, "flujo_async"):
        assert scraped(registry) == {"flujo_store_up": 0}
    assert "the disk is gone" in caplog.text


def test_registering_asks_the_store_nothing() -> None:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(Store(AssertionError("asked"))))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(PrometheusCollector(Store({})))


async def test_a_server_answers_a_scrape() -> None:
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(Store(STATISTICS)))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert values(text)["flujo_runs completed"] == 3


async def test_a_real_store_is_scraped() -> None:
    """From the thread of a server, while the event loop runs."""

    @step
    async def invert(number: int) -> float:
        return 1 / number

    flujo, registry = Flujo(invert), CollectorRegistry()
    registry.register(PrometheusCollector(flujo.state_backend))
    await flujo.run(1)
    await (await flujo.start(1, background=True)).result()
    with pytest.raises(errors.RunFailed):
        await flujo.run(0)
    found = await asyncio.to_thread(scraped, registry)
    assert {name: value for name, value in found.items() if value and "seconds" not in name} == {
        "flujo_runs completed": 2,
        "flujo_runs failed": 1,
        "flujo_background_runs completed": 1,
        "flujo_runs_created_24h": 3,
        "flujo_store_up": 1,
    }
    assert found["flujo_run_duration_average_seconds"] > 0
