"""What a check of a store found, and what a store tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Broken:
    """A run that cannot be trusted, or not even be read.

    Attributes:
        run_id: the run; empty where not even that can be told.
        seq: the first fact that cannot be trusted; 0 if the run cannot be read at all.
        reason: what is wrong.
    """

    run_id: str
    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check of one run, or of all runs of a store, found.

    Attributes:
        ok: whether nothing is broken.
        runs: how many runs were checked.
        facts: how many facts they have.
        broken: the runs that are not as they were written, the first fault of each.
    """

    ok: bool
    runs: int
    facts: int
    broken: list[Broken] = field(default_factory=list[Broken])


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The form in which a store keeps what it keeps.

    Attributes:
        stored: the version of what is there; 0 if nothing is there yet.
        newest: the version that this package writes, which is not older.
    """

    stored: int
    newest: int

    @property
    def is_old(self) -> bool:
        """Whether what is there has to be upgraded before it can be used."""
        return 0 < self.stored < self.newest


@dataclass(frozen=True, slots=True)
class StorePart:
    """Things of one kind in a store.

    Attributes:
        name: what they are, in the words of the store.
        count: how many.
        size: how many bytes they take, indexes included; ``None`` if that is not known.
    """

    name: str
    count: int
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreReport:
    """What a store tells of itself, whatever its runs say.

    Attributes:
        schema: its form; ``None`` if there is only one.
        size: how many bytes it takes on the disk, with all that lies beside it; ``None`` if that is not known.
        free: how many of them are left over from what was deleted.
        unsettled: how many of them wait in a write-ahead log to be moved to their places.
        parts: what is in it, the largest first.
        damages: what its own check found wrong; nothing in a sound store.
    """

    schema: SchemaVersion | None = None
    size: int | None = None
    free: int = 0
    unsettled: int = 0
    parts: tuple[StorePart, ...] = ()
    damages: tuple[str, ...] = ()
