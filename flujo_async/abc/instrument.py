"""The port of whoever observes runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from flujo_async._log.views import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Which run it is.

    Attributes:
        run_id: its name.
        pipeline_name: the definition that it was started with.
        pipeline_version: the version of it that drives the run now.
        started_at: when it was created; of a fork, when its source was.
        began_at: when it began the last time: when it was created, forked, or tried again after it had ended.
        parent_run_id: the run that started it, if one did.
        carrier: what instruments gave it to carry along when it was created: the same in every process.
    """

    run_id: str
    pipeline_name: str
    pipeline_version: str
    started_at: datetime
    began_at: datetime
    parent_run_id: str | None = None
    carrier: Mapping[str, str] = field(default_factory=dict[str, str])


def name_of(run: RunIdentity) -> tuple[str, datetime]:
    """Return what tells a run from those of the same ``run_id`` in other stores."""
    return run.run_id, run.began_at


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptIdentity:
    """Which attempt of which step it is.

    Attributes:
        key: the key of the step, unique in its run.
        name: the name of the step.
        number: from 1.
        started_at: when it began.
        first_started_at: when the first attempt of the step began, be it in another process.
    """

    key: str
    name: str
    number: int
    started_at: datetime
    first_started_at: datetime


class Instrument:
    """Observes runs, and may not change them. Derive from it and override what you want to hear of.

    A runtime calls its instruments in the event loop, and waits for them: each method has to return at once, and hand
    what takes time to a thread. They are called one after the other, in the order in which they were given. What one
    raises does not reach the run: it is logged, with its traceback, the first time that this method of it fails.

    What was recorded before is never told again: a run that is resumed, here or elsewhere, is told of from where it
    goes on. So everything is told at most once, over all processes; a process that dies takes with it what it had
    committed in that instant and not told yet.
    """

    def carrier(self, run: RunIdentity) -> Mapping[str, str]:
        """Return what a run that is about to be created is to carry along.

        It is durable with the run's first fact, and comes back in ``RunIdentity.carrier``, in this process and in all
        that drive the run later. Called in the context of whoever creates the run, which is its parent for a child.
        The run may turn out to exist: then what this returns is not used.

        Args:
            run: the run to be; its ``carrier`` is empty yet.

        Returns:
            Names and values, such as the headers of a distributed trace. Of two instruments that give the same name,
            the later one counts.
        """
        return {}

    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        """Hear of facts that have just become durable.

        Facts that went down in one write are told together. Within a run they come in the order of their ``seq``.

        Args:
            run: the run whose log they are in.
            commits: one or more; the values in their facts are encoded, as they are in the log.
        """

    def driving(self, run: RunIdentity) -> AbstractContextManager[object] | None:
        """Return what to enter while this process drives a run, or nothing.

        It is entered in the task in which the run's code runs, so that context variables which it sets are seen by
        the code of a workflow, by all tasks and threads of the run and by its children. It is left when the run rests,
        leaves memory for a while, or is interrupted, with the exception that did that; a run can be driven many times.
        """
        return None

    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> AbstractContextManager[object] | None:
        """Return what to enter around one attempt of a step, or nothing.

        It is entered when the attempt begins, after it has waited for its turn, in the task that makes it, so that
        context variables which it sets are seen by the step, in a thread too (not in a process). It is left with the
        exception that ended the attempt: what the step raised; ``TimeoutError`` when a limit passed;
        ``asyncio.CancelledError`` when it was interrupted. Whether the outcome becomes durable is told by
        ``committed``.
        """
        return None
