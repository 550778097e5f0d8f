"""Pipelines: elements one after the other, checked when they are joined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

from flujo_async._log.keys import RESERVED, is_own_signal, number_repeated
from flujo_async._model.policy import Durability, misnamed_durability
from flujo_async._model.text import is_unicode
from flujo_async._model.tree import Json
from flujo_async._plan.assignable import describe_type, is_assignable
from flujo_async.errors import DefinitionError

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Next = TypeVar("Next")

_NAMED_IN_FULL: Final = 3


class End(NamedTuple):
    """One end of an element, where values flow in or out: the step that stands there, and the type."""

    step: str
    type: Any


class Documents(Protocol):
    """Writes definitions down and reads them back; see ``documents``, which knows every kind of element."""

    def to_dict(self, chain: Chain[Any, Any]) -> dict[str, Any]:
        """Return a definition as plain JSON."""
        ...

    def to_yaml(self, chain: Chain[Any, Any]) -> str:
        """Return a definition as YAML."""
        ...

    def to_mermaid(self, chain: Chain[Any, Any]) -> str:
        """Return a definition as a flow chart."""
        ...

    def from_dict(self, data: Mapping[str, Any], steps: Mapping[str, Any]) -> Pipeline[Any, Any]:
        """Return the definition of a document."""
        ...


class Chain(ABC, Generic[In, Out]):
    """Whatever can stand in a pipeline. Immutable; ``a >> b`` makes the output of ``a`` the input of ``b``."""

    name: str
    """What logs and keys call it."""

    has_own_name: ClassVar[bool] = False
    """Whether the author chose the name, so that another element may not have it too."""

    documents: ClassVar[Documents]
    """How definitions are written down. Set by the package: what writes them knows all that a definition is made of."""

    @abstractmethod
    def inlets(self) -> list[End]:
        """Return where a value flows in: every step that is given the input."""

    @abstractmethod
    def outlets(self) -> list[End]:
        """Return where the output may come from."""

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return the pipelines inside, each with its label; none for a leaf, or where they are no pipelines."""
        return []

    def elements(self) -> tuple[Chain[Any, Any], ...]:
        """Return what this contributes to a pipeline that it is joined to."""
        return (self,)

    def check_filled(self) -> None:
        """Check that this needs nothing but its input.

        Raises:
            DefinitionError: it does.
        """

    def check_input(self, input: Any) -> None:
        """Check that a run's input has what this needs from it.

        Raises:
            DefinitionError: it has not.
        """

    def structure(self) -> Json:
        """Return what makes a recorded run fit: names and order, not source text."""
        return [type(self).__name__, self.name, [[label, body.structure()] for label, body in self.bodies()]]

    def walk(self) -> Iterator[Chain[Any, Any]]:
        """Yield this and everything inside it."""
        yield self
        for _, body in self.bodies():
            yield from body.walk()

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain JSON: what it is made of, with steps and functions by their names."""
        return self.documents.to_dict(self)

    def to_yaml(self) -> str:
        """Return what ``to_dict`` returns as YAML."""
        return self.documents.to_yaml(self)

    def to_mermaid(self) -> str:
        """Return the definition as a flow chart in the language of Mermaid."""
        return self.documents.to_mermaid(self)

    def with_durability(self, durability: Durability) -> Pipeline[In, Out]:
        """Return this as a definition whose steps are durable as asked for; a step's own ``durability`` goes first.

        Args:
            durability: ``"sync"``, before the next step starts; ``"async"``, soon after; ``"exit"``, when the run
                rests. What a crash takes away is done again.

        Raises:
            DefinitionError: it is no such level.
        """
        if problem := misnamed_durability(durability):
            raise DefinitionError(f"with_durability(): {problem}")
        return Pipeline(self.elements(), durability=durability)

    def __rshift__(self, other: Chain[Out, Next]) -> Pipeline[In, Next]:
        left = as_body(self, ">>")
        return Pipeline((*left.sequence, *as_chain(other, ">>").elements()), longer_than=left)

    if not TYPE_CHECKING:  # for a type checker this would be a way to join anything

        def __rrshift__(self, other):
            return as_chain(other, ">>") >> self


@dataclass(frozen=True, slots=True, repr=False)
class Pipeline(Chain[In, Out], Generic[In, Out]):
    """Elements that run one after the other.

    Attributes:
        sequence: the elements.
        longer_than: what is known to fit, and stands at the front; a long chain is not checked anew for each ``>>``.
        durability: when what its steps did is durable, where a step does not say itself; ``None`` leaves that to the
            runtime.
        labels: the label of each, unique in the pipeline.
        name: the names of the elements, joined.
        named: the first element of each name.

    Raises:
        DefinitionError: there are none, two different ones have the same name, what one returns is not what the
            next one takes, or one needs more than its input.
    """

    sequence: tuple[Chain[Any, Any], ...]
    longer_than: InitVar[Pipeline[Any, Any] | None] = None
    durability: Durability | None = None
    labels: tuple[str, ...] = field(init=False, compare=False)
    name: str = field(init=False, compare=False)
    named: dict[str, Chain[Any, Any]] = field(init=False, compare=False)

    def __post_init__(self, longer_than: Pipeline[Any, Any] | None) -> None:
        if not self.sequence:
            raise DefinitionError("a pipeline has at least one step")
        known = 0 if longer_than is None else len(longer_than.sequence)
        named = {} if longer_than is None else longer_than.named.copy()
        for element in self.sequence[known:]:
            _check_name(named.setdefault(element.name, element), element)
            element.check_filled()
        for left, right in pairwise(self.sequence[max(known - 1, 0) :]):
            check_flow(left.outlets(), right.inlets())
        is_short = len(self.sequence) <= _NAMED_IN_FULL
        shown = [element.name for element in (self.sequence if is_short else (self.sequence[0], self.sequence[-1]))]
        object.__setattr__(self, "named", named)
        object.__setattr__(self, "name", (" >> " if is_short else " >> … >> ").join(shown))

    if not TYPE_CHECKING:

        def __getattr__(self, name):  # asked for what is not set: labels, which nobody needs of a part of a chain
            if name != "labels":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            labels = tuple(number_repeated([element.name for element in self.sequence]))
            object.__setattr__(self, "labels", labels)
            return labels

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], steps: Mapping[str, Any]) -> Pipeline[Any, Any]:
        """Return the pipeline that ``to_dict`` wrote down, equal to the original.

        Args:
            data: what ``to_dict`` returned.
            steps: what the ``"names"`` in it stand for: steps, workflows, selectors, predicates, schemas.

        Raises:
            DefinitionError: names are missing, it is no such document, or its ``"schema"`` is of another version.
        """
        return cls.documents.from_dict(data, steps)

    def inlets(self) -> list[End]:
        """Return the inlets of the first element."""
        return self.sequence[0].inlets()

    def outlets(self) -> list[End]:
        """Return the outlets of the last element."""
        return self.sequence[-1].outlets()

    def elements(self) -> tuple[Chain[Any, Any], ...]:
        """Return the elements one by one: joining is associative.

        Raises:
            DefinitionError: it has a durability of its own.
        """
        if self.durability is not None:
            raise DefinitionError("with_durability() is for a whole definition: call it after the last >>")
        return self.sequence

    def check_input(self, input: Any) -> None:
        """Check that the input has what the first element needs.

        Raises:
            DefinitionError: it has not.
        """
        self.sequence[0].check_input(input)

    def structure(self) -> Json:
        """Return the labelled structure of each element."""
        return [[label, element.structure()] for label, element in zip(self.labels, self.sequence, strict=True)]

    def walk(self) -> Iterator[Chain[Any, Any]]:
        """Yield each element and everything inside it."""
        for element in self.sequence:
            yield from element.walk()

    def __repr__(self) -> str:
        return f"<pipeline {' >> '.join(element.name for element in self.sequence)}>"


def as_chain(value: object, place: str) -> Chain[Any, Any]:
    """Return ``value`` if it can stand in a pipeline.

    Raises:
        DefinitionError: it cannot; ``place`` says where it was given.
    """
    if isinstance(value, Chain):
        return value  # pyright: ignore[reportUnknownVariableType] -- the parameters of a Chain are not kept at run time
    hint = "; decorate it with @step" if callable(value) else ""
    raise DefinitionError(f"{place} takes steps and pipelines, not {value!r}{hint}")


def as_pipeline(value: object, place: str) -> Pipeline[Any, Any]:
    """Return a step or pipeline as a pipeline.

    Raises:
        DefinitionError: it is neither.
    """
    chain = as_chain(value, place)
    return chain if isinstance(chain, Pipeline) else Pipeline(chain.elements())


def as_body(value: object, place: str) -> Pipeline[Any, Any]:
    """Return a step or pipeline as a part of another definition.

    Raises:
        DefinitionError: it is neither, or has a durability, which is the whole definition's.
    """
    pipeline = as_pipeline(value, place)
    pipeline.elements()
    return pipeline


def check_name(name: object, what: str) -> None:
    """Check that ``name`` can be a label in keys; ``what`` says in an error whose name it is.

    Raises:
        DefinitionError: it cannot.
    """
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"the name of {what} is text that is not empty, not {name!r}")
    if not is_unicode(name):
        raise DefinitionError(f"the name of {what} is not Unicode: {name!r}")
    if set(name) & set(RESERVED):
        raise DefinitionError(f"the name of {what} has none of {' '.join(RESERVED)}: {name!r}")


def check_signal_name(name: object) -> None:
    """Check that ``name`` can be that of a signal: those that begin with ``$`` are the runtime's own.

    Raises:
        DefinitionError: it cannot.
    """
    check_name(name, "a signal")
    if is_own_signal(str(name)):
        raise DefinitionError(f"the name of a signal does not begin with $: {name!r}")


def check_flow(outlets: Sequence[End], inlets: Sequence[End]) -> None:
    """Check that whatever flows out of one element can flow into the next.

    Raises:
        DefinitionError: it cannot; names both steps and both types.
    """
    for source in outlets:
        for target in inlets:
            if not is_assignable(source.type, target.type):
                raise DefinitionError(
                    f"step {source.step!r} returns {describe_type(source.type)}, "
                    f"but step {target.step!r} takes {describe_type(target.type)}"
                )


def _check_name(other: Chain[Any, Any], element: Chain[Any, Any]) -> None:
    """Check that an element may have the name that another one had first."""
    if (element.has_own_name or other.has_own_name) and other is not element and other != element:
        raise DefinitionError(
            f"two different elements of one pipeline are called {element.name!r}; rename one: @step(name=…)"
        )
