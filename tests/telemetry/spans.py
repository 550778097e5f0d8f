"""Spans as tests look at them, of this process and of others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


class Traced:
    """A provider whose spans can be looked at."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def tree(self) -> Tree:
        return Tree.of(json.loads(span.to_json()) for span in self.exporter.get_finished_spans())


@dataclass
class Tree:
    """Spans as their exporters write them."""

    spans: list[dict[str, Any]]

    @classmethod
    def of(cls, spans: Iterable[dict[str, Any]]) -> Tree:
        return cls(sorted(spans, key=lambda span: span["start_time"]))

    @property
    def trace_ids(self) -> set[str]:
        return {span["context"]["trace_id"] for span in self.spans}

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]

    def only(self, name: str) -> dict[str, Any]:
        (span,) = self.named(name)
        return span

    def outline(self) -> list[str]:
        """Return the names of all spans, each below its parent; those whose parent is missing say so."""
        ids = {span["context"]["span_id"] for span in self.spans}
        assert len(ids) == len(self.spans), "a span was exported twice"
        lines: list[str] = []
        for span in self.spans:
            if span["parent_id"] is None or span["parent_id"] not in ids:
                self._put(span, 0, lines, "" if span["parent_id"] is None else " (lost)")
        return lines

    def _put(self, span: dict[str, Any], depth: int, lines: list[str], note: str = "") -> None:
        lines.append("  " * depth + span["name"] + note)
        for other in self.spans:
            if other["parent_id"] == span["context"]["span_id"]:
                self._put(other, depth + 1, lines)


class FileExporter(SpanExporter):
    """Appends each span to a file, at once: what a process that is killed has exported."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("ab", buffering=0) as file:
            for span in spans:
                file.write(json.dumps(json.loads(span.to_json())).encode() + b"\n")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def exported(path: Path) -> Tree:
    return Tree.of(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
