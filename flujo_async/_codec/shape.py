"""How the instances of a class become a tree, and what a shape may ask of the codec that uses it.

A tagged tree is ``{"$": tag, "v": payload}``; a plain dict never has the key ``"$"``. Tags are of three kinds, which
cannot be confused: ``tuple`` (a builtin), ``module:qualified name`` (a class reached from annotations),
``@name`` (a registered class).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flujo_async._codec.misfit import Misfit, index_step, key_step
from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._model.tree import Json


class Coder(Protocol):
    """The codec as shapes see it; both ways raise ``Misfit``."""

    def put(self, value: Any, depth: int) -> Json:
        """Return the tree of a value that will lie ``depth`` levels below the root."""
        ...

    def get(self, tree: Json) -> Any:
        """Return the value of a tree."""
        ...

    def error_class(self, type_name: str) -> type[Exception] | None:
        """Return the exception class of this stored name, if it may be built."""
        ...


class Shape(Protocol):
    """One way to store the instances of a class."""

    @property
    def tag(self) -> str:
        """What the stored trees are tagged with."""
        ...

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the tree of an instance; any exception means that it cannot be stored."""
        ...

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the instance of a tagged tree; any exception means that the tree is malformed."""
        ...


@dataclass(frozen=True, slots=True)
class Mapped:
    """A shape made of two functions: to a simpler value that can be stored, and back.

    Attributes:
        payload: the exact type of the simpler value, or ``object`` where ``from_payload`` checks it itself.
    """

    tag: str
    to_payload: Callable[[Any], Any]
    from_payload: Callable[[Any], Any]
    payload: type

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Tag the simpler value."""
        return {TAG: self.tag, PAYLOAD: coder.put(self.to_payload(value), depth + 1)}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Build the instance from the simpler value."""
        check_names(tree, {TAG, PAYLOAD})
        payload = coder.get(tree[PAYLOAD])
        if self.payload is not object and type(payload) is not self.payload:
            raise Misfit(f"a stored {self.tag} holds a {type(payload).__name__}, not a {self.payload.__name__}")
        return self.from_payload(payload)


def put_items(values: Iterable[Any], coder: Coder, depth: int) -> list[Json]:
    """Return the tree of each value; ``depth`` is that of the values."""
    trees: list[Json] = []
    put = coder.put
    try:
        for value in values:
            trees.append(put(value, depth))  # noqa: PERF401 - the length is the index of the one that fails
    except Misfit as misfit:
        misfit.steps.append(index_step(len(trees)))
        raise
    return trees


def get_items(trees: Iterable[Json], coder: Coder) -> list[Any]:
    """Return the value of each tree."""
    values: list[Any] = []
    get = coder.get
    try:
        for tree in trees:
            values.append(get(tree))  # noqa: PERF401 - as above
    except Misfit as misfit:
        misfit.steps.append(index_step(len(values)))
        raise
    return values


def put_fields(values: Iterable[tuple[str, Any]], coder: Coder, depth: int) -> dict[str, Json]:
    """Return the tree of each value by its name; ``depth`` is that of the values."""
    tree: dict[str, Json] = {}
    name = ""
    try:
        for name, value in values:
            tree[name] = coder.put(value, depth)
    except Misfit as misfit:
        misfit.steps.append(key_step(name))
        raise
    return tree


def get_fields(trees: Mapping[str, Json], coder: Coder) -> dict[str, Any]:
    """Return the value of each tree by its name."""
    values: dict[str, Any] = {}
    name = ""
    try:
        for name, tree in trees.items():
            values[name] = coder.get(tree)
    except Misfit as misfit:
        misfit.steps.append(key_step(name))
        raise
    return values


def table(tree: dict[str, Json], name: str) -> dict[str, Json]:
    """Return the dict that a tagged tree holds under ``name``, an empty one where there is none."""
    found = tree.get(name, {})
    if type(found) is not dict:
        raise Misfit(f"{name!r} of a stored {tree.get(TAG)} is not a dict")
    return found


def check_names(names: Iterable[str], known: Iterable[str], cls: type | None = None) -> None:
    """Refuse names that nothing is known of: dropping what they hold would lose data in silence.

    Args:
        names: what a stored value has.
        known: what it may have.
        cls: the class of the user's whose fields they are, if they are fields; it may have lost one.
    """
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    if cls is None:
        raise Misfit(f"unknown field {unknown[0]!r}")
    raise Misfit(
        f"unknown field {unknown[0]!r}: {cls.__name__} has none of this name, and nothing is dropped in silence; "
        "let it have one, with a default, while values that have it are stored"
    )


def missing_field(name: str, cls: type) -> Misfit:
    """Return the trouble with a stored instance that lacks a field which has no default."""
    return Misfit(
        f"the field {name!r} is missing, and {cls.__name__} has no default for it; values without it need one"
    )
