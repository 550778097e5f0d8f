"""Definitions by name and version."""

from __future__ import annotations

from typing import Any, Final

from packaging.version import InvalidVersion, Version

from flujo_async._plan.definition import Definition
from flujo_async._plan.pipeline import Chain, as_pipeline
from flujo_async.errors import DefinitionError

LATEST: Final = "latest"


class PipelineRegistry:
    """Keeps definitions by name and version, so that a run goes on under the version that it began with."""

    def __init__(self) -> None:
        self._definitions: dict[str, dict[Version, Definition]] = {}

    def register(self, pipeline: Chain[Any, Any], name: str, version: str) -> None:
        """Keep a pipeline, or a single step, under a name and a version.

        Args:
            pipeline: the definition.
            name: any name that is not empty.
            version: as in PEP 440, such as ``1.0.0``.

        Raises:
            DefinitionError: the version is not one of PEP 440, or another definition has it already. The same one
            may be registered again.
        """
        if not name:
            raise DefinitionError("a pipeline is registered under a name that is not empty")
        definition = Definition(as_pipeline(pipeline, "register()"), name, version)
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
