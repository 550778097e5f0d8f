"""Execute the blocks of one page, as its reader would: `python run_page.py PAGE < blocks.json`.

Runs in a process and a directory of its own and needs nothing but the standard library. The Python blocks share one
namespace, which is ``__main__``, and one event loop; the shell commands run between them, where they stand.
"""

import ast
import asyncio
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

COMMAND_LIMIT = 120  # seconds


def main() -> None:
    """Execute what standard input lists; the first failure ends the process with a report and exit code 1."""
    page = sys.argv[1]
    items: list[dict[str, Any]] = json.load(sys.stdin)
    namespace = types.ModuleType("__main__")
    sys.modules["__main__"] = namespace  # annotations are looked up there
    sys.path[0] = str(Path.cwd())  # a page may import what it told its reader to save
    with asyncio.Runner() as runner:
        for item in items:
            print(f"--- {page}:{item['line']}", flush=True)
            match item["kind"]:
                case "python":
                    run_python(item["text"], page, item["line"], namespace, runner)
                case "file":
                    Path(item["name"]).write_text(item["text"], encoding="utf-8")
                case _:
                    run_command(item["text"], item["exit"], item["output"])


def run_python(text: str, page: str, line: int, namespace: types.ModuleType, runner: asyncio.Runner) -> None:
    """Execute one block; the padding makes a traceback show the page's own line numbers."""
    source = "\n" * (line - 1) + text
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, vars(namespace)))
    else:
        exec(code, vars(namespace))  # outside the loop, so that a page may call asyncio.run


def run_command(command: str, expected: int, output: str) -> None:
    """Execute one command line with bash, and compare its exit code, and what it prints if the page tells that."""
    print(f"$ {command}", flush=True)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output else None,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_LIMIT,
        check=False,
        text=True,
    )
    if output:
        print(done.stdout, end="", flush=True)
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    if code != expected:
        sys.exit(f"exit code {code}, the page says {expected}")
    if output and lines(done.stdout) != lines(output):
        sys.exit(f"the page says that it prints\n{output}")


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


if __name__ == "__main__":
    main()
