"""The code of functions: the fingerprint by which it is known again, the name by which another process finds it."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from hashlib import sha256
from types import CodeType, FunctionType
from typing import Any, Final, cast

from flujo_async._codec.tree import dumps
from flujo_async._model.tree import Json
from flujo_async._plan.pipeline import Chain

MAIN_MODULES: Final = ("__main__", "__mp_main__")
"""What the main script of a process is called; the second name is that in child processes."""

_SCALARS: Final = (type(None), bool, int, float, complex, str, bytes, type(...))


def fingerprint(function: Callable[..., Any]) -> str:
    """Return what changes with the code of a function: its bytecode, constants, names and defaults.

    So do the functions inside it, and those that it wraps; those that it calls do not, and neither do the values that
    it finds outside. Different versions of Python make different bytecode.
    """
    return sha256(dumps([_described(layer) for layer in _layers(function)])).hexdigest()


def is_free(function: Callable[..., Any]) -> bool:
    """Return whether a function is nothing but its code: not bound to an object or to arguments."""
    return all(isinstance(layer, FunctionType | type) or _is_builtin(layer) for layer in _layers(function))


def reference_to(function: Any) -> str | None:
    """Return ``module:qualified name``, by which another process finds a function; ``None`` if it cannot.

    Whether the name really leads there is known only when the module is complete: see ``referent``.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name or inspect.ismethod(function):
        return None
    return f"{module}:{name}"


def referent(reference: str) -> Any:
    """Return what ``module:qualified name`` leads to; the function of a step, if it is one.

    Raises:
        ImportError: the module cannot be imported.
        AttributeError: it has no such name.
    """
    module, _, path = reference.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    if not isinstance(found, Chain):
        return found
    return getattr(cast("Any", found), "function", None)  # a decorated function has given its name to the step


def _layers(function: Any) -> Iterator[Any]:
    while True:
        yield function
        if not hasattr(function, "__wrapped__"):
            return
        function = function.__wrapped__


def _is_builtin(function: Any) -> bool:
    if isinstance(function, functools.partial):  # a routine to `inspect` from Python 3.14 on
        return False
    owner = getattr(function, "__self__", None)
    return inspect.isroutine(function) and (owner is None or inspect.ismodule(owner))


def _described(function: Any) -> Json:
    if not isinstance(function, FunctionType):
        return [str(getattr(function, name, "")) for name in ("__module__", "__qualname__")]
    defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
    return [_code(function.__code__), [_constant(default) for default in defaults]]


def _code(code: CodeType) -> Json:
    constants = [_constant(item) for item in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _constant(item: object) -> Json:
    """Return a constant so that every process writes it alike: the members of a set have no order."""
    if isinstance(item, CodeType):
        return _code(item)
    if isinstance(item, tuple):
        return [_constant(part) for part in cast("tuple[object, ...]", item)]
    if isinstance(item, frozenset):
        return ["set", *sorted(repr(part) for part in cast("frozenset[object]", item))]
    return repr(item) if isinstance(item, _SCALARS) else type(item).__qualname__
