"""The worker fleet, driven as its docstring says."""

from collections import Counter

from tests.examples.conftest import Terminal, until


def test_what_a_killed_worker_had_in_hand_is_done_by_others(terminal: Terminal) -> None:
    """All 200 are done; each once, and by the one who took it, save those whose worker was killed."""
    terminal.type("python examples/worker_fleet.py dispatch 200").ends()
    hanging = terminal.type("python examples/worker_fleet.py work --pdf-seconds 60")
    until(lambda: len(terminal.in_hand("invoices.db")) == 20)
    express = {f"invoice-{number}" for number in range(10, 201, 10)}
    assert set(terminal.in_hand("invoices.db")) == express

    others = [
        terminal.type("python examples/worker_fleet.py work"),
        terminal.type("python examples/worker_fleet.py work --queue invoices --queue reminders"),
    ]
    until(lambda: len(terminal.lines("sent.txt")) == 180)
    until(lambda: set(terminal.in_hand("invoices.db")) == express)
    hanging.dies()
    until(lambda: len(terminal.lines("sent.txt")) >= 200)
    for worker in others:
        worker.terminate()
        worker.ends()

    assert terminal.type("python examples/worker_fleet.py status").ends() == [
        "invoices completed 190",
        "reminders completed 10",
    ]
    assert terminal.type("wc -l sent.txt").ends() == ["200 sent.txt"]
    sent = [line.split() for line in terminal.lines("sent.txt")]
    assert Counter(int(number) for _, number, _ in sent) == dict.fromkeys(range(1, 201), 1)
    assert len({key for key, _, _ in sent}) == 200
    senders = {int(pid) for _, _, pid in sent}
    assert senders <= {worker.pid for worker in others}
