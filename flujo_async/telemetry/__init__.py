"""Instruments: what observes the runs of a runtime. ``Flujo(instruments=[…])`` takes any number of them.

Each is imported when it is asked for: what it needs beyond this package is an extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from flujo_async.abc.instrument import AttemptIdentity, Instrument, RunIdentity
from flujo_async.telemetry.logging import LoggingInstrument

if TYPE_CHECKING:
    from flujo_async.telemetry.otel import OpenTelemetryInstrument
    from flujo_async.telemetry.progress import ProgressInstrument
    from flujo_async.telemetry.prometheus import PrometheusCollector

__all__ = [
    "AttemptIdentity",
    "Instrument",
    "LoggingInstrument",
    "OpenTelemetryInstrument",
    "ProgressInstrument",
    "PrometheusCollector",
    "RunIdentity",
]

_EXTRAS: Final = {
    "OpenTelemetryInstrument": ("flujo_async.telemetry.otel", "opentelemetry", "otel"),
    "PrometheusCollector": ("flujo_async.telemetry.prometheus", "prometheus_client", "prometheus"),
    "ProgressInstrument": ("flujo_async.telemetry.progress", "rich", "progress"),
}
"""The module of each name, what that imports, and the extra that installs it."""


def __getattr__(name: str) -> Any:
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, needed, extra = _EXTRAS[name]
    try:
        value = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != needed:
            raise
        raise ImportError(f"{name} needs {needed}: pip install 'flujo-async[{extra}]'", name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
