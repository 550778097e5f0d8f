"""The fixtures, the options and the marker of the pytest plugin."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.children import ROOT

pytest_plugins = ["pytester"]

DEFINITIONS = """
import itertools
from flujo_async import Flujo, step, workflow

numbers = itertools.count()

@step
async def double(n: int) -> int:
    return n * 2

@workflow
async def order(n: int) -> int:  # asks for another step each time
    return await double(await double(n + next(numbers)))
"""

FIXTURES = """
import pytest
from definitions import double, Flujo
from flujo_async import sleep
from flujo_async.errors import BackendError

{mark}
async def test_a_run_sleeps(flujo_backend, virtual_clock):
    async with Flujo(sleep(3600) >> double, state_backend=flujo_backend, clock=virtual_clock) as flujo:
        handle = await flujo.start(1, run_id="r")
        await virtual_clock.until_asleep()
        virtual_clock.advance(3600)
        assert (await handle.result(timeout=20)).output == 2

{mark}
async def test_a_store_fails(faulty_backend, flujo_backend):
    faulty_backend.fail("append")
    with pytest.raises(BackendError):
        await Flujo(double, state_backend=faulty_backend).run(1, run_id="r")
    assert faulty_backend.inner is flujo_backend

{mark}
async def test_crashes(crash_explorer):
    assert (await crash_explorer(double, 1).check()).worlds == 4

def test_the_store_is_the_one_asked_for(flujo_backend):
    print(type(flujo_backend).__name__)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(definitions=DEFINITIONS)
    pytester.syspathinsert()
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    scope = "asyncio_default_fixture_loop_scope=function"
    return project.runpytest_inprocess("-p", "pytest_flujo_async", "--strict-markers", "-o", scope, *arguments)


def test_the_fixtures_work_where_asyncio_tests_are_found_by_themselves(project: pytest.Pytester) -> None:
    """On memory, unless it is told otherwise."""
    project.makepyfile(FIXTURES.format(mark=""))
    result = run(project, "--asyncio-mode=auto", "-s")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*InMemoryBackend*"])


def test_the_fixtures_work_where_asyncio_tests_are_marked(project: pytest.Pytester) -> None:
    """On each of several stores, which the command line names."""
    project.makepyfile(FIXTURES.format(mark="@pytest.mark.asyncio"))
    result = run(project, "--asyncio-mode=strict", "--flujo-backend=file", "--flujo-backend=sqlite", "-s")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["*FileBackend*", "*SQLiteBackend*"])


def test_the_ini_file_names_the_store(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nflujo_backend = sqlite")
    project.makepyfile("def test_it(flujo_backend):\n    assert type(flujo_backend).__name__ == 'SQLiteBackend'")
    run(project).assert_outcomes(passed=1)


def test_an_ini_file_that_names_no_store_is_refused(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nflujo_backend = postgres")
    result = run(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*postgres: choose of memory, file, sqlite*"])


REPLAYS = """
import pytest
from definitions import Flujo, order
from flujo_async.errors import NonDeterminismError

async def test_plain():
    await Flujo(order).run(1)

@pytest.mark.flujo_always_replay
async def test_marked():
    with pytest.raises(NonDeterminismError):
        await Flujo(order).run(1)

@pytest.mark.flujo_always_replay(False)
async def test_marked_not_to():
    await Flujo(order).run(1)
"""


def test_a_marker_replays_the_workflows_of_one_test(project: pytest.Pytester) -> None:
    project.makepyfile(REPLAYS)
    run(project, "--asyncio-mode=auto").assert_outcomes(passed=3)


def test_an_option_replays_the_workflows_of_all_tests(project: pytest.Pytester) -> None:
    """Except for those that are marked not to."""
    project.makepyfile(REPLAYS)
    run(project, "--asyncio-mode=auto", "--flujo-always-replay").assert_outcomes(passed=2, failed=1)


NOTHING_HEAVY = """
import sys
import pytest_flujo_async
assert "flujo_async" not in sys.modules and "pydantic" not in sys.modules
"""

WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = sys.modules["pytest_asyncio"] = None  # as if they were not installed
from flujo_async.testing import CrashExplorer, FaultyBackend, VirtualClock
try:
    from flujo_async.testing import BackendContract
except ImportError as error:
    assert "pip install 'flujo-async[testing]'" in str(error), error
else:
    raise AssertionError
"""


@pytest.mark.parametrize("code", [NOTHING_HEAVY, WITHOUT_PYTEST], ids=["the plugin", "without pytest"])
def test_nothing_is_imported_that_is_not_needed(code: str, tmp_path: Path) -> None:
    """Every session of pytest loads the plugin; and what needs no pytest works without it."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
