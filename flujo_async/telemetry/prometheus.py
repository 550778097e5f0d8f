"""The runs of a store as metrics of Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from flujo_async._model.state import RUN_STATUSES
from flujo_async.errors import FlujoError

_log: Final = logging.getLogger("flujo_async")
_MILLISECONDS: Final = 1_000


class HasStatistics(Protocol):
    """A store that tells how many runs it has, from any thread; every ``StateBackend`` does."""

    def get_workflow_stats_sync(self) -> Mapping[str, Any]:
        """Return the statistics of its runs."""
        ...


class PrometheusCollector(Collector):
    """Asks a store for the statistics of its runs each time that metrics are scraped.

    They are those of all processes that share the store, so one of them is enough to be scraped:
    ``flujo_runs`` and ``flujo_background_runs``, by ``status``; ``flujo_runs_created_24h``;
    ``flujo_run_duration_average_seconds``, of the runs that have ended; and ``flujo_store_up``, which is 0, and alone,
    while the store does not answer.

    Register it with ``prometheus_client.REGISTRY.register(PrometheusCollector(backend))``. Scrapes are served by
    threads of the server of ``prometheus_client``; from the event loop, ``generate_latest`` belongs into a thread.

    Args:
        backend: the store.
    """

    def __init__(self, backend: HasStatistics) -> None:
        self._backend = backend

    @override
    def collect(self) -> Iterable[GaugeMetricFamily]:
        try:
            statistics = self._backend.get_workflow_stats_sync()
        except (FlujoError, OSError) as error:
            _log.warning("no statistics of the runs for Prometheus: %r", error)
            return [_up(0)]
        return [*_families(statistics), _up(1)]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return the metrics without values: what is registered need not ask the store."""
        return [*_families({}), _up(0)]


def _families(statistics: Mapping[str, Any]) -> list[GaugeMetricFamily]:
    recent = float(statistics.get("recent_workflows_24h", 0))
    seconds = float(statistics.get("average_execution_time_ms", 0)) / _MILLISECONDS
    return [
        _by_status("flujo_runs", "Runs in the store, by status.", statistics.get("status_counts", {})),
        _by_status(
            "flujo_background_runs",
            "Runs in the store that were started in the background, by status.",
            statistics.get("background_status_counts", {}),
        ),
        GaugeMetricFamily("flujo_runs_created_24h", "Runs that were created in the last 24 hours.", value=recent),
        GaugeMetricFamily(
            "flujo_run_duration_average_seconds", "How long the runs took that have ended, on average.", value=seconds
        ),
    ]


def _by_status(name: str, text: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["status"])
    for status in sorted(RUN_STATUSES):
        family.add_metric([status], counts.get(status, 0))
    return family


def _up(value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily("flujo_store_up", "Whether the store has answered.", value=value)
