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

    @property
    def is_over(self) -> bool:
        """Whether it is time to let the event loop turn."""
        return time.perf_counter() >= self._until

    async def turn(self) -> None:
        """Let the event loop turn."""
        await asyncio.sleep(0)
        self._until = time.perf_counter() + _SLICE_SECONDS
