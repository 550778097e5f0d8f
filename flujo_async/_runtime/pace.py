"""How long the runs of one runtime may go on before they let the event loop do something else."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_SLICE_SECONDS: Final = 0.001


class Pace:
    """Lets the event loop turn from time to time, where a store answers at once and nothing else would."""

    def __init__(self) -> None:
        self._until = 0.0

    async def keep(self) -> None:
        """Let the event loop turn, if the time is over."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + _SLICE_SECONDS
