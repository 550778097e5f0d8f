"""What a run leaves to its caller: its steps are worked out when somebody asks for them."""

import copy
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from flujo_async import Flujo, RunResult, StepStatus, step


@step
async def more(number: int) -> int:
    return number + 1


async def outcome() -> RunResult[int]:
    return await Flujo(more >> more).run(1, run_id="r")


async def test_the_steps_are_those_of_the_run_and_the_same_each_time() -> None:
    result = await outcome()
    steps = result.steps
    assert [(record.input, record.output, record.status) for record in steps] == [
        (1, 2, StepStatus.SUCCEEDED),
        (2, 3, StepStatus.SUCCEEDED),
    ]
    assert result.steps is steps


@pytest.mark.parametrize("copied", [copy.copy, replace])
async def test_a_copy_has_them_whether_they_were_read_before_or_not(copied: Any) -> None:
    result = await outcome()
    other = copied(result)
    assert [record.output for record in other.steps] == [2, 3]
    assert other == result


async def test_they_are_shown_as_any_field() -> None:
    assert "key='more@1'" in repr(await outcome())


async def test_they_cannot_be_replaced() -> None:
    with pytest.raises(FrozenInstanceError):
        (await outcome()).steps = []  # type: ignore[misc]
