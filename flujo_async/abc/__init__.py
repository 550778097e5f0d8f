"""The ports: what the runtime needs of a store and of time, what it tells instruments, and the words for all that.

The docstrings of the ports are the contract.
"""

from flujo_async._model.audit import AuditMark, AuditQuery
from flujo_async._model.entry import Entry, EntryQuery
from flujo_async._model.lease import ClaimQuery, DefinitionKey, Lease
from flujo_async._model.report import SchemaVersion, StorePart, StoreReport
from flujo_async._model.stored import (
    GOES_ON,
    Blob,
    HeadChange,
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
from flujo_async.abc.instrument import AttemptIdentity, Instrument, RunIdentity

__all__ = [
    "GOES_ON",
    "AttemptIdentity",
    "AuditMark",
    "AuditQuery",
    "Blob",
    "Capabilities",
    "ClaimQuery",
    "Clock",
    "DefinitionKey",
    "Entry",
    "EntryQuery",
    "HeadChange",
    "Instrument",
    "Lease",
    "NewRun",
    "Prefix",
    "Record",
    "RunIdentity",
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
