"""``python -m flujo_async``, and the ``flujo-async`` command."""

from __future__ import annotations

import sys

_EXTRA = frozenset({"rich", "typer"})
_USAGE = 2
_INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from flujo_async.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print("flujo-async needs its cli extra: pip install 'flujo-async[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(_USAGE)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(run())


if __name__ == "__main__":
    main()
