"""Programs of a few lines that use a ``FileBackend`` in a process of their own, and what it keeps beside a log."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PRELUDE = """
import asyncio, os, sys
from pathlib import Path
from flujo_async.backends.file import FileBackend
from flujo_async.errors import *
from flujo_async.testing.samples import *
backend = FileBackend(sys.argv[1])
"""


def script(body: str, directory: Path) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body), str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def side(directory: Path, run_id: str = "run") -> Path:
    [path] = directory.glob(f"{run_id}.jsonl.*.files")
    return path
