"""What a step is told about the run that it is part of, and what it can ask to be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from flujo_async._model.state import StepRecord
from flujo_async._model.tree import Json
from flujo_async._model.usage import Usage, reported_usage
from flujo_async.errors import DefinitionError


class StepContext:
    """Handed to a step that has a parameter annotated ``StepContext``; one for each attempt.

    Attributes:
        run_id: the run.
        step_name: the step.
        step_key: where the step stands in the run, such as ``map_each/3/parse``.
        attempt: which try this is, from 1; goes on counting after a restart.
        idempotency_key: names this execution of the step for the outside world: the same in every attempt and
            after every restart, different for every other step of any run.
        deadline: when this attempt has to be over, by its timeout or by the deadline of its step; ``None`` if never.
        compensates: in a compensation, the record of the step that it undoes.
    """

    def __init__(  # noqa: PLR0913 -- keyword-only, and made in one place
        self,
        *,
        run_id: str,
        step_name: str,
        step_key: str,
        attempt: int,
        idempotency_key: str,
        load: Callable[[], Any],
        encode: Callable[[Any], Json],
        beat: Callable[[Any], None],
        recall: Callable[[], Any],
        deadline: datetime | None = None,
        compensates: StepRecord | None = None,
    ) -> None:
        self.run_id = run_id
        self.step_name = step_name
        self.step_key = step_key
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.deadline = deadline
        self.compensates = compensates
        self.events: list[Json] = []
        self.reports: list[Usage] = []
        self._load = load
        self._encode = encode
        self._beat = beat
        self._recall = recall
        self._state: Any = None
        self.is_state_loaded: bool = False

    @property
    def state(self) -> Any:
        """The typed context of the run: this attempt's own copy, to be changed in place.

        What a successful attempt changed is committed together with its output; what a failed one changed is gone.
        """
        if not self.is_state_loaded:
            self._state = self._load()
            self.is_state_loaded = True
        return self._state

    @property
    def heartbeat_details(self) -> Any:
        """What the attempt before told last by ``heartbeat``; ``None`` if it told nothing. Survives restarts."""
        return self._recall()

    def emit(self, event: Any) -> None:
        """Emit an event: followers of the run see it, as it is now, once this step's outcome is durable.

        Args:
            event: any value that can be stored.

        Raises:
            SerializationError: the event cannot be stored.
        """
        self.events.append(self._encode(event))

    def report_usage(self, *, tokens: int | Mapping[str, int] = 0, cost: Decimal | float | str = 0) -> None:
        """Tell what this attempt has consumed, besides what it told before.

        It is committed with the outcome of the attempt, also of one that fails, and adds up in ``StepRecord.usage``,
        ``RunResult.usage`` and in that of the runs above. A plain call, from the event loop or a step's thread.

        Args:
            tokens: how many, or how many of each kind, as in ``{"input": 900, "output": 80}``.
            cost: how much money, in a currency of your choice; added up as exact decimals.

        Raises:
            InvalidArgument: tokens that are no whole number from 0, or a cost that is not finite, or negative.
        """
        self.reports.append(reported_usage(tokens, cost))

    def heartbeat(self, details: Any = None) -> None:
        """Tell how far this attempt is, so that the next one can go on from there.

        A plain call, from the event loop or a step's thread, as often as one likes: it is recorded about once a
        second, and the newest together with the outcome of the attempt.

        Args:
            details: any value that can be stored.

        Raises:
            SerializationError: the details cannot be stored.
        """
        self._beat(details)


@dataclass(frozen=True, slots=True)
class Resource:
    """Fills a parameter of a step with a resource of the runtime, as in ``Annotated[Pool, Resource("db")]``.

    Attributes:
        name: one of those in ``Flujo(resources={…})``.

    Raises:
        DefinitionError: the name is empty, or no text.
    """

    name: str

    def __post_init__(self) -> None:
        name = cast("object", self.name)  # not every user has a type checker
        if not isinstance(name, str) or not name:
            raise DefinitionError(f"Resource() needs the name of a resource, not {name!r}")
