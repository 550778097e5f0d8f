"""What a caller asks for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import EllipsisType
from typing import Any

from flujo_async._model.policy import check_timer
from flujo_async._model.quick import quick
from flujo_async._model.text import is_text
from flujo_async.errors import DefinitionError, InvalidArgument


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run to be started or resumed.

    Attributes:
        input: its input; ``...`` where none is given.
        context: the context to start with; ``None`` is the default context, or the recorded one.
        timeout: how long the run may take from its start, in seconds.
        parent_run_id: the run that starts it, if one does.
        queue: the queue of workers that it waits in, if it does.
        delay: how long it waits there at least, in seconds.
        priority: higher goes first.
        is_urgent: whether it does not wait for a place among the runs that are driven at the same time.
        is_background: whether nobody waits for it.
        is_resume: whether a run that was paused by a person goes on.
        is_known: whether there is such a run: if it has been deleted by now, it is not begun anew.
    """

    run_id: str
    input: Any | EllipsisType = ...
    context: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timeout: float | None = None
    parent_run_id: str | None = None
    queue: str | None = None
    delay: float = 0
    priority: int = 0
    is_urgent: bool = False
    is_background: bool = False
    is_resume: bool = False
    is_known: bool = False


def request_for(
    run_id: str | None,
    input: Any,
    context: Any,
    metadata: Mapping[str, Any] | None,
    timeout: timedelta | float | None,
) -> Request:
    """Return the request of a call of ``Flujo``.

    Raises:
        InvalidArgument: the timeout is no duration.
    """
    return Request(
        run_id=uuid.uuid4().hex if run_id is None else run_id,
        input=input,
        context=context,
        metadata=metadata or {},
        timeout=checked_seconds(timeout, "timeout"),
    )


def check_place(queue: Any, priority: Any) -> None:
    """Check where a run is to wait.

    Raises:
        InvalidArgument: the queue has no name, or the priority is no whole number of 64 bits.
    """
    if not queue or not is_text(queue):
        raise InvalidArgument(f"queue is the name of a queue, Unicode and not empty, not {queue!r}")
    if not isinstance(priority, int) or isinstance(priority, bool) or not -(2**63) <= priority < 2**63:
        raise InvalidArgument(f"priority is a whole number, not {priority!r}")


def checked_seconds(duration: Any, what: str) -> float | None:
    """Return an optional duration in seconds; ``what`` says in an error whose it is.

    Raises:
        InvalidArgument: it is no duration.
    """
    try:
        return None if duration is None else check_timer(duration, what)
    except DefinitionError as error:
        raise InvalidArgument(str(error)) from error
