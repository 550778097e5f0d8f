"""What observes the runs of one runtime, kept from disturbing them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, TypeVar

from flujo_async._log.fold import Fold
from flujo_async._log.views import Commit
from flujo_async._model.text import is_unicode
from flujo_async.abc.instrument import AttemptIdentity, Instrument, RunIdentity
from flujo_async.errors import InvalidArgument

T = TypeVar("T")

_log: Final = logging.getLogger("flujo_async")


class Instruments:
    """Calls the instruments of one runtime. What one of them raises is logged, once a method, and goes no further.

    Raises:
        InvalidArgument: one is no instrument.
    """

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        if isinstance(instruments, Instrument):
            raise InvalidArgument(f"instruments= is a list of them, not {instruments!r} alone")
        for instrument in instruments:
            if not isinstance(instrument, Instrument):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without one
                raise InvalidArgument(
                    f"instruments= are instances of classes derived from Instrument, not {instrument!r}"
                )
        self._instruments: tuple[Instrument, ...] = tuple(instruments)
        self._told: set[tuple[int, str]] = set()

    def carrier(self, run: RunIdentity) -> dict[str, str]:
        """Return what a run that is about to be created carries along."""
        carrier: dict[str, str] = {}
        for instrument in self._instruments:
            given = self.call(instrument, "carrier", lambda: _checked(instrument.carrier(run)))  # noqa: B023 -- called here
            carrier.update(given or {})
        return carrier

    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        """Tell of facts that are durable."""
        for instrument in self._instruments:
            self.call(instrument, "committed", lambda: instrument.committed(run, commits))  # noqa: B023 -- called here

    def driving(self, run: RunIdentity) -> Watch:
        """Return what is entered while a run is driven."""
        return Watch(self, "driving", self._instruments, lambda instrument: instrument.driving(run))

    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> Watch:
        """Return what is entered around an attempt of a step."""
        return Watch(self, "attempt", self._instruments, lambda instrument: instrument.attempt(run, attempt))

    def call(self, instrument: Instrument, method: str, call: Callable[[], T]) -> T | None:
        """Return what a call of an instrument's method returns, or nothing if it raises."""
        try:
            return call()
        except Exception:  # whatever it is, the run goes on
            self._tell(instrument, method)
            return None

    def _tell(self, instrument: Instrument, method: str) -> None:
        if (id(instrument), method) not in self._told:
            self._told.add((id(instrument), method))
            _log.exception("instrument %r failed in %s(); runs go on, and this is not told again", instrument, method)


Enter = Callable[[Instrument], AbstractContextManager[object] | None]


class Watch:
    """What several instruments want to be entered around something, as one context manager that changes nothing."""

    __slots__ = ("_enter", "_entered", "_instruments", "_method", "_of")

    def __init__(self, of: Instruments, method: str, instruments: Sequence[Instrument], enter: Enter) -> None:
        self._of = of
        self._method = method
        self._instruments = instruments
        self._enter = enter
        self._entered: list[tuple[Instrument, AbstractContextManager[object]]] = []

    def __enter__(self) -> None:
        for instrument in self._instruments:
            self._of.call(instrument, self._method, lambda: self._begin(instrument))  # noqa: B023 -- called here

    def _begin(self, instrument: Instrument) -> None:
        manager = self._enter(instrument)
        if manager is not None:
            manager.__enter__()
            self._entered.append((instrument, manager))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        while self._entered:
            instrument, manager = self._entered.pop()
            self._of.call(instrument, self._method, lambda: self._end(manager, exc_type, exc, tb))  # noqa: B023

    @staticmethod
    def _end(
        manager: AbstractContextManager[object],
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            manager.__exit__(exc_type, exc, tb)  # an exception that it swallows goes on all the same
        except BaseException as error:
            if error is not exc:
                raise


def _checked(carrier: Mapping[str, str]) -> dict[str, str]:
    found = dict(carrier)
    if any(type(text) is not str or not is_unicode(text) for item in found.items() for text in item):
        raise TypeError(f"carrier() returns texts by name, which can be written as UTF-8, not {carrier!r}")
    return found


def identity_of(fold: Fold, pipeline_version: str | None = None) -> RunIdentity:
    """Return which run a state is of, and the version that drives it: by default the one that it was recorded by."""
    started = fold.started
    return RunIdentity(
        run_id=fold.run_id,
        pipeline_name=started.pipeline_name,
        pipeline_version=pipeline_version or fold.pipeline_version,
        started_at=started.at,
        began_at=fold.began_at,
        parent_run_id=started.parent_run_id,
        carrier=started.carrier,
    )
