"""The support agent, driven as its docstring says."""

import pytest

from tests.examples.conftest import Terminal, until

QUESTION = "waiting for signal 'approval of c2': refund with {'order': 'A-1001', 'euros': 49}?"


@pytest.mark.parametrize("became", ["paid", pytest.param("unpaid", marks=pytest.mark.crash)])
def test_a_refund_that_was_interrupted_is_settled_by_a_person(terminal: Terminal, became: str) -> None:
    """Killed while the bank has the request: nothing is paid, and nothing asked of the model, a second time."""
    asks = 'python examples/support_agent.py open t-1 "My lamp arrived broken, order A-1001. I want my money back."'
    assert terminal.type(asks).ends() == ["asking the model", "asking the model", QUESTION]

    approving = terminal.type("python examples/support_agent.py approve t-1 Ann --bank-seconds 30")
    assert approving.says("") == "refunding 49 euros for A-1001\n"
    until(lambda: terminal.lines("payouts.txt") != [])
    approving.dies()
    (answered,) = terminal.show("flujo-async audit --db support.db --event signal.received")
    assert answered["by"] == "Ann"
    shown = terminal.type("python examples/support_agent.py show t-1").ends()
    assert shown[0].startswith("waiting for decision 'refund': ")
    assert shown[0].endswith("retry it, or skip it?")

    if became == "unpaid":
        (terminal.directory / "payouts.txt").unlink()  # the bank never got it
    settles = terminal.type("python examples/support_agent.py settle t-1 paid", paid=became).ends()
    told = {"paid": "the money is on its way to you", "unpaid": "49 euros are on their way to you"}[became]
    again = {"paid": [], "unpaid": ["refunding 49 euros for A-1001"]}[became]
    assert settles == [*again, "asking the model", f"answer: I have looked into it: {told}."]
    assert terminal.lines("payouts.txt") == ["49 euros for A-1001"]
