"""Definitions: a pipeline with the name and version under which its runs are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from flujo_async._codec.tree import dumps
from flujo_async._codec.values import Codec
from flujo_async._plan.pipeline import Pipeline
from flujo_async._plan.signature import underlying
from flujo_async._plan.step import Step


@dataclass(frozen=True)
class Definition:
    """What a runtime executes.

    Attributes:
        pipeline: the elements.
        name: the name under which runs are recorded.
        explicit_version: the version that the author gave, if any.
    """

    pipeline: Pipeline[Any, Any]
    name: str
    explicit_version: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the structure: step keys and their order, not source text."""
        return "sha256:" + sha256(dumps(self.pipeline.structure())).hexdigest()[:16]

    @property
    def version(self) -> str:
        """The version under which runs are recorded: the author's, or else the fingerprint."""
        return self.explicit_version or self.fingerprint

    def steps(self) -> Iterator[Step[Any, Any]]:
        """Yield every step in the pipeline."""
        for node in self.pipeline.walk():
            if isinstance(node, Step):
                yield node  # pyright: ignore[reportUnknownVariableType] -- parameters are not kept at run time

    def codec(self, context_type: type[Any] | None = None) -> Codec:
        """Return a codec that knows every type in the annotations of the steps, and the context's."""
        annotations: list[Any] = [] if context_type is None else [context_type]
        modules: dict[int, dict[str, Any]] = {}
        for step in self.steps():
            annotations += [step.signature.input_type, step.signature.output_type]
            annotations += step.policy.retry.error_types
            names = _globals(step.function)
            modules[id(names)] = names
        for names in modules.values():
            annotations += [value for value in names.values() if _is_exception(value)]
        return Codec(*annotations)


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    return getattr(underlying(function), "__globals__", {})


def _is_exception(value: object) -> bool:
    """Return whether a global of a step's module is an exception class, which the step may thus raise."""
    return isinstance(value, type) and issubclass(value, Exception)
