"""Spans as a tree, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from flujo_async._log.spans import Span
from flujo_async.errors import InvalidArgument


def tree_of(spans: Sequence[Span]) -> list[Span]:
    """Return spans as trees, each with its ``children``, in the order in which they are given.

    A span whose parent is not there is a root; so is the first of several that are each other's parents.
    """
    nodes: dict[str, Span] = {span["span_id"]: {**span, "children": []} for span in spans}
    below: dict[str | None, list[Span]] = {}
    for node in nodes.values():
        parent = node["parent_span_id"]
        below.setdefault(parent if parent in nodes else None, []).append(node)
    roots: list[Span] = []
    reached: set[str] = set()
    for node in (*below.get(None, ()), *nodes.values()):
        if node["span_id"] not in reached:
            roots.append(node)
            _hang(node, below, reached)
    return roots


def _hang(root: Span, below: Mapping[str | None, list[Span]], reached: set[str]) -> None:
    """Give a node all that is below it: by a list of what is to do, since a trace may be as deep as it likes."""
    reached.add(root["span_id"])
    todo = [root]
    while todo:
        node = todo.pop()
        for child in below.get(node["span_id"], ()):
            if child["span_id"] not in reached:
                reached.add(child["span_id"])
                node["children"].append(child)
                todo.append(child)


def nodes_of(trace: Any) -> Iterator[Span]:
    """Yield the spans of a trace, each with its parent by the place where it stands, and without its children.

    Raises:
        InvalidArgument: it is neither a span nor a list of spans, nor is what a span has for its children.
    """
    roots = spans_in([trace] if isinstance(trace, Mapping) else trace, "trace")
    todo: list[tuple[Mapping[str, Any], Any]] = [(root, root.get("parent_span_id")) for root in roots]
    while todo:
        node, parent = todo.pop()
        yield {**{name: value for name, value in node.items() if name != "children"}, "parent_span_id": parent}
        children = spans_in(node.get("children") or (), f"trace: children of {node.get('span_id')!r}")
        todo += [(child, node.get("span_id")) for child in children]


def spans_in(value: Any, at: str) -> list[Mapping[str, Any]]:
    """Return spans that somebody gave.

    Raises:
        InvalidArgument: this is no list of them.
    """
    if not _is_list(value):
        raise InvalidArgument(f"{at}: that is a list of spans, not {value!r}")
    spans = list(value)
    if wrong := [span for span in spans if not isinstance(span, Mapping)]:
        raise InvalidArgument(f"{at}: a span is a mapping with span_id and name, not {wrong[0]!r}")
    return spans


def _is_list(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, (Mapping, str, bytes))


def statistics_of(spans: Iterable[Span]) -> dict[str, Any]:
    """Return how many finished spans there are, by name and status, and how many seconds those of a name took."""
    finished = [span for span in spans if span["end_time"] is not None]
    by_name = Counter(span["name"] for span in finished)
    totals = dict.fromkeys(by_name, 0.0)
    for span in finished:
        totals[span["name"]] += span["end_time"] - span["start_time"]
    return {
        "total_spans": len(finished),
        "by_name": dict(by_name),
        "by_status": dict(Counter(span["status"] for span in finished)),
        "avg_duration_by_name": {
            name: {"total": total, "count": by_name[name], "average": total / by_name[name]}
            for name, total in totals.items()
        },
    }
