"""The elements of a pipeline that hold pipelines themselves. Made by the functions in ``combinators``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, ClassVar, Literal, TypeAlias

from flujo_async._plan.graph import Graph
from flujo_async._plan.pipeline import Chain, End, Pipeline
from flujo_async._plan.step import Step
from flujo_async._plan.workflow import Workflow

OnError: TypeAlias = Literal["cancel", "finish", "ignore"]
"""What the failure of one member of a group does: cancel its siblings, let them finish and then fail, or drop it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A selector or a predicate: a plain function of the value, or of the value and the context."""

    function: Callable[..., Any]
    takes_context: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel(Chain[Any, Any]):
    """The same input to every branch; the output is a dictionary name → output."""

    branches: tuple[tuple[str, Pipeline[Any, Any]], ...]
    max_concurrency: int | None
    on_error: OnError
    name: str = "parallel"

    def inlets(self) -> list[End]:
        """Return the inlets of all branches."""
        return [end for _, branch in self.branches for end in branch.inlets()]

    def outlets(self) -> list[End]:
        """Return the one dictionary."""
        return [End(self.name, dict[str, Any])]

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return the branches."""
        return list(self.branches)

    def check_input(self, input: Any) -> None:
        """Check that the input has what the branches need.

        Raises:
            DefinitionError: it has not.
        """
        for _, branch in self.branches:
            branch.check_input(input)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEach(Chain[Any, Any]):
    """Every item of the input through the body; the output is a list in the order of the items."""

    body: Pipeline[Any, Any]
    max_concurrency: int | None
    on_error: OnError
    name: str = "map_each"

    def inlets(self) -> list[End]:
        """Return what takes an iterable of what the body takes; of anything, where the body ignores its input."""
        ends = self.body.inlets() or [End(self.body.name, Any)]
        return [End(f"{self.name}({end.step})", GenericAlias(Iterable, (end.type,))) for end in ends]

    def outlets(self) -> list[End]:
        """Return a list of what the body returns."""
        return [End(f"{self.name}({end.step})", GenericAlias(list, (end.type,))) for end in self.body.outlets()]

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return the body."""
        return [("*", self.body)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch(Chain[Any, Any]):
    """One of several pipelines, chosen by a selector.

    Attributes:
        keys: what the selector may return, each with the label of its case.
        cases: the pipelines, by label.
        default: the label of the case for every other key, if there is one.
    """

    selector: Question
    keys: tuple[tuple[Any, str], ...]
    cases: tuple[tuple[str, Pipeline[Any, Any]], ...]
    default: str | None
    name: str = "branch"

    def inlets(self) -> list[End]:
        """Return the inlets of all cases."""
        return [end for _, case in self.cases for end in case.inlets()]

    def outlets(self) -> list[End]:
        """Return the outlets of all cases."""
        return [end for _, case in self.cases for end in case.outlets()]

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return the cases."""
        return list(self.cases)


class _Around(Chain[Any, Any]):
    """What takes the input of its body, and returns the output of that."""

    body: Pipeline[Any, Any]

    def inlets(self) -> list[End]:
        """Return the inlets of the body."""
        return self.body.inlets()

    def outlets(self) -> list[End]:
        """Return the outlets of the body."""
        return self.body.outlets()

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return the body."""
        return [("", self.body)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop(_Around):
    """The body again and again, on its own output, until a predicate is true."""

    body: Pipeline[Any, Any]
    until: Question
    max_iterations: int
    name: str = "loop"

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return the body."""
        return [("*", self.body)]

    def check_input(self, input: Any) -> None:
        """Check that the input has what the body needs.

        Raises:
            DefinitionError: it has not.
        """
        self.body.check_input(input)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(_Around):
    """A pipeline under one name, as one element of another."""

    has_own_name: ClassVar[bool] = True

    body: Pipeline[Any, Any]
    name: str

    def check_input(self, input: Any) -> None:
        """Check that the input has what the body needs.

        Raises:
            DefinitionError: it has not.
        """
        self.body.check_input(input)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(Chain[Any, Any]):
    """A durable timer; the value passes through.

    Attributes:
        duration: how long, in seconds.
    """

    duration: float
    name: str = "sleep"

    def inlets(self) -> list[End]:
        """Return what takes anything."""
        return [End(self.name, Any)]

    def outlets(self) -> list[End]:
        """Return anything: what came in."""
        return [End(self.name, Any)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitFor(Chain[Any, Any]):
    """A wait for a signal, whose payload is the output.

    Attributes:
        name: the name of the signal.
        schema: the type of the payload; ``None`` takes anything.
        prompt: what to ask a person.
        timeout: how long to wait, in seconds; ``None`` is without end.
        default: what stands in for the answer after ``timeout``; ``...`` where there is nothing.
    """

    has_own_name: ClassVar[bool] = True

    name: str
    schema: Any
    prompt: str | None
    timeout: float | None
    default: Any

    def inlets(self) -> list[End]:
        """Return nothing: the input is ignored."""
        return []

    def outlets(self) -> list[End]:
        """Return the payload."""
        is_open = self.schema is None or self.default is not ...
        return [End(self.name, Any if is_open else self.schema)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Child(_Around):
    """A pipeline that runs as a run of its own; its output is the output."""

    has_own_name: ClassVar[bool] = True

    body: Pipeline[Any, Any]
    name: str


Compound: TypeAlias = Parallel | MapEach | Branch | Loop | Block | Sleep | WaitFor | Child | Workflow[Any, Any] | Graph
"""Everything that can be an element of a pipeline, and is no step."""

Node: TypeAlias = Step[Any, Any, Any] | Compound
"""Everything that can be an element of a pipeline."""
