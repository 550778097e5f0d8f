"""Durable workflows inside your own asyncio process."""

from flujo_async import errors, reducers
from flujo_async._codec.registry import register_type
from flujo_async._log.views import Commit, Event
from flujo_async._model import facts
from flujo_async._model.context import StepContext
from flujo_async._model.policy import Retry
from flujo_async._model.result import RunResult
from flujo_async._model.state import StepRecord, StepStatus, Waiting, WorkflowState
from flujo_async._model.summary import RunSummary
from flujo_async._plan.combinators import as_step, branch, loop, map_each, parallel
from flujo_async._plan.pipeline import Pipeline
from flujo_async._plan.registry import PipelineRegistry
from flujo_async._plan.step import Step, step
from flujo_async._runtime.flujo import Flujo
from flujo_async._runtime.handle import RunHandle
from flujo_async.abc import Clock, StateBackend
from flujo_async.backends.file import FileBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.backends.sqlite import SQLiteBackend

__all__ = [
    "Clock",
    "Commit",
    "Event",
    "FileBackend",
    "Flujo",
    "InMemoryBackend",
    "Pipeline",
    "PipelineRegistry",
    "Retry",
    "RunHandle",
    "RunResult",
    "RunSummary",
    "SQLiteBackend",
    "StateBackend",
    "Step",
    "StepContext",
    "StepRecord",
    "StepStatus",
    "Waiting",
    "WorkflowState",
    "as_step",
    "branch",
    "errors",
    "facts",
    "loop",
    "map_each",
    "parallel",
    "reducers",
    "register_type",
    "step",
]
