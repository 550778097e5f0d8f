"""The context of a workflow, which its code changes in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from flujo_async._log.delta import Fields, Migration, apply, diff, lengthen, shorten
from flujo_async._log.keys import call_of
from flujo_async._model.facts import Patch, StateChanged, StepCompleted
from flujo_async._model.tree import JsonObject
from flujo_async._runtime.contexts import ContextType, Scope


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What a step or the code has changed, which the code does not know of yet, or has changed ahead of that."""

    patch: Patch
    is_step: bool


class LiveScope(Scope):
    """The context of a workflow: its code changes it in place, and several of its steps at the same time.

    What a step has changed is recorded when it ends, and seen by the code when its result reaches that: results reach
    the code in the order of the log, so a replay shows the same at the same place.

    In a replay the code changes it again, at times earlier than the log has that. What the steps changed is taken in
    in the order of the log, as changes of what the log had at that place, so that nothing of either is lost. What a
    fork or a migration changed takes the place of what the code has changed until then.
    """

    __slots__ = (
        *("_contexts", "_gone", "_has_tasks", "_history", "_is_loaded", "_is_replayed", "_latest", "_live", "_log"),
        *("_next", "_old", "_record", "unheard"),
    )

    def __init__(
        self,
        outer: Scope,
        contexts: ContextType,
        record: Callable[[Patch, str], None],
        history: Sequence[StepCompleted | StateChanged | Migration],
        is_replayed: Callable[[], bool],
        has_tasks: Callable[[], bool],
        gone: Collection[str],
    ) -> None:
        """Begin as another one is.

        Args:
            outer: the other one, which is left alone meanwhile.
            contexts: of what type it is.
            record: is told what the code has changed and is not recorded, and what it has come to with that.
            history: what is recorded of it, in the order of the log.
            is_replayed: tells whether the code has come as far as is recorded.
            has_tasks: tells whether the code may do something between the end of a step and hearing of that.
            gone: fields that a migration took away: its class, by now, has them at no place of the log.
        """
        super().__init__(outer.path, outer.fields, outer.lists)
        self._contexts = contexts
        self._record = record
        self._history: list[StepCompleted | StateChanged | Migration | _Change] = [*history]
        self._old = len(history)
        self._is_replayed = is_replayed
        self._has_tasks = has_tasks
        self._gone = gone
        self._next = 0  # in the history
        self._log: Fields | None = None  # the context by the log up to there; none is as it is here
        self._latest: Fields | None = None  # and by all of the log, if that goes on from there
        # The calls that have changed something which the code has not heard of, with their places in the history.
        self.unheard = {call_of(fact.key): place for place, fact in enumerate(history) if type(fact) is StepCompleted}
        self._live: Any = None
        self._is_loaded = False

    @property
    def live(self) -> Any:
        """The context as the code sees it."""
        if not self._is_loaded:
            self.lists = self.lists.all_in(self.fields)  # what the code has cannot be another list when it has grown
            self._live = self._contexts.read(self._known, self.lists)
            self._is_loaded = True
        return self._live

    @property
    def _known(self) -> JsonObject:
        """Its fields without those that its class has no more."""
        return {name: self.fields[name] for name in self.fields.keys() - self._gone} if self._gone else self.fields

    def note(self, call: str = "") -> None:
        """Record what the code has changed since the last time; it begins a call now, unless a step has just ended."""
        if self._next < self._old:
            if not self._is_replayed():
                self._settle()
                return
        elif not self._is_loaded and self._log is None:  # the usual case: nobody has looked at it
            return
        if patch := self.unrecorded():
            self._record(patch, call)

    def end(self) -> None:
        """Record nothing any more."""
        self._record = _nobody

    def unrecorded(self) -> Patch:
        """Take in what the code has changed, and all that is recorded; return what is not."""
        is_behind, before = self._next < self._old, self.fields
        patch = self._settle()
        if self._latest is not None:
            return self._put_off_own(before, self._latest.tree) if patch else {}
        self._catch_up(self._old)
        if (log := self._log) is not None:
            self._log = None
            return diff(log.tree, self.fields)
        return {} if is_behind else patch

    def _settle(self) -> Patch:
        if not self._is_loaded:
            return {}
        before = self.fields
        patch = shorten(before, self._contexts.changes(before, self._live, self.lists))
        if patch and self._log is None and self._next < len(self._history):
            self._log = Fields(before)
        self._advance(patch)
        return patch

    @property
    @override
    def latest(self) -> JsonObject:
        return self.fields if self._latest is None else self._latest.tree

    @override
    def take_in(self, before: JsonObject, patch: Patch, key: str) -> Patch:
        if new := self.unrecorded():
            self._record(new, "")
        now = self.latest
        if now is not before:
            patch = self._contexts.rebase(Scope(self.path, before, self.lists), now, lengthen(before, patch))
        short = shorten(now, patch)
        if self._has_tasks():
            self.unheard[call_of(key)] = len(self._history)
            self._put_off(_Change(short, is_step=True))
        else:
            self._refresh(short)
        return short

    def _put_off(self, change: _Change) -> None:
        self._latest = self._latest or Fields(self.fields)
        self._latest.change(change.patch)
        self._history.append(change)

    def _put_off_own(self, before: JsonObject, latest: JsonObject) -> Patch:
        """Return what the code has just changed in ``before`` as a change of the latest, of which it does not know."""
        base = Scope(self.path, before, self.lists)
        merged = apply(self.fields, self._contexts.put_before(base, self.fields, diff(before, latest)))
        patch = shorten(latest, diff(latest, merged))
        self._put_off(_Change(patch, is_step=False))
        return patch

    def hear(self, key: str) -> None:
        """Take in what a call in ``unheard`` has changed: the code hears now that it has ended, or has cancelled it."""
        place = self.unheard.pop(key)
        if place < self._next:
            return
        self.note()
        self._catch_up(place + 1)
        if self._latest is not None and self._next == len(self._history):
            self._latest, self._next = None, self._old
            del self._history[self._old :]
            self.unheard.clear()  # of those before, too: later ones have been heard of

    @override
    def recall(self, completed: StepCompleted) -> None:
        self._settle()
        places = range(self._next, len(self._history))
        if (place := next((place for place in places if self._history[place] is completed), None)) is not None:
            self._catch_up(place + 1)
        elif all(fact is not completed for fact in self._history):  # else it was taken in with one that came after it
            self.change(completed.patch)

    @override
    def change(self, patch: Patch) -> None:
        if patch:
            self.note()
            self._apply(patch)

    def migrate(self, migration: Migration) -> None:
        """Take in what a migration changed: the code has come as far as it had then."""
        self._settle()
        self._catch_up(self._history.index(migration) + 1)

    def _catch_up(self, place: int) -> None:
        while self._next < place:
            fact = self._history[self._next]
            self._next += 1
            if isinstance(fact, StepCompleted) or (isinstance(fact, _Change) and fact.is_step):
                self._apply(fact.patch)
                continue
            if isinstance(fact, Migration):
                self._replace(fact.patch)
                continue
            self._log = self._log or Fields(self.fields)
            self._log.change(fact.patch)

    def _apply(self, patch: Patch) -> None:
        """Take in a change of the context as the log has it."""
        if self._log is not None and not diff(self._log.tree, self.fields):
            self._log = None
        if self._log is not None:
            before = self._log.tree
            self._log.change(patch)
            base = Scope(self.path, before, self.lists)
            patch = self._contexts.put_before(base, self.fields, lengthen(before, patch))
            patch = shorten(self.fields, patch)
        self._refresh(patch)

    def _replace(self, patch: Patch) -> None:
        """Take in a change as the log has it, instead of what the code has changed in the same fields."""
        if self._log is not None:
            patch = lengthen(self._log.tree, patch)
            self._log.change(patch)
            patch = shorten(self.fields, patch)
        self._refresh(patch)

    def _refresh(self, patch: Patch) -> None:
        self._advance(patch)
        if self._is_loaded:
            self._contexts.refresh(self._live, self._known, patch.keys() - self._gone, self.lists)


def _nobody(_: Patch, __: str) -> None:
    pass
