"""The time of the machine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from typing_extensions import override

from flujo_async.abc.clock import Clock


class SystemClock(Clock):
    """Reads the machine's clock and waits by the event loop's."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0))
