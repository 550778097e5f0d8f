"""Prints which method of the state API passes the contract on which store: ``python -m tests.contract.matrix``.

It runs the contract, and counts the tests in which a method is called, as their source says.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter

import pytest

from flujo_async.abc.state_api import StateApi

BESIDE = ("set_system_state", "get_system_state", "delete_run", "shutdown", "put_entries", "read_entries")
FOUND = ("known_runs", "ended_runs")
METHODS = (*(name for name in vars(StateApi) if not name.startswith("_") and name not in FOUND), *BESIDE)
"""All, but for what the lists and the clean-up of runs are made of."""

_CALLED = re.compile(r"\b(" + "|".join(METHODS) + r")\(")


class Matrix:
    """What became of the tests of each method, by store."""

    def __init__(self) -> None:
        self.called: dict[str, set[str]] = {}
        self.found: dict[tuple[str, str], Counter[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            source = inspect.getsource(item.function) if isinstance(item, pytest.Function) and item.cls else ""
            self.called[item.nodeid] = set(_CALLED.findall(source))
        items[:] = [item for item in items if self.called[item.nodeid]]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            store = report.nodeid.split("::")[1].removeprefix("Test")
            for method in self.called[report.nodeid]:
                self.found.setdefault((method, store), Counter())[report.outcome] += 1

    def table(self) -> str:
        stores = sorted({store for _, store in self.found})
        lines = ["| method | " + " | ".join(stores) + " |", "|---" * (len(stores) + 1) + "|"]
        for method in METHODS:
            cells = [_cell(self.found.get((method, store), Counter())) for store in stores]
            lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _cell(found: Counter[str]) -> str:
    if found["failed"]:
        return f"{found['failed']} of {found.total()} FAILED"
    return f"{found['passed']} passed" if found["passed"] else "–"


def main() -> int:
    matrix = Matrix()
    paths = [f"tests/contract/test_{name}.py" for name in ("memory", "file", "sqlite", "three_methods")]
    # pytest warns that this program has imported a plugin before it did.
    quiet = ["-q", "--no-summary", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-k", "Test"]
    status = pytest.main([*quiet, *paths], [matrix])
    print(matrix.table())
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
