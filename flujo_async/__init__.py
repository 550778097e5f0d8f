"""Durable workflows inside your own asyncio process."""

import typing as _t
from importlib import import_module as _import_module

if _t.TYPE_CHECKING:
    from flujo_async import errors, reducers
    from flujo_async._codec.registry import register_type
    from flujo_async._log.history import Change
    from flujo_async._log.views import Commit, Event
    from flujo_async._model import facts
    from flujo_async._model.audit import AuditEvent
    from flujo_async._model.context import Resource, StepContext
    from flujo_async._model.policy import Limit, Retention, Retry
    from flujo_async._model.report import VerifyReport
    from flujo_async._model.result import RunResult
    from flujo_async._model.state import StepRecord, StepStatus, Waiting, WorkflowState
    from flujo_async._model.summary import RunSummary
    from flujo_async._model.usage import Usage
    from flujo_async._plan.combinators import as_step, branch, child, loop, map_each, parallel, sleep, wait_for
    from flujo_async._plan.depends import Action, Depends, any_of
    from flujo_async._plan.graph_build import graph
    from flujo_async._plan.pipeline import Pipeline
    from flujo_async._plan.registry import PipelineRegistry
    from flujo_async._plan.step import Step, step
    from flujo_async._plan.workflow import RunContext, workflow
    from flujo_async._runtime.flujo import Flujo
    from flujo_async._runtime.handle import RunHandle
    from flujo_async._runtime.worker import Worker
    from flujo_async.abc import Clock, StateBackend
    from flujo_async.backends.file import FileBackend
    from flujo_async.backends.memory import InMemoryBackend
    from flujo_async.backends.sqlite import SQLiteBackend

__all__ = [
    "Action",
    "AuditEvent",
    "Change",
    "Clock",
    "Commit",
    "Depends",
    "Event",
    "FileBackend",
    "Flujo",
    "InMemoryBackend",
    "Limit",
    "Pipeline",
    "PipelineRegistry",
    "Resource",
    "Retention",
    "Retry",
    "RunContext",
    "RunHandle",
    "RunResult",
    "RunSummary",
    "SQLiteBackend",
    "StateBackend",
    "Step",
    "StepContext",
    "StepRecord",
    "StepStatus",
    "Usage",
    "VerifyReport",
    "Waiting",
    "Worker",
    "WorkflowState",
    "any_of",
    "as_step",
    "branch",
    "child",
    "errors",
    "facts",
    "graph",
    "loop",
    "map_each",
    "parallel",
    "reducers",
    "register_type",
    "sleep",
    "step",
    "wait_for",
    "workflow",
]

_HOMES: _t.Final = {
    "flujo_async._codec.registry": "register_type",
    "flujo_async._log.history": "Change",
    "flujo_async._log.views": "Commit Event",
    "flujo_async._model.audit": "AuditEvent",
    "flujo_async._model.context": "Resource StepContext",
    "flujo_async._model.policy": "Limit Retention Retry",
    "flujo_async._model.report": "VerifyReport",
    "flujo_async._model.result": "RunResult",
    "flujo_async._model.state": "StepRecord StepStatus Waiting WorkflowState",
    "flujo_async._model.summary": "RunSummary",
    "flujo_async._model.usage": "Usage",
    "flujo_async._plan.combinators": "as_step branch child loop map_each parallel sleep wait_for",
    "flujo_async._plan.depends": "Action Depends any_of",
    "flujo_async._plan.graph_build": "graph",
    "flujo_async._plan.pipeline": "Pipeline",
    "flujo_async._plan.registry": "PipelineRegistry",
    "flujo_async._plan.step": "Step step",
    "flujo_async._plan.workflow": "RunContext workflow",
    "flujo_async._runtime.flujo": "Flujo",
    "flujo_async._runtime.handle": "RunHandle",
    "flujo_async._runtime.worker": "Worker",
    "flujo_async.abc": "Clock StateBackend",
    "flujo_async.backends.file": "FileBackend",
    "flujo_async.backends.memory": "InMemoryBackend",
    "flujo_async.backends.sqlite": "SQLiteBackend",
}
"""The public names by the modules that they live in."""

_MODULES: _t.Final = {
    "errors": "flujo_async.errors",
    "facts": "flujo_async._model.facts",
    "reducers": "flujo_async.reducers",
}
"""The modules that are public themselves."""

_MODULE_OF: _t.Final = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> _t.Any:
    """Import what is asked for. A program that uses no store in a file need not load the drivers of those that are."""
    if name in _MODULE_OF:
        value = getattr(_import_module(_MODULE_OF[name]), name)
    elif name in _MODULES:
        value = _import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'flujo_async' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all names, those not imported yet among them."""
    return sorted({*globals(), *__all__})
