"""The one door to every check: `nox` runs what CI runs, `nox -l` lists the rest."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
SOURCES = ("flujo_async", "pytest_flujo_async.py", "tests", "benchmarks", "examples", "docs/hooks", "noxfile.py")
CODE = [name for name in SOURCES if Path(name).exists()]
# A test often waits for a process or for the disk, hence workers; with many, tests of real processes starve.
IN_PARALLEL = ("--numprocesses=3", "--dist=worksteal")
ROOM = 2**30


def group(name: str) -> tuple[str, ...]:
    """Return what a dependency group holds; pip learned to read groups only lately."""
    return nox.project.dependency_groups(PYPROJECT, name)


def in_memory() -> dict[str, str]:
    """Return the environment of tests that keep their files in memory, where there is room for them.

    It makes no difference to what they show: what a killed process has written is there in either case, and power cuts
    are played. They wait for nothing, though. `crash` uses the disk that there is.
    """
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    return {"TMPDIR": str(memory)} if has_room and "TMPDIR" not in os.environ else {}


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after `--` go to pytest (`-n0`: in one process, whose output is seen at once)."""
    session.install("-e", ".[cli]", *group("test"))
    session.run("pytest", *IN_PARALLEL, "-m", "not crash", "--ignore=tests/docs", *session.posargs, env=in_memory())


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    session.install("-e", ".[cli]", *group("lint"))
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright, and that every public name has one."""
    session.install("-e", ".[cli]", *group("types"))
    session.run(
        "mypy", "flujo_async", "pytest_flujo_async.py", *(["tests/typing"] if Path("tests/typing").exists() else [])
    )
    session.run("pyright")
    session.run("pyright", "--verifytypes", "flujo_async", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of the documentation, execute every code block of it and of README, and follow the links."""
    session.install(".[cli]", *group("docs"))
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", *IN_PARALLEL, "tests/docs", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill real processes at every commit and in every step; try many more random examples and definitions (long)."""
    session.install("-e", ".[cli]", *group("test"))
    long = ("-m", "crash or hypothesis", "--hypothesis-profile=crash", "--timeout=900")
    session.run("pytest", *IN_PARALLEL, *long, *session.posargs)


@nox.session
def bite(session: nox.Session) -> None:
    """Plant deliberate bugs, one at a time, and see the tests catch each: 372 bugs, a quarter of an hour."""
    session.install("-e", ".[cli]", *group("test"))
    session.run("python", "-m", "tests.bite", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that the package accepts."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["cli"], *extras["otel"], *extras["prometheus"]]
    session.install("-e", ".[cli]", *group("test"), *(pin.replace(">=", "==") for pin in wanted))
    session.run("pytest", *IN_PARALLEL, "-m", "not crash", "--ignore=tests/docs", *session.posargs, env=in_memory())


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, beside others in environments of their own; arguments after `--` go to the benchmark (`--quick`)."""
    session.install("-e", ".[testing]", *group("bench"))
    session.run("python", "-m", "benchmarks.roster", *session.posargs)
    session.run("python", "-m", "benchmarks", *session.posargs)
