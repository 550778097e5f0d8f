"""The page of faults names tests that exist, and that pass; each test of a fault is named there."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash.faults.conftest import OUTCOMES

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "faults.md"
STORES = {"memory", "file", "sqlite", "normal"}
_TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


class Row(NamedTuple):
    """A row of the table."""

    fault: str
    stores: set[str]
    seen: str
    lost: str
    tests: list[str]


def rows() -> list[Row]:
    """Return the table of the page."""
    lines = [line.strip("|") for line in PAGE.read_text().splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.split("|")] for line in lines][2:]
    return [Row(row[0], set(row[1].split(", ")), row[2], row[3], re.findall(r"`(test_\w+)`", row[4])) for row in table]


def defined(directory: Path) -> set[str]:
    """Return the names of the tests below a directory."""
    return {name for path in directory.rglob("test_*.py") for name in _TEST.findall(path.read_text())}


def test_each_row_says_all_and_names_tests_that_exist() -> None:
    known = defined(ROOT / "tests")
    for row in rows():
        assert all([row.fault, row.seen, row.lost, row.tests]), row
        assert row.stores <= STORES, row
        assert set(row.tests) <= known, row


def test_each_test_of_a_fault_is_named() -> None:
    named = {name for row in rows() for name in row.tests}
    assert defined(Path(__file__).parent) - _TEST_OF_THE_PAGE - named == set()


@pytest.mark.crash
def test_what_the_page_names_has_passed(request: pytest.FixtureRequest) -> None:
    """Of what its process was to run; this test comes last of all faults there."""
    outcomes = request.config.stash[OUTCOMES]
    failed = {name for row in rows() for name in row.tests if outcomes.get(name) == "failed"}
    assert failed == set()


_TEST_OF_THE_PAGE = set(_TEST.findall(Path(__file__).read_text()))
