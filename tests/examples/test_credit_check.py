"""The graph, driven as its docstring says."""

from tests.examples.conftest import Terminal, until


def test_what_an_action_does_not_choose_is_skipped(terminal: Terminal) -> None:
    """A bureau that is down fails nobody."""
    ann = terminal.type("python examples/credit_check.py ann 12000")
    bob = terminal.type("python examples/credit_check.py bob 90000")
    chart = terminal.type("python examples/credit_check.py --chart")
    said = ann.ends()
    assert "asking the southern bureau" in said
    assert said[-2:] == ["12000 euros for ann", "skipped: refuse"]
    assert bob.ends()[-2:] == ["not 90000 euros, at most 5300", "skipped: ask_employer pay_out"]
    assert chart.ends()[0] == "flowchart TD"


def test_a_killed_check_asks_nobody_twice_who_has_answered(terminal: Terminal) -> None:
    first = terminal.type("python examples/credit_check.py cyd 12000 --employer-seconds 30")
    first.says("asking the employer")
    show = "flujo-async runs show cyd-12000 --db credit.db"
    until(lambda: terminal.succeeded(show, "ask_north") != [])
    first.dies()
    again = terminal.type("python examples/credit_check.py cyd 12000")
    said = again.ends()
    assert [line for line in said if line != "asking the southern bureau"] == [
        "asking the employer",
        "12000 euros for cyd",
        "skipped: refuse",
    ]
