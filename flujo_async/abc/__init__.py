"""The ports: what the runtime needs of a store and of time, and the words that they are put in.

The docstrings of the ports are the contract.
"""

from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.stored import NewRun, Record, RunQuery, RunUpdate, Signal, StoredRun
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.abc.clock import Clock

__all__ = [
    "Capabilities",
    "ClaimQuery",
    "Clock",
    "Lease",
    "NewRun",
    "Record",
    "RunQuery",
    "RunUpdate",
    "Signal",
    "StateBackend",
    "StoredRun",
]
