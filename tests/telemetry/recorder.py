"""An instrument that keeps what it is told, in order."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flujo_async._log.views import Commit
from flujo_async.abc import AttemptIdentity, Instrument, RunIdentity

IN: ContextVar[str] = ContextVar("tests_telemetry_in", default="nothing")
"""What the code that reads it is in: a run, or an attempt of a step."""


class Recorder(Instrument):
    """Keeps what it hears, and lets the code of runs see where it is."""

    def __init__(self, carrier: Mapping[str, str] | None = None) -> None:
        self.given = dict(carrier or {})
        self.heard: list[tuple[Any, ...]] = []
        self.runs: list[RunIdentity] = []

    def carrier(self, run: RunIdentity) -> Mapping[str, str]:
        self.heard.append(("carrier", run.run_id, IN.get()))
        return self.given

    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        self.runs.append(run)
        self.heard += [("fact", run.run_id, commit.seq, commit.fact.kind) for commit in commits]

    @contextmanager
    def driving(self, run: RunIdentity) -> Iterator[None]:
        with self._inside("driving", run.run_id, f"run {run.run_id}"):
            yield

    @contextmanager
    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> Iterator[None]:
        with self._inside("attempt", attempt.key, f"{attempt.key} {attempt.number}"):
            yield

    @contextmanager
    def _inside(self, what: str, name: str, where: str) -> Iterator[None]:
        self.heard.append((what, name, "begins"))
        token = IN.set(where)
        try:
            yield
        except BaseException as error:
            self.heard.append((what, name, repr(error)))
            raise
        else:
            self.heard.append((what, name, "ends"))
        finally:
            IN.reset(token)

    def facts(self) -> list[tuple[int, str]]:
        return [(seq, kind) for what, *_, seq, kind in self.heard if what == "fact"]

    def of(self, what: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.heard if entry[0] == what]
