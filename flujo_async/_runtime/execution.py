"""What everything inside one drive of a run shares."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from flujo_async._codec.values import Codec
from flujo_async._model.tree import Json
from flujo_async._runtime.contexts import ContextType
from flujo_async._runtime.journal import Journal
from flujo_async.abc.clock import Clock


@dataclass(frozen=True, slots=True)
class Value:
    """A value on its way through a pipeline, encoded: whoever takes it gets a fresh copy.

    Attributes:
        tree: the encoded value.
        source: where in the log it stands; ``None`` if nowhere as a whole.
    """

    tree: Json
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """One run in the hands of its executor.

    Attributes:
        threads: how many steps may use threads at the same time, over all runs of the runtime.
    """

    run_id: str
    journal: Journal
    codec: Codec
    contexts: ContextType
    clock: Clock
    threads: anyio.CapacityLimiter


class Fault(Exception):  # not an error of its own: it carries one up to where the run ends
    """A failure that ends the branch it happened in, and the run unless something on the way up ignores it.

    Attributes:
        error: what a step raised, or what went wrong between steps.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)  # not its text: a broken ``__str__`` would raise here
        self.error = error
