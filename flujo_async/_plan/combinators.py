"""The functions that put steps together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, TypeAlias, TypeVar, get_args, overload

from flujo_async._log.keys import escape, number_repeated
from flujo_async._model.policy import Duration, check_timer, is_count
from flujo_async._model.text import is_text
from flujo_async._plan.nodes import Block, Branch, Child, Loop, MapEach, OnError, Parallel, Question, Sleep, WaitFor
from flujo_async._plan.pipeline import Chain, as_body, as_pipeline, check_flow, check_name, check_signal_name
from flujo_async._plan.signature import is_coroutine_function, takes_context
from flujo_async.errors import DefinitionError

In = TypeVar("In")
Out = TypeVar("Out")
Answer = TypeVar("Answer")
Default = TypeVar("Default")

Ask: TypeAlias = Callable[[In], Any] | Callable[[In, Any], Any]
"""A question about a value, or about a value and the context."""

_DEFAULT_CASE: Final = "default"


def parallel(
    *branches: Chain[In, Any], max_concurrency: int | None = None, on_error: OnError = "cancel"
) -> Chain[In, dict[str, Any]]:
    """Give the same input to several branches at once; the output is a ``dict`` name → output, in declared order.

    A branch is called like its step, or like its pipeline (``as_step(pipeline, name=…)`` names one).

    Args:
        *branches: steps and pipelines; one or more.
        max_concurrency: how many run at the same time; ``None`` is all of them.
        on_error: what the failure of a branch does: ``"cancel"`` its siblings and fail, let them ``"finish"``
            and then fail, or ``"ignore"`` it: it is absent from the output (fails if all fail).

    Raises:
        DefinitionError: no branches, two of one name, or a value out of range.
    """
    _check_group("parallel", max_concurrency, on_error)
    if not branches:
        raise DefinitionError("parallel() needs at least one branch")
    pipelines = [as_body(branch, "parallel()") for branch in branches]
    names = [pipeline.name for pipeline in pipelines]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"two branches of parallel() are called {name!r}; as_step(…, name=…) renames one")
    return Parallel(
        branches=tuple(zip(names, pipelines, strict=True)), max_concurrency=max_concurrency, on_error=on_error
    )


def map_each(
    body: Chain[In, Out], *, max_concurrency: int | None = None, on_error: OnError = "cancel"
) -> Chain[Iterable[In], list[Out]]:
    """Run every item of the input through ``body``; the output is a list in the order of the items.

    The input is a list, a tuple, a set or a frozenset. ``[]`` gives ``[]``.

    Args:
        body: what is done with each item.
        max_concurrency: how many items at the same time; ``None`` is all of them.
        on_error: as in ``parallel``; items whose failure is ignored are absent from the list.

    Raises:
        DefinitionError: a value out of range.
    """
    _check_group("map_each", max_concurrency, on_error)
    return MapEach(body=as_body(body, "map_each()"), max_concurrency=max_concurrency, on_error=on_error)


def branch(
    selector: Ask[In], cases: Mapping[Any, Chain[In, Out]], default: Chain[In, Out] | None = None
) -> Chain[In, Out]:
    """Choose one of several pipelines by the key that ``selector`` returns.

    Args:
        selector: gets the value, and the context if it requires a second argument; its answer is recorded.
        cases: the pipelines by key.
        default: the pipeline for every other key; without one such a key is ``NoBranch``.

    Raises:
        DefinitionError: no cases, or a selector that cannot be called.
    """
    question = _question(selector, "the selector of branch()")
    if not isinstance(cases, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise DefinitionError(f"branch() takes a mapping of its cases by key, not {cases!r}")
    if not cases:
        raise DefinitionError("branch() needs at least one case")
    labels = number_repeated([_label(key) for key in cases])
    pipelines = [as_body(case, "branch()") for case in cases.values()]
    chosen = list(zip(labels, pipelines, strict=True))
    if default is not None:
        chosen.append((_free_label(labels), as_body(default, "branch()")))
    return Branch(
        selector=question,
        keys=tuple(zip(cases, labels, strict=True)),
        cases=tuple(chosen),
        default=chosen[-1][0] if default is not None else None,
    )


def loop(body: Chain[In, In], *, until: Ask[In], max_iterations: int) -> Chain[In, In]:
    """Run ``body`` again and again, each time on its own output, until ``until`` is true.

    Args:
        body: one turn.
        until: gets the output of a turn, and the context if it requires a second argument; its answer is
            recorded.
        max_iterations: how many turns there may be; if none of them satisfies ``until``, ``LoopExhausted``.

    Raises:
        DefinitionError: a value out of range, or a body that cannot take its own output.
    """
    question = _question(until, "until= of loop()")
    if not is_count(max_iterations):
        raise DefinitionError(f"loop() makes at least one turn, not max_iterations={max_iterations!r}")
    turn = as_body(body, "loop()")
    check_flow(turn.outlets(), turn.inlets())
    return Loop(body=turn, until=question, max_iterations=max_iterations)


def as_step(pipeline: Chain[In, Out], *, name: str) -> Chain[In, Out]:
    """Use a pipeline as one element of another, under a name of its own. Its inner steps are recorded.

    Raises:
        DefinitionError: the name is empty, or has a character that keys are made with: ``/ @ [ ]``.
    """
    check_name(name, "as_step()")
    return Block(body=as_body(pipeline, "as_step()"), name=name)


@overload
def wait_for(
    name: str, *, schema: type[Answer], prompt: str | None = None, timeout: Duration | None = None
) -> Chain[Any, Answer]: ...


@overload
def wait_for(
    name: str, *, schema: type[Answer], prompt: str | None = None, timeout: Duration, default: Default
) -> Chain[Any, Answer | Default]: ...


@overload
def wait_for(
    name: str,
    *,
    schema: Any = None,
    prompt: str | None = None,
    timeout: Duration | None = None,
    default: Any = ...,
) -> Chain[Any, Any]: ...


def wait_for(
    name: str,
    *,
    schema: Any = None,
    prompt: str | None = None,
    timeout: Duration | None = None,
    default: Any = ...,
) -> Chain[Any, Any]:
    """Pause the run until somebody answers with ``signal(run_id, name, payload)``; the payload is the output.

    Args:
        name: what the answer is called.
        schema: what the payload has to be: a type such as a pydantic model, by which it is validated; ``None`` takes
            anything that can be stored.
        prompt: what to ask a person.
        timeout: how long to wait, a ``timedelta`` or seconds; then comes ``default``, or ``WaitTimeout`` fails the run.
        default: the output when the time is over.

    Raises:
        DefinitionError: a name that cannot stand in a key, a prompt that is no text of Unicode, a default without a
            timeout, or a value out of range.
    """
    check_signal_name(name)
    if prompt is not None and not is_text(prompt):
        raise DefinitionError(f"wait_for({name!r}): prompt is a text, not {prompt!r}")
    if default is not ... and timeout is None:
        raise DefinitionError(f"wait_for({name!r}): a default is for when the time is over; give a timeout as well")
    limit = None if timeout is None else check_timer(timeout, f"wait_for({name!r}): timeout")
    return WaitFor(name=name, schema=schema, prompt=prompt, timeout=limit, default=default)


def sleep(duration: Duration) -> Chain[Any, Any]:
    """Sleep, durably: the run leaves memory, and goes on when the time is over, whatever restarts in between.

    Args:
        duration: how long, a ``timedelta`` or seconds. The input passes through.

    Raises:
        DefinitionError: not a duration, negative, or longer than a thousand years.
    """
    return Sleep(duration=check_timer(duration, "sleep()"))


def child(pipeline: Chain[In, Out], *, name: str | None = None) -> Chain[In, Out]:
    """Run a pipeline as a run of its own, and return its output.

    The child run has the run as its ``parent_run_id``. If it fails, its ``RunFailed`` fails the step.

    Args:
        pipeline: a pipeline, a step or a workflow.
        name: what the child is called in keys and as a definition; the pipeline's name by default.

    Raises:
        DefinitionError: it is neither, or the name cannot stand in a key.
    """
    body = as_pipeline(pipeline, "child()")
    if name is not None:
        check_name(name, "child()")
    return Child(body=body, name=name or body.name)


def _question(function: Callable[..., Any], place: str) -> Question:
    if not callable(function):
        raise DefinitionError(f"{place} is a function, not {function!r}")
    if is_coroutine_function(function):
        raise DefinitionError(f"{place} is a plain function: what has to be awaited belongs into a step")
    return Question(function, takes_context(function, place))


def _check_group(kind: str, max_concurrency: int | None, on_error: str) -> None:
    if max_concurrency is not None and not is_count(max_concurrency):
        raise DefinitionError(f"{kind}(): max_concurrency is at least 1, not {max_concurrency!r}")
    if on_error not in get_args(OnError):
        raise DefinitionError(f"{kind}(): on_error is one of {', '.join(get_args(OnError))}, not {on_error!r}")


def _label(key: object) -> str:
    """Return a key as a label that every process agrees on; the text of other objects may have an address in it."""
    return escape(str(key)) if isinstance(key, str | int | float | Enum | None) else type(key).__name__


def _free_label(taken: list[str]) -> str:
    label = _DEFAULT_CASE
    while label in taken:
        label += "_"
    return label
