"""The web service, driven as its docstring says."""

import json
import re
import shlex
import signal
from itertools import pairwise

import httpx

from tests.examples.conftest import EXAMPLES, PATIENCE, Running, Terminal, commands

TOLD = commands(EXAMPLES / "web_service.py")
ORDER = """curl localhost:8000/orders --json '{"id": "o-1", "motif": "harbour", "copies": 300}'"""
LOOK = "curl localhost:8000/orders/o-1"
FOLLOW = "curl -N localhost:8000/orders/o-1/events"
APPROVE = """curl localhost:8000/orders/o-1/approval --json '{"granted": true, "by": "Ann"}'"""
FOLLOW_ON = "curl -N localhost:8000/orders/o-1/events -H 'Last-Event-ID: 3'"


class Server:
    """A server on a free port."""

    def __init__(self, running: Running) -> None:
        self.running = running
        address = re.search(r"http://\S+", running.says("Uvicorn running on"))
        assert address
        self._address = address[0]

    def curl(self, command: str) -> httpx.Response:
        """Do what curl would do."""
        assert command in TOLD
        words = shlex.split(command)
        options = dict(pairwise(words))
        path = next(word for word in words if word.startswith("localhost:")).partition("/")[2]
        name, _, value = options.get("-H", "").partition(": ")
        method = "POST" if "--json" in options else "GET"
        headers = {name: value} if name else {}
        with httpx.Client(base_url=self._address, timeout=PATIENCE, trust_env=False) as http:
            return http.request(method, path, content=options.get("--json"), headers=headers)

    def kinds(self, command: str) -> list[str]:
        """Return the kinds of the events that a follower is told."""
        return re.findall(r"^event: (\w+)$", self.curl(command).text, re.MULTILINE)


def test_an_order_outlives_two_servers(terminal: Terminal) -> None:
    """Accepted by one, approved at the next, which is killed while it prints; completed by the third, unasked."""
    uvicorn = "uvicorn --app-dir examples web_service:app --port 8000"
    first = Server(terminal.type(uvicorn, **{"8000": "0"}))
    assert first.curl(ORDER).status_code == 202
    assert first.kinds(FOLLOW) == ["RunStarted", "StepCompleted", "WaitStarted", "RunPaused"]
    assert first.curl(ORDER).status_code == 202  # a client that got no answer: nothing is started twice
    first.running.dies()

    slow = "PRINTER_SECONDS=30 uvicorn --app-dir examples web_service:app --port 8000"
    second = Server(terminal.type(slow, **{"8000": "0"}))
    assert second.curl(LOOK).json() == {"status": "paused", "questions": ["Print 300 copies of harbour?"]}
    assert second.curl(APPROVE).status_code == 202
    second.running.says("printing harbour.tiff")
    second.running.dies()

    third = Server(terminal.type(uvicorn, **{"8000": "0"}))
    events = third.curl(FOLLOW_ON).text
    told = [json.loads(data)["data"] for data in re.findall(r"^data: (.*)$", events, re.MULTILINE)]
    assert events.startswith("id: 4\n")
    assert [data for data in told if data is not None] == [
        {"printing": 300},
        300,
        "parcel o-1",
        "parcel o-1",
    ]  # of the last step, and of the run
    assert third.curl(LOOK).json() == {"status": "completed", "questions": [], "output": "parcel o-1"}
    third.running.terminate()
    said = [*third.running.said, *third.running.ends(-signal.SIGTERM)]  # it goes on with the order when it starts
    assert [line for line in said if re.match("rendering|printing|sending", line)] == [
        "printing harbour.tiff",
        "sending o-1",
    ]
