"""The demo's pipeline: a survey of Python source files.

It is written as a user of the package would write it: plain functions, typed results, and no thought of crashes.
"""

from __future__ import annotations

import ast
import io
import os
import threading
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar

from flujo_async._model.context import StepContext
from flujo_async._plan.combinators import map_each
from flujo_async._plan.pipeline import Pipeline
from flujo_async._plan.step import step
from flujo_async.reducers import append

T = TypeVar("T")

NAME: Final = "survey"
VERSION: Final = "1.0.0"
MAX_RANKED: Final = 100
"""How long the recorded rankings are, whatever part of them is shown."""

_FILES_AT_ONCE: Final = 16
_NOT_SURVEYED: Final = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"})

_PARSER: Final = threading.Lock()
"""CPython up to 3.12 counts the depth of all trees that are being built in one place, and takes threads that build at
the same time for an error of its own (``SystemError: AST constructor recursion depth mismatch``)."""

Function: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be surveyed, and why."""

    path: str
    reason: str


@dataclass
class Notes:
    """The context of a survey: what its steps tell one another beside their results."""

    root: str = ""
    skipped: Annotated[list[Skipped], append] = field(default_factory=list[Skipped])


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file; ``None`` if it cannot be read."""

    path: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Outline:
    """What a file defines and imports; not ``is_parsed`` if that cannot be told.

    ``functions`` has the length of each, by its first line and qualified name, such as ``120 Parser.feed``.
    """

    path: str
    is_parsed: bool = False
    lines: int = 0
    classes: int = 0
    functions: dict[str, int] = field(default_factory=dict[str, int])
    imports: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Ranked:
    """A place in a ranking."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Module:
    """A file in numbers; ``imports`` are the packages that it imports, each once."""

    path: str
    lines: int
    functions: int
    classes: int
    imports: list[str]
    longest: Ranked | None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a survey: totals, and the best ``MAX_RANKED`` of each ranking."""

    root: str
    files: int
    lines: int
    functions: int
    classes: int
    largest: list[Module]
    imported: list[Ranked]
    longest: list[Ranked]
    skipped: list[Skipped]


@step
def list_files(root: str, ctx: StepContext) -> list[str]:
    """Return the paths of the files below ``root``: from here on the survey is about these."""
    ctx.state.root = root
    return sorted(path.relative_to(root).as_posix() for path in python_files(Path(root)))


@step
def read(path: str, ctx: StepContext) -> Source:
    """Read a file in the encoding that it declares."""
    try:
        data = Path(ctx.state.root, path).read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return Source(path, data.decode(encoding))
    except (OSError, SyntaxError, LookupError, ValueError) as error:
        ctx.state.skipped.append(Skipped(path, _reason(error)))
        return Source(path, None)


@step
def parse(source: Source, ctx: StepContext) -> Outline:
    """Find what a file defines and imports."""
    if source.text is None:
        return Outline(source.path)
    try:
        with _PARSER:
            tree = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        ctx.state.skipped.append(Skipped(source.path, _reason(error)))
        return Outline(source.path)
    inside = list(_statements(tree))
    return Outline(
        path=source.path,
        is_parsed=True,
        lines=sum(1 for _ in io.StringIO(source.text, newline=None)),  # splitlines() would count form feeds as well
        classes=sum(isinstance(node, ast.ClassDef) for _, node in inside),
        functions={f"{node.lineno} {name}": _length(node) for name, node in inside if isinstance(node, Function)},
        imports=[name for _, node in inside for name in _imported(node)],
    )


@step
def measure(outline: Outline) -> Module | None:
    """Return a file in numbers; nothing for one that could not be parsed."""
    if not outline.is_parsed:
        return None
    return Module(
        path=outline.path,
        lines=outline.lines,
        functions=len(outline.functions),
        classes=outline.classes,
        imports=sorted({name.partition(".")[0] for name in outline.imports}),
        longest=min((Ranked(*entry) for entry in outline.functions.items()), key=_by_count, default=None),
    )


@step
def aggregate(measured: list[Module | None], ctx: StepContext) -> Report:
    """Add up the files and rank them; ties go by name."""
    modules = [module for module in measured if module is not None]
    imported = Counter(name for module in modules for name in module.imports)
    longest = [Ranked(f"{each.path}:{each.longest.name}", each.longest.count) for each in modules if each.longest]
    return Report(
        root=ctx.state.root,
        files=len(measured),
        lines=sum(module.lines for module in modules),
        functions=sum(module.functions for module in modules),
        classes=sum(module.classes for module in modules),
        largest=_top(modules, lambda module: (-module.lines, module.path)),
        imported=_top((Ranked(*entry) for entry in imported.items()), _by_count),
        longest=_top(longest, _by_count),
        skipped=sorted(ctx.state.skipped, key=lambda skipped: skipped.path),
    )


survey: Pipeline[str, Report] = (
    list_files >> map_each(read >> parse >> measure, max_concurrency=_FILES_AT_ONCE) >> aggregate
)


def python_files(root: Path) -> Iterator[Path]:
    """Yield the Python files below a directory, without tests, installed packages and hidden directories."""
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _NOT_SURVEYED and not name.startswith(".")]
        yield from (Path(directory, file) for file in files if file.endswith(".py"))


def _statements(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a module is made of, down to its statements, each with the qualified name that it stands under.

    Not recursive: there are files whose ``elif`` go deeper than Python's stack.
    """
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        yield name, node
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, (*Function, ast.ClassDef)):
                waiting.append((f"{name}.{inner.name}" if name else inner.name, inner))
            elif not isinstance(inner, ast.expr):
                waiting.append((name, inner))


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _imported(node: ast.AST) -> list[str]:
    """Return what a node imports from outside of its own package."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


def _top(items: Iterable[T], key: Callable[[T], tuple[int, str]]) -> list[T]:
    return sorted(items, key=key)[:MAX_RANKED]


def _by_count(ranked: Ranked) -> tuple[int, str]:
    return -ranked.count, ranked.name


def _reason(error: Exception) -> str:
    match error:
        case OSError():
            text = error.strerror
        case SyntaxError():
            text = f"{error.msg}, line {error.lineno or 1}"
        case _:
            text = str(error)
    return f"{type(error).__name__}: {text}"
