"""Functions whose annotations are text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flujo_async import Step, step


class Order: ...


def global_function(order: Order) -> Order:
    return order


def local_steps() -> tuple[Step[Any, Any], Step[Any, Any]]:
    """Return two steps over a class that only this function knows; one is made in a function inside."""

    @dataclass
    class Local:
        number: int

    @step
    async def make() -> Local:
        return Local(1)

    def inner() -> Step[Any, Any]:
        @step(name="take")
        async def take(local: Local) -> int:
            return local.number

        return take

    return make, inner()
