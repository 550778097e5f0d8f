"""The ports: what the runtime needs of a store and of time, and the words that they are put in.

The docstrings of the ports are the contract.
"""

from flujo_async._model.audit import AuditMark, AuditQuery
from flujo_async._model.entry import Entry, EntryQuery
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.report import SchemaVersion, StorePart, StoreReport
from flujo_async._model.stored import (
    Blob,
    NewRun,
    Prefix,
    Record,
    RunQuery,
    RunUpdate,
    Signal,
    Snapshot,
    StoredRun,
)
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.abc.clock import Clock

__all__ = [
    "AuditMark",
    "AuditQuery",
    "Blob",
    "Capabilities",
    "ClaimQuery",
    "Clock",
    "Entry",
    "EntryQuery",
    "Lease",
    "NewRun",
    "Prefix",
    "Record",
    "RunQuery",
    "RunUpdate",
    "SchemaVersion",
    "Signal",
    "Snapshot",
    "StateBackend",
    "StorePart",
    "StoreReport",
    "StoredRun",
]
