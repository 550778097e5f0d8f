"""Definitions by name and version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from flujo_async._plan.definition import Definition, definition_of
from flujo_async._plan.pipeline import Chain, as_chain
from flujo_async.errors import DefinitionError

LATEST: Final = "latest"


class PipelineRegistry:
    """Keeps definitions by name and version, so that a run goes on under the version that it began with."""

    def __init__(self) -> None:
        self._definitions: dict[str, dict[Version, Definition]] = {}

    def register(self, pipeline: Chain[Any, Any], name: str | None = None, version: str | None = None) -> None:
        """Keep a pipeline, a single step or a workflow under a name and a version.

        Args:
            pipeline: the definition.
            name: any name that is not empty; a workflow brings its own.
            version: as in PEP 440, such as ``1.0.0``; a workflow may bring its own.

        Raises:
            DefinitionError: no name or version, the version is not one of PEP 440, or another definition has it
                already. The same one may be registered again.
        """
        if name == "":
            raise DefinitionError("a pipeline is registered under a name that is not empty")
        definition = definition_of(as_chain(pipeline, "register()"), name, version)
        name, version = definition.name, definition.explicit_version
        if version is None:
            raise DefinitionError(f"register() of {name!r}: None is not a version as in PEP 440, such as 1.0.0")
        parsed = _parse(version)
        known = self._definitions.setdefault(name, {}).setdefault(parsed, definition)
        if known.pipeline != definition.pipeline:
            raise DefinitionError(f"{name} {version} is registered already, with another pipeline; raise the version")

    def get(self, name: str, version: str = LATEST) -> Definition:
        """Return a definition; ``"latest"`` is the highest version, be it a pre-release.

        Raises:
            DefinitionError: there is none; the message lists what there is.
        """
        found = self.find(name, version)
        if found is None:
            raise DefinitionError(f"no pipeline {name!r} {version} is registered; there {self._inventory(name)}")
        return found

    def definitions(self) -> Iterator[Definition]:
        """Yield every definition."""
        for versions in self._definitions.values():
            yield from versions.values()

    def find(self, name: str, version: str = LATEST) -> Definition | None:
        """Return a definition, or ``None`` if it is not registered."""
        versions = self._definitions.get(name, {})
        if version == LATEST:
            return versions[max(versions)] if versions else None
        try:
            return versions.get(Version(version))
        except InvalidVersion:
            return None

    def _inventory(self, name: str) -> str:
        if versions := self._definitions.get(name):
            return f"is {name!r} {', '.join(str(version) for version in sorted(versions))}"
        return f"are {', '.join(map(repr, self._definitions)) or 'none at all'}"


def _parse(version: str) -> Version:
    try:
        return Version(version)
    except (InvalidVersion, TypeError) as error:
        raise DefinitionError(f"{version!r} is not a version as in PEP 440, such as 1.0.0") from error


def choose_definition(
    chain: Chain[Any, Any] | None, registry: PipelineRegistry | None, name: str | None, version: str
) -> Definition:
    """Return what a runtime is given to run: a pipeline, or the name and version of a registered one.

    Raises:
        DefinitionError: there is neither.
    """
    if chain is not None:
        return definition_of(as_chain(chain, "Flujo()"), name, None if version == LATEST else version)
    if registry is None or name is None:
        raise DefinitionError("Flujo() needs a pipeline, or a registry and a pipeline_name")
    return registry.get(name, version)
