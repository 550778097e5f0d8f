"""Hook of the site: what our fences say about how they are tested becomes what the highlighter understands.

```` ```python {file=app.py} ```` gets the file as its title; what else stands in the braces is for the tests.
"""

from __future__ import annotations

import re
from typing import Any

_FENCE = re.compile(r"^(?P<fence> *`{3,})(?P<language>\w+) \{(?P<options>[^}\n]*)\}$", re.MULTILINE)
_FILE = re.compile(r"\bfile=(\S+)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite the first lines of the fences."""
    return _FENCE.sub(_rewritten, markdown)


def _rewritten(match: re.Match[str]) -> str:
    file = _FILE.search(match["options"])
    title = f' title="{file[1]}"' if file else ""
    return f"{match['fence']}{match['language']}{title}"
