"""Definitions, drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from tests.crash.drawn.terms import (
    HOUR,
    SIGNALS,
    Attempt,
    Beside,
    Child,
    Coded,
    Do,
    Each,
    Fork,
    Graph,
    Inline,
    Loop,
    Need,
    Node,
    Note,
    Parallel,
    Row,
    Sleep,
    Term,
    Wait,
)

ON_ERROR = st.sampled_from(["finish", "ignore", "cancel"])
MAX_CONCURRENCY = st.sampled_from([None, None, 1, 2])
Notes: TypeAlias = Literal["all", "total", "nothing"]


def one_in(number: int) -> st.SearchStrategy[bool]:
    """Return what is true that seldom; the simplest is false."""
    return st.integers(1, number).map(lambda drawn: drawn == number)


@st.composite
def definitions(draw: Any, first: int = 1) -> Row:
    """Return a definition; the simplest is one step. Of some the last step fails, and all has to be undone.

    Names are numbered from ``first`` on.
    """
    drawing = Drawing(draw, first)
    row = drawing.row(draw(st.sampled_from([0, 1, 2, 2])))
    return Row((*row.parts, Do("end", fails_on=1))) if draw(one_in(4)) else row


class Drawing:
    """One definition in the making; ``depth`` is how many combinators may still stand in one another."""

    def __init__(self, draw: Any, first: int) -> None:
        self._draw = draw
        self._numbers = count(first)
        self._known: dict[Notes, list[Do]] = {"total": [], "nothing": []}

    def row(self, depth: int) -> Row:
        """Return one to three parts."""
        return Row(tuple(self._term(depth) for _ in range(self._draw(st.integers(1, 3)))))

    def _term(self, depth: int) -> Term:
        flat: list[Callable[[int], Term]] = [self._do, self._do, self._do, self._pause]
        deep = [self._inline, self._child, self._parallel, self._each, self._fork, self._loop, self._graph, self._coded]
        return self._draw(st.sampled_from([*flat, *deep, *deep] if depth else flat))(depth - 1)

    def _name(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    # ------------------------------------------------------------------------------------------------ one step

    def _do(self, _: int = 0) -> Do:
        draw, plain = self._draw, self._plain()
        if draw(one_in(4)):
            fails_on = draw(st.integers(1, 3))
            return replace(plain, fails_on=fails_on, instead=self._fallback() if draw(st.booleans()) else None)
        return replace(
            plain,
            reads=draw(one_in(5)),
            backoff=draw(st.sampled_from([None, None, None, None, 0.0, HOUR])),
            undo=draw(st.sampled_from([None, None, None, "plain", "flaky"])),
        )

    def _plain(self) -> Do:
        draw = self._draw
        return Do(
            self._name("s"),
            adds=draw(st.integers(1, 3)),
            turns=draw(st.sampled_from([0, 0, 1, 3])),
            effect="once" if draw(one_in(10)) else "idempotent",
            durability=draw(st.sampled_from([None, None, None, None, "sync", "async", "exit"])),
        )

    def _fallback(self) -> Do:
        return replace(self._plain(), fails_on=3 if self._draw(one_in(6)) else 0)

    def _pause(self, _: int) -> Term:
        draw = self._draw
        match draw(st.sampled_from(["sleep", "signal", "default"])):
            case "sleep":
                return Sleep()
            case "signal":
                return Wait(draw(st.sampled_from(sorted(SIGNALS))))
            case _:
                return Wait(self._name("never"), draw(st.integers(1, 9)))

    # ----------------------------------------------------------------------------------------------- combinators

    def _inline(self, depth: int) -> Inline:
        return Inline(self._name("b"), self.row(depth))

    def _child(self, depth: int) -> Child:
        return Child(self._name("c"), self.row(depth))

    def _parallel(self, depth: int) -> Parallel:
        members = tuple(self._inline(depth) for _ in range(self._draw(st.integers(2, 3))))
        return Parallel(self._name("p"), members, self._draw(ON_ERROR), self._draw(MAX_CONCURRENCY))

    def _each(self, depth: int) -> Each:
        items = self._draw(st.integers(1, 3))
        return Each(self._name("m"), self.row(depth), items, self._draw(ON_ERROR), self._draw(MAX_CONCURRENCY))

    def _fork(self, depth: int) -> Fork:
        return Fork(self.row(depth), self.row(depth))

    def _loop(self, depth: int) -> Loop:
        draw = self._draw
        return Loop(self.row(depth), draw(st.integers(3, 12)), draw(st.booleans()), draw(st.integers(2, 3)))

    def _graph(self, _: int) -> Graph:
        nodes = list[Node]()
        for number in range(self._draw(st.integers(2, 5))):
            nodes.append(self._node(nodes, number))
        return Graph(self._name("g"), tuple(nodes), self._draw(st.sampled_from(["finish", "cancel"])))

    def _node(self, nodes: list[Node], number: int) -> Node:
        draw, step = self._draw, replace(self._do(), reads=False)  # what is beside it is not to be seen
        chosen = draw(st.lists(st.integers(0, number - 1), max_size=2, unique=True)) if number else []
        needs = tuple(Need(node, draw(one_in(4))) for node in chosen)
        if needs and not nodes[needs[0].node].needs and draw(one_in(4)):
            spare = Do(self._name("s"), fails_on=1, turns=draw(st.integers(0, 2)))
            return Node(step, (replace(needs[0], only_even=False), *needs[1:]), spare)
        return Node(step, needs)

    # ------------------------------------------------------------------------------------------------- workflows

    def _coded(self, depth: int) -> Coded:
        return Coded(self._name("wf"), self._code(depth + 1, "all"))

    def _code(self, depth: int, notes: Notes) -> Row:
        """Return a row of code, the steps of which change no more than that of the context.

        What is done at the same time does not read it, and where some of it may be left undone, leaves it as it is.
        """
        return Row(tuple(self._line(depth, notes) for _ in range(self._draw(st.integers(1, 3)))))

    def _line(self, depth: int, notes: Notes) -> Term:  # noqa: PLR0911 -- one case a term
        draw = self._draw
        flat = ["do", "do", "do", "pause", "note"]
        match draw(st.sampled_from([*flat, "fork", "loop", "attempt", "beside", "beside", "child"] if depth else flat)):
            case "do":
                return self._apart(notes)
            case "note" if notes != "nothing":
                return Note(draw(st.integers(1, 3)))
            case "fork":
                return Fork(self._code(depth - 1, notes), self._code(depth - 1, notes))
            case "loop":
                goal, by_total, turns = draw(st.integers(3, 12)), draw(st.booleans()), draw(st.integers(2, 3))
                return Loop(self._code(depth - 1, notes), goal, by_total and notes == "all", turns)
            case "attempt":
                return Attempt(self._code(depth - 1, notes), self._code(depth - 1, notes))
            case "beside":
                return self._beside(depth, notes)
            case "child":
                return self._child(depth - 1)
            case _:
                return self._pause(depth)

    def _beside(self, depth: int, notes: Notes) -> Beside:
        draw = self._draw
        how = draw(st.sampled_from(["gather", "tasks", "group", "raise"]))
        within: Notes = "nothing" if notes == "nothing" or how in ("group", "raise") else "total"
        rows = tuple(self._code(depth - 1, within) for _ in range(draw(st.integers(2, 3))))
        return Beside(rows, how, draw(st.integers(1, 3)))

    def _apart(self, notes: Notes) -> Do:
        """Return a step, which may be one that is called elsewhere as well."""
        if notes == "all":
            return self._do()
        known = self._known[notes]
        if known and self._draw(one_in(3)):
            return self._draw(st.sampled_from(known))
        step = self._do()
        instead = step.instead and replace(step.instead, notes=notes)
        known.append(replace(step, reads=False, notes=notes, instead=instead))
        return known[-1]
