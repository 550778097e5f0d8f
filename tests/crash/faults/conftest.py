from collections.abc import Generator
from pathlib import Path

import pytest

from tests.crash.faults.shim import compiled

OUTCOMES = pytest.StashKey[dict[str, str]]()
"""How the tests of faults ended, by their names; ``failed`` if one of its cases did."""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    return compiled(tmp_path_factory.mktemp("shim"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.name == "test_what_the_page_names_has_passed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    outcomes = item.config.stash.setdefault(OUTCOMES, {})
    name = item.name.partition("[")[0]
    if report.failed or name not in outcomes:
        outcomes[name] = report.outcome
    return report
