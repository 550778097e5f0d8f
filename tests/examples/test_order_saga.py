"""The saga, driven as its docstring says."""

import sqlite3
from contextlib import closing

from tests.examples.conftest import Terminal

REFUSED = "failed: a piano is too heavy for us"


def deeds(terminal: Terminal, order_id: str) -> list[tuple[str, int]]:
    """Return what the warehouse and the bank have done for an order, in order."""
    with closing(sqlite3.connect(terminal.directory / "shop.db")) as database:
        query = "SELECT deed, euros FROM deeds WHERE order_id = ? ORDER BY rowid"
        return list(database.execute(query, (order_id,)))


def test_an_order_is_carried_out_or_undone(terminal: Terminal) -> None:
    lamp = terminal.type("python examples/order_saga.py o-1 lamp")
    assert lamp.ends()[-1] == "parcel o-1, from shelf L-7, 49 euros"
    piano = terminal.type("python examples/order_saga.py o-2 piano")
    assert piano.ends(1)[-1] == f"order o-2 {REFUSED}"

    assert deeds(terminal, "o-1") == [("reserve", 0), ("charge", 49), ("ship", 0)]
    assert deeds(terminal, "o-2") == [("reserve", 0), ("charge", 7900), ("refund", -7900), ("release", 0)]


def test_an_order_killed_twice_is_undone_once(terminal: Terminal) -> None:
    """Each process does what is left: what was done or undone before it, it does not touch."""
    first = terminal.type("python examples/order_saga.py o-3 piano --slow charge")
    first.says("charge o-3")
    first.dies()
    second = terminal.type("python examples/order_saga.py o-3 piano --slow refund")
    assert [second.says("") for _ in range(2)] == ["charge o-3\n", "refund o-3\n"]
    second.dies()

    last = terminal.type("python examples/order_saga.py o-3 piano").ends(1)
    assert last == ["refund o-3", "release o-3", f"order o-3 {REFUSED}"]
    assert deeds(terminal, "o-3") == [("reserve", 0), ("charge", 7900), ("refund", -7900), ("release", 0)]
    shown = "\n".join(terminal.type("flujo-async runs show o-3 --db orders.db").ends())
    assert "Claimed   3 times" in shown
    assert shown.index("charge/compensate") < shown.index("reserve/compensate")
