"""Spans with the ids that they have in every process."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final, Protocol, runtime_checkable

from opentelemetry.trace import INVALID_SPAN_ID, INVALID_TRACE_ID, Tracer

from flujo_async.abc.instrument import RunIdentity

_SPAN_ID_BYTES: Final = 8
_TRACE_ID_BYTES: Final = 16


def span_id(run: RunIdentity, key: str | None = None) -> int:
    """Return the id of the span of a run, or of its step ``key``: the same wherever it is asked for.

    A run that is tried again after it had ended, and what it does then, have others than before.
    """
    return _number(run, _SPAN_ID_BYTES, run.began_at.isoformat(), *(("run",) if key is None else ("step", key)))


def trace_id(run: RunIdentity) -> int:
    """Return the id of the trace of a run that carries none along."""
    return _number(run, _TRACE_ID_BYTES, "trace")


def _number(run: RunIdentity, length: int, *parts: str) -> int:
    text = "\0".join((run.run_id, run.started_at.isoformat(), *parts))
    return int.from_bytes(sha256(text.encode()).digest()[:length], "big") or 1


@runtime_checkable
class _TakesIds(Protocol):
    """A tracer that asks for the ids of its spans, as those of the SDK do."""

    id_generator: Any


class Ids:
    """Stands in front of the generator of ids of one tracer, and lets them be chosen for the next span."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual
        self._next = threading.local()

    @classmethod
    def of(cls, tracer: Tracer) -> Ids | None:
        """Return what chooses the ids of a tracer's spans; nothing if the tracer does not ask."""
        if not isinstance(tracer, _TakesIds):
            return None
        if not isinstance(tracer.id_generator, cls):
            tracer.id_generator = cls(tracer.id_generator)
        return tracer.id_generator

    @contextmanager
    def chosen(self, span_id: int, trace_id: int = INVALID_TRACE_ID, *, is_random: bool = True) -> Generator[None]:
        """Give these ids to the span that is started in the block.

        Args:
            span_id: its own.
            trace_id: that of its trace, if it has no parent; by default the usual one.
            is_random: whether that was made by chance.
        """
        self._next.chosen = span_id, trace_id, is_random
        try:
            yield
        finally:
            self._next.chosen = None

    @property
    def _chosen(self) -> tuple[int, int, bool]:
        return getattr(self._next, "chosen", None) or (INVALID_SPAN_ID, INVALID_TRACE_ID, True)

    def generate_span_id(self) -> int:
        """Return the id of a span."""
        number: int = self._chosen[0] or self._usual.generate_span_id()
        return number

    def generate_trace_id(self) -> int:
        """Return the id of a trace."""
        number: int = self._chosen[1] or self._usual.generate_trace_id()
        return number

    def is_trace_id_random(self) -> bool:
        """Return whether the id of a trace is made by chance."""
        _, trace_id, is_random = self._chosen
        return is_random if trace_id else self._usual.is_trace_id_random()
