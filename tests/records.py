"""What processes put on record in a file, which tells it whatever becomes of them."""

import os
from pathlib import Path


def put_on_record(log: Path, line: str) -> None:
    """Add a line, in one write."""
    file = os.open(log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def on_record(log: Path) -> list[str]:
    """Return all lines, in order; nothing was put on record where there is no file."""
    return log.read_text().splitlines() if log.exists() else []
