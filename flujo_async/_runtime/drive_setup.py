"""What a drive is given: a run that is ready, and what all drives work with."""

from __future__ import annotations

from dataclasses import dataclass

from flujo_async._log.fold import Fold
from flujo_async._model.facts import Fact
from flujo_async._model.lease import Lease
from flujo_async._model.policy import Durability
from flujo_async._model.quick import quick
from flujo_async._model.stored import Signal
from flujo_async._runtime.lease_keeper import LeaseKeeper
from flujo_async._runtime.program import Program
from flujo_async._runtime.services import Services
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock


@quick
@dataclass(frozen=True, slots=True)
class Ready:
    """A run that this runtime has the lease of, ready to be driven.

    Attributes:
        first: facts that go into its next commit.
        signals: what was posted to it so far.
        is_new: whether it has waited in a queue, and its status tells so until the next commit.
        is_woken: whether it was taken up for its news, and nobody has asked for it.
        facts: about how many facts had to be read for that.
    """

    lease: Lease
    fold: Fold
    program: Program
    first: tuple[Fact, ...] = ()
    signals: tuple[Signal, ...] = ()
    priority: int = 0
    is_new: bool = False
    is_woken: bool = False
    facts: int = 1


@dataclass(frozen=True, slots=True)
class DriveSetup:
    """What all drives of a runtime work with."""

    backend: StateBackend
    clock: Clock
    keeper: LeaseKeeper
    services: Services
    durability: Durability = "sync"
    always_replay: bool = False
