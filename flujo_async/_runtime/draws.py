"""What the code of a workflow draws, and what is different each time it is drawn."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from flujo_async._runtime.execution import Execution
from flujo_async._runtime.witness import dice


def _uuid(chance: random.Random | None) -> uuid.UUID:
    return uuid.uuid4() if chance is None else uuid.UUID(int=chance.getrandbits(128), version=4)


DRAWS: Final[Mapping[str, Callable[[Execution, str], Any]]] = {
    "now": lambda execution, key: execution.clock.now(),
    "uuid": lambda execution, key: _uuid(dice(execution.run_id, key)),
    "random": lambda execution, key: (dice(execution.run_id, key) or random).random(),
}
"""By kind: what draws under a key of a run."""
