"""What the steps of a test have executed, in order; each test of a runtime begins with nothing."""

import asyncio
from typing import Any

from flujo_async import step

EXECUTED: list[Any] = []


@step
async def note(value: Any) -> Any:
    EXECUTED.append(value)
    await asyncio.sleep(0)
    return value
