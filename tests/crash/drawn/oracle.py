"""What a definition does, said by a plain interpreter: it knows nothing of the package, of crashes or of time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.crash.drawn.terms import (
    SIGNALS,
    UNDOING,
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
    Node,
    Note,
    Parallel,
    Row,
    Sleep,
    Term,
    Wait,
)


@dataclass
class Marks:
    """The context."""

    total: int = 0
    seen: list[str] = field(default_factory=list[str])

    def copy(self) -> Marks:
        """Return what somebody beside this one begins with."""
        return Marks(self.total, list(self.seen))

    def merge(self, base: Marks, others: list[Marks]) -> None:
        """Take over what others have added to what they began with."""
        for other in others:
            self.total += other.total - base.total
            self.seen += other.seen[len(base.seen) :]


@dataclass
class Expected:
    """What a run has to come to.

    Attributes:
        output: what it returns, if it completes.
        errors: how it may fail: the beginnings of the texts, one of which it is. Where several members of a group
            fail, which of them is told depends on who was first.
        marks: the context that it leaves.
        happens: what is done, and how often.
        undoable: what may be undone.
        is_settled: whether all that is done, and nothing else; otherwise some of it, since members of a group that
            fails were cancelled wherever they stood.
    """

    output: int | None = None
    errors: frozenset[str] = frozenset()
    marks: Marks = field(default_factory=Marks)
    happens: Counter[str] = field(default_factory=Counter[str])
    undoable: set[str] = field(default_factory=set[str])
    is_settled: bool = True


class Failed(Exception):
    """Something failed, in one of these ways."""

    def __init__(self, *errors: str) -> None:
        super().__init__(*errors)
        self.errors = frozenset(errors)


def expected(definition: Row, given: int) -> Expected:
    """Return what a run of the definition has to come to."""
    told = Expected()
    try:
        told.output = _Run(told).whole(definition, given, told.marks)
    except Failed as failed:
        told.errors = failed.errors
    return told


class _Run:
    """One run, or a child."""

    def __init__(self, told: Expected) -> None:
        self._told = told
        self._to_undo = list[tuple[Do, int]]()

    def whole(self, body: Row, given: int, marks: Marks) -> int:
        try:
            return self.row(body, given, marks)
        except Failed:
            for step, output in self._to_undo:
                self._told.happens[f"undo {step.name} {output}"] += 2 if step.undo == "flaky" else 1
                marks.total += UNDOING
            raise

    def row(self, row: Row, given: int, marks: Marks) -> int:
        for part in row.parts:
            given = self.term(part, given, marks)
        return given

    def term(self, term: Term, given: int, marks: Marks) -> int:  # noqa: C901, PLR0911, PLR0912 -- one case a term
        match term:
            case Do():
                return self.do(term, given, marks)
            case Sleep():
                return given
            case Wait():
                return SIGNALS.get(term.name, term.default)
            case Inline():
                return self.row(term.body, given, marks)
            case Child():
                return self.child(term.body, given)
            case Parallel():
                return self.group([(member.body, given) for member in term.members], term.on_error, marks)
            case Each():
                return self.group([(term.body, given + n) for n in range(term.items)], term.on_error, marks)
            case Fork():
                return self.row(term.odd if given % 2 else term.even, given, marks)
            case Loop():
                return self.loop(term, given, marks)
            case Graph():
                return self.graph(term, given, marks)
            case Coded():
                return self.row(term.body, given, marks)
            case Attempt():
                return self.attempt(term, given, marks)
            case Beside():
                return self.beside(term, given, marks)
            case Note():
                marks.total += term.adds
                return given

    def do(self, step: Do, given: int, marks: Marks) -> int:
        output = given + step.adds + (marks.total % 3 if step.reads else 0)
        self._told.happens[f"{step.name} {given}"] += 1 if step.backoff is None else 2
        if step.fails_on and given % step.fails_on == 0:
            if step.instead:
                return self.do(step.instead, given, marks)
            raise Failed(f"ValueError: {step.name} {given}")
        if step.notes != "nothing":
            marks.total += step.adds
        if step.notes == "all":
            marks.seen.append(f"{step.name} {given}")
        if step.undo:
            self._told.undoable.add(f"undo {step.name} {output}")
            self._to_undo.append((step, output))
        return output

    def child(self, body: Row, given: int) -> int:
        try:
            return _Run(self._told).whole(body, given, Marks())
        except Failed:
            raise Failed("RunFailed: ") from None

    def group(self, members: list[tuple[Row, int]], on_error: str, marks: Marks) -> int:
        base, outputs, left, errors = marks.copy(), list[int](), list[Marks](), set[str]()
        for body, given in members:
            own = base.copy()
            try:
                outputs.append(self.row(body, given, own))
            except Failed as failed:
                errors |= failed.errors
            else:
                left.append(own)
        if errors and on_error == "cancel":
            self._told.is_settled = False
        if errors and on_error != "ignore":
            raise Failed(*errors)
        if not outputs:
            raise Failed("AllBranchesFailed: ")
        marks.merge(base, left)
        return sum(outputs)

    def loop(self, loop: Loop, given: int, marks: Marks) -> int:
        for _ in range(loop.turns):
            given = self.row(loop.body, given, marks)
            if given >= loop.goal or (loop.by_total and marks.total > loop.goal):
                return given
        raise Failed("LoopExhausted: ")

    # ---------------------------------------------------------------------------------------------------- graphs

    def graph(self, graph: Graph, given: int, marks: Marks) -> int:
        """Nodes that did not get to their end have no output; those that were left out have none to speak of."""
        outputs, errors, base = dict[int, int | None](), set[str](), marks.copy()
        left = list[Marks]()
        for number, node in enumerate(graph.nodes):
            own = base.copy()
            try:
                errors |= self._spare(node, given, outputs)
                if all(need.node in outputs for need in node.needs):
                    outputs[number] = self._node(node, given, outputs, own)
                    left.append(own)
            except Failed as failed:
                errors |= failed.errors
        if errors:
            self._told.is_settled &= graph.on_error == "finish"
            raise Failed(*errors)
        marks.merge(base, left)
        needed = {need.node for node in graph.nodes for need in node.needs}
        return sum(output or 0 for number, output in outputs.items() if number not in needed)

    def _node(self, node: Node, given: int, outputs: dict[int, int | None], marks: Marks) -> int | None:
        if not node.needs:
            return self.do(node.step, given, marks)
        taken = [(need, output) for need in node.needs if (output := outputs[need.node]) is not None]
        if not taken or any(need.only_even and output % 2 for need, output in taken):
            return None
        return self.do(node.step, sum(output for _, output in taken), marks)

    def _spare(self, node: Node, given: int, outputs: dict[int, int | None]) -> frozenset[str]:
        """Return how the graph fails for want of a spare: nobody made up for it."""
        try:
            if node.spare:
                self.do(node.spare, given, Marks())
        except Failed as failed:
            return frozenset() if node.needs[0].node in outputs else failed.errors
        return frozenset()

    # ------------------------------------------------------------------------------------------------- workflows

    def attempt(self, attempt: Attempt, given: int, marks: Marks) -> int:
        try:
            return self.row(attempt.body, given, marks)
        except Failed:
            return self.row(attempt.instead, given + 1, marks)

    def beside(self, beside: Beside, given: int, marks: Marks) -> int:
        outputs, has_failed = list[int](), False
        for row in beside.rows:
            try:
                outputs.append(self.row(row, given, marks))
            except Failed:
                outputs.append(100)
                has_failed = True
        if has_failed and beside.how in ("group", "raise"):
            self._told.is_settled = False
            return 50
        return sum(outputs)
