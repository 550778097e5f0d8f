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


def test_an_order_is_carried_out_or_undone_however_often_it_is_killed(terminal: Terminal) -> None:
    """Each process does what is left: what was done or undone before it, it does not touch."""
    first = terminal.type("python examples/order_saga.py o-3 piano --slow charge")
    lamp = terminal.type("python examples/order_saga.py o-1 lamp")
    first.says("charge o-3")
    first.dies()
    assert lamp.ends()[-1] == "parcel o-1, from shelf L-7, 49 euros"

    second = terminal.type("python examples/order_saga.py o-3 piano --slow refund")
    piano = terminal.type("python examples/order_saga.py o-2 piano")
    assert [second.says("") for _ in range(2)] == ["charge o-3\n", "refund o-3\n"]
    second.dies()
    assert piano.ends(1)[-1] == f"order o-2 {REFUSED}"

    last = terminal.type("python examples/order_saga.py o-3 piano").ends(1)
    assert last == ["refund o-3", "release o-3", f"order o-3 {REFUSED}"]
    shown = terminal.show("flujo-async runs show o-3 --db orders.db")
    assert [record["key"] for record in shown["steps"]][-2:] == ["charge/compensate", "reserve/compensate"]
    assert deeds(terminal, "o-1") == [("reserve", 0), ("charge", 49), ("ship", 0)]
    for order_id in ("o-2", "o-3"):
        assert deeds(terminal, order_id) == [("reserve", 0), ("charge", 7900), ("refund", -7900), ("release", 0)]
