"""What the names in the code of a function stand for, before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any


def names_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what the names stand for that a function can use: globals, and variables around it."""
    code: CodeType | None = getattr(function, "__code__", None)
    cells = zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=True) if code else ()
    around = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    return {**getattr(function, "__globals__", {}), **around}


def mentioned_by(function: Callable[..., Any]) -> dict[str, Any]:
    """Return those of ``names_of`` that stand in the code of the function itself, or of a function inside it."""
    words = _words_of(function)
    return {name: value for name, value in names_of(function).items() if name in words}


def exceptions_in_modules(function: Callable[..., Any]) -> Iterator[type[Exception]]:
    """Yield the exceptions that a function names by a module that has them, as in ``except json.JSONDecodeError``.

    The code of the functions of its own module that it comes to by their names counts as its own.
    """
    for part in _parts(function):
        words = _words_of(part)
        for module in _modules(part, words):
            for word in words:
                member: Any = vars(module).get(word)  # not by `getattr`, which a module may answer by an import
                if is_exception(member):
                    yield member


def is_exception(value: object) -> bool:
    """Return whether a value is an exception class, which a function that has a name for it may raise or catch."""
    return isinstance(value, type) and issubclass(value, Exception)


def _parts(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield a function, and those of its module that it comes to by their names."""
    todo, seen = [function], {id(function)}
    while todo:
        part = todo.pop()
        yield part
        for other in mentioned_by(part).values():
            if isinstance(other, FunctionType) and id(other) not in seen and other.__module__ == function.__module__:
                seen.add(id(other))
                todo.append(other)


def _modules(function: Callable[..., Any], words: frozenset[str]) -> Iterator[ModuleType]:
    """Yield the modules that the words lead to: ``urllib`` and ``error`` of ``urllib.error.URLError``."""
    todo, seen = list(mentioned_by(function).values()), set[int]()
    while todo:
        module = todo.pop()
        if isinstance(module, ModuleType) and id(module) not in seen:
            seen.add(id(module))
            yield module
            todo += [vars(module).get(word) for word in words]


def _words_of(function: Callable[..., Any]) -> frozenset[str]:
    code: CodeType | None = getattr(function, "__code__", None)
    return frozenset() if code is None else _words_in(code)


def _words_in(code: CodeType) -> frozenset[str]:
    inside = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset({*code.co_names, *code.co_freevars}).union(*map(_words_in, inside))


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 -- reading it is the question
    except ValueError:
        return False
    return True
