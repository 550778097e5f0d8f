"""What steps are given for the length of an attempt: connections, clients, sessions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from flujo_async.errors import DefinitionError, InvalidArgument


class Resources:
    """The resources of a runtime, by name.

    Args:
        sources: an async context manager, entered anew for each attempt, or a function that returns one.

    Raises:
        InvalidArgument: it is neither, or they are no mapping.
    """

    def __init__(self, sources: Mapping[str, Any]) -> None:
        if not isinstance(sources, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
            raise InvalidArgument(f"resources= is a mapping of resources by name, not {sources!r}")
        for name, source in sources.items():
            if not callable(source) and not _is_manager(source):
                raise InvalidArgument(
                    f"resources={{{name!r}: …}} is a function that returns an async context manager, or one itself, "
                    f"not {source!r}"
                )
        self._sources = dict(sources)

    def check(self, names: Iterable[str], who: str) -> None:
        """Check that there are resources of these names.

        Raises:
            DefinitionError: there are not.
        """
        for name in names:
            if name not in self._sources:
                raise DefinitionError(
                    f"{who} asks for resource {name!r}; give Flujo(resources={{{name!r}: …}}){_others(self._sources)}"
                )

    async def enter(self, stack: AsyncExitStack, name: str, who: str) -> Any:
        """Enter a resource and return what it gives; ``stack`` leaves it again.

        Raises:
            DefinitionError: there is none, or its function returned something else than an async context manager.
        """
        self.check([name], who)
        source = self._sources[name]
        manager = source if _is_manager(source) else source()
        if not _is_manager(manager):
            if inspect.iscoroutine(manager):
                manager.close()
            raise DefinitionError(
                f"resource {name!r}: its function returned {manager!r}, which is no async context manager; "
                f"contextlib.asynccontextmanager makes one of an async generator"
            )
        return await stack.enter_async_context(manager)


def _is_manager(source: object) -> bool:
    # Asked of the type, as `async with` does: the class of a manager is a function that returns one.
    return isinstance(source, AbstractAsyncContextManager)


def _others(known: Mapping[str, Any]) -> str:
    return f"; there are {', '.join(known)}" if known else ""
