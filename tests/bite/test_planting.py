"""The session that plants bugs can tell a bug that is caught from one that is not, and its bugs fit the code."""

from pathlib import Path

import pytest

from tests.bite.bug import Bug, MovedOn, planted
from tests.bite.catalogue import BUGS
from tests.bite.planting import judge, try_bug

ROOT = Path(__file__).parents[2]

CODE = "def half(n: int) -> int:\n    return n // 2\n"
TEST = """
from pathlib import Path
from runpy import run_path

half = run_path(str(Path(__file__).with_name("flujo_async") / "half.py"))["half"]

def test_half():
    assert half(4) == 2
"""
INHERITED = "".join(path.read_text() for path in (ROOT / "flujo_async" / "testing").glob("contract_*.py"))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.id)
def test_each_bug_fits_the_code_and_names_tests_that_exist(bug: Bug) -> None:
    """Whoever moves the code hears of it here, long before the session runs."""
    planted(bug, (ROOT / "flujo_async" / bug.file).read_text())
    for test in bug.tests:
        path, *_, name = test.partition("[")[0].split("::")
        code = (ROOT / path).read_text()
        assert any(f"{keyword} {name}" in code + INHERITED for keyword in ("def", "class")), test


def test_bugs_have_names_of_their_own() -> None:
    assert len({bug.id for bug in BUGS}) == len(BUGS)


def test_a_bug_that_does_not_fit_is_refused() -> None:
    bug = Bug("memory.x", "", "half.py", "n // 2", "n", ())
    assert planted(bug, CODE) == CODE.replace("n // 2", "n")
    for code in ("", CODE + CODE):
        with pytest.raises(MovedOn, match=r"memory\.x"):
            planted(bug, code)


@pytest.mark.crash
@pytest.mark.parametrize(
    ("new", "verdict"), [("n // 3", "caught"), ("n >> 1", "SURVIVED"), ("n //", "BROKEN")], ids=str
)
def test_a_bug_is_caught_or_survives(tmp_path: Path, new: str, verdict: str) -> None:
    """And one that keeps the tests from being run proves nothing."""
    tree = tmp_path / "pristine"
    (tree / "flujo_async").mkdir(parents=True)
    (tree / "flujo_async" / "half.py").write_text(CODE)
    (tree / "test_half.py").write_text(TEST)
    bug = Bug("half.x", "", "half.py", "n // 2", new, ("test_half.py",))
    found = try_bug(tree, bug)
    assert found.verdict == verdict, found.message
    assert (tree / "flujo_async" / "half.py").read_text() == CODE


def test_tests_that_were_skipped_have_caught_nothing() -> None:
    assert judge(0, "1 skipped in 0.1s").verdict == "not tried"
    assert judge(0, "1 passed, 1 skipped in 0.1s").verdict == "SURVIVED"
    assert judge(4, "ERROR: not found: tests/x.py::test_gone").verdict == "BROKEN"
