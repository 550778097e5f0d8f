"""A user's three methods over a dictionary."""

from typing import Any

from flujo_async import StateBackend


class Dictionary(StateBackend):
    def __init__(self, states: dict[str, Any] | None = None) -> None:
        self.states: dict[str, Any] = {} if states is None else states

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        self.states[run_id] = state

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        return self.states.get(run_id)

    async def delete_state(self, run_id: str) -> None:
        self.states.pop(run_id, None)
