"""Durable workflows inside your own asyncio process."""

from flujo_async import errors, reducers
from flujo_async._codec.registry import register_type
from flujo_async._log.history import Change
from flujo_async._log.views import Commit, Event
from flujo_async._model import facts
from flujo_async._model.context import Resource, StepContext
from flujo_async._model.policy import Limit, Retention, Retry
from flujo_async._model.report import VerifyReport
from flujo_async._model.result import RunResult
from flujo_async._model.state import StepRecord, StepStatus, Waiting, WorkflowState
from flujo_async._model.summary import RunSummary
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
