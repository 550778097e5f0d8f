"""Every error this package raises on purpose.

FlujoError
├── InvalidArgument        a bad argument of a call (also a ``ValueError``)
├── DefinitionError        the author's mistake: raised while a definition is being built
├── RunError               the run's fate
│   ├── RunFailed          a step failed for good; the step's exception is the ``__cause__``
│   ├── RunCancelled       the run was cancelled
│   ├── RunConflict        the ``run_id`` is taken by a run with another input or context
│   ├── RunNotFound        no run has this ``run_id``
│   ├── VersionMismatch    the run was recorded by another definition
│   ├── NonDeterminismError  the code of a workflow contradicts what is recorded
│   ├── DeserializationError  a recorded value does not fit its class (also a ``SerializationError``)
│   ├── InvalidSignal      an answer that is not valid, or comes too late
│   ├── WaitTimeout        nobody answered in time
│   ├── NoBranch           a selector chose a key that no branch has
│   ├── LoopExhausted      a loop made all its turns and was not done
│   ├── ContextConflict    two branches changed one field of the context
│   └── AllBranchesFailed  nothing was left of a parallel or a map that ignores failures
├── WrongEventLoop         a ``Flujo`` at work in another event loop, or in none of asyncio (also a ``RuntimeError``)
├── ProcessDied            the process of a step ended before the step was done
├── RecordedError          stands in for a recorded exception whose class is not known here
├── SerializationError     a value that cannot be stored or read back, with the path of the field
└── BackendError           the store's trouble
    ├── RunExists          ``create_run`` found the ``run_id`` taken
    ├── SequenceConflict   the log moved on since the caller read it
    ├── StaleLease         a newer owner has the run
    ├── IntegrityError     a log that is broken: bytes, order or hash
    └── SchemaTooNew       the store was written by a newer version of this package

The branch says whose fault it is, the sentence what to do; a driver's own error is the ``__cause__``.
"""

from __future__ import annotations

from typing import Any


class FlujoError(Exception):
    """The root of every error that this package raises on purpose. Copies and pickles keep all that it has."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self.args), vars(self)


def _made_again(cls: type[FlujoError], args: tuple[Any, ...]) -> FlujoError:
    """Return an error without its ``__init__``, which takes other arguments than those in ``args``."""
    return cls.__new__(cls, *args)


class InvalidArgument(FlujoError, ValueError):
    """An argument of a call is outside what it may be."""


class DefinitionError(FlujoError):
    """A step, a pipeline or a registration is wrong; nothing has run."""


class RunError(FlujoError):
    """Something about one run.

    Attributes:
        run_id: the run that this is about; empty where the error was raised by a part of a run that
            does not know it.
    """

    def __init__(self, message: str, *, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class RunFailed(RunError):
    """A run ended as ``failed``; the exception that ended it is the ``__cause__``.

    Attributes:
        result: the ``RunResult`` with what the run left: its steps, its context, the recorded error.
    """

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message, run_id=result.run_id)
        self.result = result


class RunCancelled(RunError):
    """A run ended as ``cancelled``.

    Attributes:
        result: the ``RunResult`` with what the run left.
    """

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message, run_id=result.run_id)
        self.result = result


class RunConflict(RunError):
    """The ``run_id`` belongs to a run with another input or context. Nothing was executed.

    Omit the input to resume the run without repeating it, or take another ``run_id``.
    """


class RunNotFound(RunError):
    """No run has this ``run_id``."""


class VersionMismatch(RunError):
    """The run was recorded by a definition that is not the one given. Nothing was executed.

    Register the recorded version as well, or give ``Flujo(migrate=…)``.
    """


class NonDeterminismError(RunError):
    """The code of a workflow asks for something else than it did when the run was recorded; the run is paused.

    What the workflow does between its steps must be the same in a replay. The code that recorded the run resumes it.
    """


class InvalidSignal(RunError):
    """An answer does not fit what is asked for, or the wait has another answer already. Nothing was consumed."""


class WaitTimeout(RunError):
    """Nobody answered a wait in time, and it has no default."""


class NoBranch(RunError):
    """A ``branch`` selector returned a key that no branch has, and there is no default."""


class LoopExhausted(RunError):
    """A ``loop`` made ``max_iterations`` turns and its ``until`` was never true."""


class ContextConflict(RunError):
    """Two branches changed the same field of the context, and the field names no reducer."""


class AllBranchesFailed(RunError):
    """Every member of a ``parallel`` or ``map_each`` with ``on_error="ignore"`` failed."""


class WrongEventLoop(FlujoError, RuntimeError):
    """The ``Flujo`` is at work in another event loop, or none of asyncio runs here; nothing was done.

    Make a ``Flujo`` for each event loop; they may share the backend. Only loops of asyncio will do: trio's is none.
    """


class ProcessDied(FlujoError):
    """The process in which a step was executed ended before the step was done: it exited, or was killed."""


class RecordedError(FlujoError):
    """A recorded exception whose class this process does not know.

    It is also an instance of those bases of that class that are known, so that what caught the exception catches this.

    Attributes:
        type_name: ``module:qualified name`` of the class that was raised.
        message: ``str()`` of the exception.
        traceback: the formatted traceback, as text.
        bases: the names of the exceptions that its class derived from, as in ``type_name``, nearest first.
    """

    bases: tuple[str, ...] = ()

    def __init__(self, type_name: str, message: str, traceback: str = "", bases: tuple[str, ...] = ()) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback
        self.bases = bases


class SerializationError(FlujoError):
    """A value that cannot be stored, or stored bytes that are not a value.

    Attributes:
        path: where in the value the trouble is, such as ``output.items[3].price``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.reason = message
        self.path = path


class DeserializationError(RunError, SerializationError):
    """A value that a run has recorded does not fit the classes that are here; the run is paused, and nothing is undone.

    Resume it where the class has its name, and takes what is recorded.

    Attributes:
        run_id: the run.
        path: where in the value the trouble is, beginning with the key of the step that returned or takes it.
    """

    def __init__(self, message: str, *, run_id: str, path: str) -> None:
        SerializationError.__init__(self, message, path=path)
        self.run_id = run_id


class BackendError(FlujoError):
    """The store could not do what was asked; the driver's error is the ``__cause__``."""


class RunExists(BackendError):
    """A run with this ``run_id`` is already stored; load it, or take another ``run_id``."""


class SequenceConflict(BackendError):
    """The log moved on since the caller read it: load again, then decide again."""


class StaleLease(BackendError):
    """A newer owner has the run: stop at once, nothing was written."""


class IntegrityError(BackendError):
    """A stored log is broken.

    Attributes:
        run_id: the run whose log it is.
        seq: the first fact that cannot be trusted; 0 if the run cannot be read at all.
        reason: what is wrong with it.
    """

    def __init__(self, message: str, *, run_id: str, seq: int) -> None:
        super().__init__(f"run {run_id!r}, seq {seq}: {message}")
        self.reason = message
        self.run_id = run_id
        self.seq = seq


class SchemaTooNew(BackendError):
    """The store was written by a newer version of this package: upgrade the package."""
