"""Equality that also sees types, signs of zero, nans, time zones and the insides of objects."""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel


def same(a: Any, b: Any) -> bool:
    """Tell whether two values cannot be told apart by any honest means, except identity."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())
    if isinstance(a, (datetime, time)):
        return _same_moment(a, b)
    return _same_members(a, b)


def _same_moment(a: Any, b: Any) -> bool:
    naive = a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold
    return naive and type(a.tzinfo) is type(b.tzinfo) and str(a.tzinfo) == str(b.tzinfo) and a.tzinfo == b.tzinfo


def _same_members(a: Any, b: Any) -> bool:
    if isinstance(a, Enum):
        return a is b
    if isinstance(a, (set, frozenset)):
        return _same_sets(a, b)
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (BaseModel, BaseException)) or dataclasses.is_dataclass(a):
        return same(_insides(a), _insides(b))
    return bool(a == b)


def _same_sets(a: Any, b: Any) -> bool:
    rest = list(b)
    for item in a:
        match = next((i for i, other in enumerate(rest) if same(item, other)), None)
        if match is None:
            return False
        del rest[match]
    return not rest


def _insides(a: Any) -> list[Any]:
    if isinstance(a, BaseModel):
        return [a.__dict__, a.__pydantic_extra__, a.__pydantic_private__, set(a.__pydantic_fields_set__)]
    if isinstance(a, BaseException):
        return [_args(a), vars(a), a.__cause__]  # not `str`, which shows sets in any order
    names = {field.name for field in dataclasses.fields(a)} | getattr(a, "__dict__", {}).keys()
    return [{name: getattr(a, name) for name in sorted(names) if hasattr(a, name)}]


def _args(a: BaseException) -> tuple[Any, ...]:
    # A group keeps whatever sequence it was given, beside the tuple that it makes of it.
    return (a.message, a.exceptions) if isinstance(a, BaseExceptionGroup) else a.args
