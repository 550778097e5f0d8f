"""The errors of this package, whoever hands them on."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from flujo_async import Flujo, errors, step, wait_for


@step
async def broken(value: int) -> int:
    raise ValueError("broken")


async def raised(failing: Any) -> errors.FlujoError:
    with pytest.raises(errors.FlujoError) as caught:
        await failing
    return caught.value


async def one_of(cls: type[errors.FlujoError]) -> errors.FlujoError:
    """Return an error of a class, with something in all that it has."""
    flujo = Flujo(wait_for("answer"))
    if cls is errors.RunFailed:
        return await raised(Flujo(broken).run(1))
    if cls is errors.RunCancelled:
        await flujo.run(run_id="r")
        await flujo.cancel("r")
        return await raised(flujo.run(run_id="r"))
    made: Any = cls
    given: dict[str, Any] = {"type_name": "a:B", "traceback": "lines", "bases": ("a:A",), "run_id": "r", "seq": 3}
    given |= {"message": "what", "path": "output.items[3]"}
    named = getattr(made.__init__, "__annotations__", {}).keys() & given.keys()
    return made(**{name: given[name] for name in named}) if named else made("what")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "cls", [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.FlujoError)]
)
async def test_every_error_can_be_copied_and_pickled(
    cls: type[errors.FlujoError], again: Callable[[errors.FlujoError], errors.FlujoError]
) -> None:
    """Those too whose ``__init__`` takes other arguments than the message: a pool of processes hands them on."""
    error = await one_of(cls)
    error.add_note("noted")
    back = again(error)
    assert type(back) is type(error)
    assert (str(back), back.args) == (str(error), error.args)
    assert {name: repr(value) for name, value in vars(back).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }
