"""The graph, driven as its docstring says."""

from tests.examples.conftest import Terminal, until


def test_a_graph_decides_and_a_killed_one_asks_nobody_twice(terminal: Terminal) -> None:
    """A bureau that is down fails nobody, and what the action does not choose is skipped."""
    first = terminal.type("python examples/credit_check.py ann 12000 --employer-seconds 30")
    bob = terminal.type("python examples/credit_check.py bob 90000")
    first.says("asking the employer")
    show = "flujo-async runs show ann-12000 --db credit.db"
    until(lambda: terminal.succeeded(show, "ask_north") != [])
    first.dies()
    said = bob.ends()
    assert "asking the southern bureau" in said
    assert said[-2:] == ["not 90000 euros, at most 5300", "skipped: ask_employer pay_out"]

    again = terminal.type("python examples/credit_check.py ann 12000")
    chart = terminal.type("python examples/credit_check.py --chart")
    assert [line for line in again.ends() if line != "asking the southern bureau"] == [
        "asking the employer",
        "12000 euros for ann",
        "skipped: refuse",
    ]
    assert chart.ends()[0] == "flowchart TD"
