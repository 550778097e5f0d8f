"""Which runtime a command uses: a ``Flujo`` by its name, or one that knows nothing but a store."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import shlex
import sys
import tomllib
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias, TypeVar, cast

import typer
from typing_extensions import TypeIs

from flujo_async._codec.values import Codec
from flujo_async._model.lease import ClaimQuery
from flujo_async._plan.step import step
from flujo_async._runtime.contexts import ContextType
from flujo_async._runtime.flujo import Flujo, runner_of
from flujo_async._runtime.scheduler import Scheduler
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.screen import say
from flujo_async.cli.store import DB_VARIABLE, DEFAULT_DB, Store, store_at
from flujo_async.errors import InvalidArgument

T = TypeVar("T")

Runtime: TypeAlias = Flujo[Any, Any]

_PYPROJECT: Final = "pyproject.toml"
_TABLE: Final = "flujo-async"
_NO_FLUJO: Final = (
    "no Flujo given: a store alone does not know what to execute; --flujo MODULE:ATTRIBUTE names one, "
    'or pyproject.toml does: [tool.flujo-async] flujo = "MODULE:ATTRIBUTE"'
)


@dataclass(frozen=True, slots=True)
class Named:
    """A ``Flujo`` by name: nothing is imported yet.

    Attributes:
        name: ``MODULE:ATTRIBUTE``.
        directory: where modules are looked for first.
    """

    name: str
    directory: Path

    def load(self) -> object:
        """Return what the name stands for: the attribute, or what it returns if it is a function.

        Raises:
            InvalidArgument: there is no such attribute, or it is a function with arguments or that fails.
        """
        module_name, _, attribute = self.name.partition(":")
        if not module_name or module_name.startswith(".") or not attribute:
            raise InvalidArgument(f"{self.name!r} names no Flujo; that is MODULE:ATTRIBUTE, such as app:flujo")
        module = self._import(module_name)
        try:
            thing = attrgetter(attribute)(module)
        except AttributeError as error:
            known = [name for name, item in vars(module).items() if isinstance(item, Flujo)]
            hint = f"; its Flujo is {' or '.join(known)}" if known else ""
            raise InvalidArgument(f"module {module_name!r} has no {attribute!r}{hint}") from error
        return self._call(thing) if inspect.isroutine(thing) else thing

    async def make(self, loaded: object) -> Runtime:
        """Return the runtime that was loaded; what an async function returned is awaited.

        Raises:
            InvalidArgument: it is none, other processes cannot see its runs, or the function failed.
        """
        try:
            made = await loaded if inspect.isawaitable(loaded) else loaded
        except Exception as error:
            raise InvalidArgument(f"{self.name} failed: {_told(error)}") from error
        if not _is_runtime(made):
            raise InvalidArgument(f"{self.name} is no Flujo, and no function that returns one, but {_kind(made)}")
        if not made.state_backend.capabilities.durable:
            raise InvalidArgument(f"{self.name} keeps its runs in memory, for its own process only; give it a store")
        return made

    def _import(self, module_name: str) -> ModuleType:
        sys.path.insert(0, str(self.directory))
        try:
            return importlib.import_module(module_name)
        except Exception as error:
            raise InvalidArgument(self._why_not(module_name, error)) from error

    def _why_not(self, module_name: str, error: Exception) -> str:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            return f"there is no module {error.name!r}, neither in {self.directory} nor installed"
        return f"module {module_name!r} cannot be imported: {_told(error)}"

    def _call(self, function: Callable[..., object]) -> object:
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            raise InvalidArgument(f"{self.name} is a function with arguments: {error}") from error
        try:
            return function()
        except Exception as error:
            raise InvalidArgument(f"{self.name} failed: {_told(error)}") from error


Place: TypeAlias = Named | Store
"""Where a command finds runs."""


def place_at(flujo: str | None, db: str | None, *, may_create: bool = False) -> Place:
    """Return where the runs are: the runtime or the store that is named, in this order.

    By ``--flujo``, ``--db``, ``FLUJO_DB``, pyproject.toml; else the demo's store.

    Args:
        flujo: what ``--flujo`` says.
        db: what ``--db`` or ``FLUJO_DB`` says.
        may_create: whether it can be a store that does not exist yet.

    Raises:
        InvalidArgument: the options contradict each other, or there is no such store.
    """
    if flujo is not None:
        if db not in (None, os.environ.get(DB_VARIABLE)):
            raise InvalidArgument("--flujo and --db both tell where the runs are: give one of them")
        return Named(flujo, Path.cwd())
    if db is None and (named := _configured()) is not None:
        return named
    store = store_at(DEFAULT_DB if db is None else db)
    if may_create:
        store.check_creatable()
    else:
        store.check_exists()
    return store


def flujo_named(flujo: str | None) -> Named:
    """Return the runtime that ``--flujo`` or pyproject.toml names.

    Raises:
        InvalidArgument: neither does.
    """
    named = _configured() if flujo is None else Named(flujo, Path.cwd())
    if named is None:
        raise InvalidArgument(_NO_FLUJO)
    return named


def name_of(place: Place) -> str:
    """Return what the user calls a place."""
    return place.name if isinstance(place, Store) else f"the store of {place.name}"


def as_typed(place: Place) -> str:
    """Return the option that a command which executes a run needs to find its ``Flujo``, a blank before it.

    It is empty if pyproject.toml tells. A store does not know the name: that is for the reader to fill in.
    """
    if isinstance(place, Store):
        return " --flujo MODULE:ATTRIBUTE"
    return "" if place == _configured() else f" --flujo {place.name}"


def resume_command(run_id: str, flujo_option: str) -> str:
    """Return what to type to have a run go on, in backticks; ``flujo_option`` is what ``as_typed`` returns."""
    return f"`flujo-async runs resume {shlex.quote(run_id)}{flujo_option}`"


def check_executes(place: Place, option: str) -> None:
    """Check that an option that executes a run has what it takes.

    Raises:
        InvalidArgument: there is only a store.
    """
    if isinstance(place, Store):
        raise InvalidArgument(f"{option}: {_NO_FLUJO}")


def perform(place: Place, action: Callable[[Runtime], Awaitable[T]], *, interrupted: str = "interrupted") -> T:
    """Do something with the runtime of a place, which drives nothing else meanwhile; it is closed at the end.

    Args:
        place: where.
        action: what.
        interrupted: what to say after Ctrl-C, if anything.

    Raises:
        Exit: Ctrl-C.
    """
    try:
        loaded = place.load() if isinstance(place, Named) else _bare(place)
        return asyncio.run(_perform(place, loaded, action))
    except KeyboardInterrupt:
        if interrupted:
            say(interrupted)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


async def _perform(place: Place, loaded: Any, action: Callable[[Runtime], Awaitable[T]]) -> T:
    flujo: Runtime = await place.make(loaded) if isinstance(place, Named) else loaded
    runner = runner_of(flujo)
    # Whatever else is due in the store, or is to go, is none of this command's business.
    runner.scheduler = Scheduler(runner, _nothing, is_lasting=False)
    runner.sweeper.is_automatic = False
    try:
        async with flujo:
            return await action(flujo)
    finally:
        await flujo.state_backend.shutdown()


async def _nothing() -> list[ClaimQuery]:
    return []


@step
def _unknown(value: Any) -> Any:
    """Stand in for definitions that are not here; never executed."""
    return value


def _bare(store: Store) -> Runtime:
    """Return a runtime that has no definitions: it reads every run, and executes none."""
    flujo: Runtime = Flujo(_unknown, pipeline_name="", state_backend=store.open())
    codec, catalogue = Codec.lenient(), runner_of(flujo).catalogue
    catalogue.current = replace(catalogue.current, codec=codec, contexts=ContextType(None, codec))
    return flujo


def _configured() -> Named | None:
    """Return the runtime that the nearest pyproject.toml with a table for us names."""
    for directory in (Path.cwd(), *Path.cwd().parents):
        path = directory / _PYPROJECT
        if path.is_file() and (table := _table(path)) is not None:
            match table:
                case {"flujo": str(name)} if len(table) == 1:
                    return Named(name, directory)
                case _:
                    raise InvalidArgument(f'{path}: [tool.{_TABLE}] has one entry, flujo = "MODULE:ATTRIBUTE"')
    return None


def _table(path: Path) -> Any:
    """Return what a pyproject.toml says of us; ``None`` if it does not mention us."""
    try:
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} is no TOML: {error}") from error
    return cast("dict[str, Any]", tools).get(_TABLE) if isinstance(tools, dict) else None


def _told(error: Exception) -> str:
    """Return what went wrong in code of the user's, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (frame.filename, frame.lineno)
    return f"{type(error).__name__}: {error}, in {where[0]}:{where[1]}"


def _is_runtime(thing: object) -> TypeIs[Runtime]:
    return isinstance(thing, Flujo)


def _kind(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"
