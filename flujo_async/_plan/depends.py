"""What the steps of a graph say about each other: what they depend on, and which way a reviewing step chose."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, final

from typing_extensions import TypeVar  # `default=` is in `typing` since 3.13 only

from flujo_async._codec.registry import register_type
from flujo_async._plan.pipeline import Chain
from flujo_async.errors import DefinitionError, InvalidArgument

Name = TypeVar("Name", bound=str, default=str, covariant=True)

_FEWEST: Final = 2


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Steps of which one is enough; made by ``any_of``."""

    steps: tuple[Chain[Any, Any], ...]


def any_of(*steps: Chain[Any, Any]) -> AnyOf:
    """Return an OR group for ``Depends``: the first of the steps that succeeds gives the value.

    The step that depends on it starts then, and once; the other members run to their end. A member's failure is no
    failure of the run if another one succeeds.

    Args:
        *steps: two or more, all different.

    Raises:
        DefinitionError: fewer than two, one twice, or something that is no step.
    """
    for step in steps:
        _check_step(step, "any_of()")
    if len(set(steps)) < max(_FEWEST, len(steps)):
        named = ", ".join(step.name for step in steps) or "none"
        raise DefinitionError(f"any_of() takes at least two different steps, to choose from; here: {named}")
    return AnyOf(steps)


@dataclass(frozen=True, slots=True, init=False)
class Depends:
    """Fills a parameter with the output of another step of the graph, as in ``Annotated[int, Depends(fetch)]``.

    Attributes:
        step: the step, or an OR group made by ``any_of``.
        when: is asked about the output; if it says no, the step that depends on it is skipped.

    Raises:
        DefinitionError: something that is no step, or a ``when`` that is no plain function.
    """

    step: Chain[Any, Any] | AnyOf
    when: Callable[[Any], object] | None = None

    def __init__(self, step: Chain[Any, Any] | AnyOf, *, when: Callable[[Any], object] | None = None) -> None:
        if not isinstance(step, AnyOf):
            _check_step(step, "Depends()")
        if when is not None:
            _check_predicate(when)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "when", when)

    @property
    def steps(self) -> tuple[Chain[Any, Any], ...]:
        """The step, or the members of the group."""
        return self.step.steps if isinstance(self.step, AnyOf) else (self.step,)


@final
@dataclass(frozen=True, slots=True)
class Action(Generic[Name]):
    """What a reviewing step returns to choose the edges of a graph that are taken.

    A step that is annotated with the names, as ``-> Action[Literal["approve", "reject"]]``, has edges for these only.

    Attributes:
        name: which edges: those for ``step.on(name)``.
        value: anything that can be stored. Steps that depend on the reviewing step are given the whole action.

    Raises:
        InvalidArgument: the name is empty, or no text.
    """

    name: Name
    value: Any = None

    def __post_init__(self) -> None:
        _check_action(self.name, InvalidArgument)


@dataclass(frozen=True, slots=True)
class On:
    """The way out of a step that an action chooses; made by ``step.on(…)``."""

    step: Chain[Any, Any]
    action: str

    def __post_init__(self) -> None:
        _check_action(self.action, DefinitionError)

    def __repr__(self) -> str:
        return f"{self.step.name}.on({self.action!r})"


_STORED_NAME: Final = "flujo_async.Action"
ACTION_TAG: Final = f"@{_STORED_NAME}"
"""What stored actions are known by."""


def _check_step(step: object, place: str) -> None:
    if not isinstance(step, Chain):
        hint = "; decorate it with @step" if callable(step) else ""
        raise DefinitionError(f"{place} takes steps, not {step!r}{hint}")


def _check_predicate(when: object) -> None:
    if not callable(when) or isinstance(when, Chain):
        raise DefinitionError(f"when= of Depends() is a plain function of the output, not {when!r}")
    if inspect.iscoroutinefunction(when) or inspect.iscoroutinefunction(type(when).__call__):
        raise DefinitionError("when= of Depends() is a plain function: what has to be awaited belongs into a step")


def _check_action(name: object, error: type[Exception]) -> None:
    if not isinstance(name, str) or not name:
        raise error(f"an action has a name that is not empty, not {name!r}")


register_type(
    Action,
    name=_STORED_NAME,
    encode=lambda action: {"name": action.name, "value": action.value},
    decode=lambda parts: Action(parts["name"], parts["value"]),
)
