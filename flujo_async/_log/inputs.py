"""Where the input of a step came from, as its log tells."""

from __future__ import annotations

from flujo_async._codec.items import entry_trees, item_trees, mapping_tree
from flujo_async._log.fold import Fold
from flujo_async._log.keys import RUN_INPUT, split_source
from flujo_async._model.facts import SignalReceived, StepCompleted, StepFailed
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError


def input_of(fold: Fold, outcome: StepCompleted | StepFailed) -> Json:
    """Return the encoded input of a finished step.

    Raises:
        SerializationError: its source is not in the log.
    """
    if outcome.inputs:
        return mapping_tree({name: _argument(fold, argument) for name, argument in outcome.inputs.items()})
    return outcome.input if outcome.source is None else _at_source(fold, outcome.source)


def _argument(fold: Fold, argument: Json) -> Json:
    match argument:
        case ["from", str(source)]:
            return _at_source(fold, source)
        case ["is", tree]:
            return tree
        case _:
            raise SerializationError(f"not an argument: {argument!r}")


def _at_source(fold: Fold, source: str) -> Json:
    key, part = split_source(source)
    value = _value_at(fold, key)
    if part is None:
        return value
    return item_trees(value)[part] if isinstance(part, int) else entry_trees(value)[part]


def _value_at(fold: Fold, key: str) -> Json:
    if key == RUN_INPUT:
        return fold.started.input
    answer = fold.answers.get(key)
    if isinstance(answer, SignalReceived):
        return answer.payload
    source = fold.outcomes.get(key)
    if not isinstance(source, StepCompleted):
        raise SerializationError(f"an input comes from step {key!r}, which is not in the log")
    return source.output
