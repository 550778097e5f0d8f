"""What a step is told about the run that it is part of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StepContext:
    """Handed to a step that has a parameter annotated ``StepContext``; one for each attempt.

    Attributes:
        run_id: the run.
        step_name: the step.
        step_key: where the step stands in the run, such as ``map_each/3/parse``.
        attempt: which try this is, from 1; goes on counting after a restart.
        idempotency_key: names this execution of the step for the outside world: the same in every attempt and
            after every restart, different for every other step of any run.
    """

    def __init__(
        self,
        *,
        run_id: str,
        step_name: str,
        step_key: str,
        attempt: int,
        idempotency_key: str,
        load: Callable[[], Any],
    ) -> None:
        self.run_id = run_id
        self.step_name = step_name
        self.step_key = step_key
        self.attempt = attempt
        self.idempotency_key = idempotency_key
        self.events: list[Any] = []
        self._load = load
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

    def emit(self, event: Any) -> None:
        """Emit an event: followers of the run see it once this step's outcome is durable.

        Args:
            event: any value that can be stored.
        """
        self.events.append(event)
