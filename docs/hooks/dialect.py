"""Hook of the site: what our tests and code hosts read otherwise becomes what the site's Markdown understands.

```` ```python {file=app.py} ```` gets the file as its title; what else stands in the braces is for the tests. A bar in
code in a table is escaped for code hosts, and must not be here.
"""

from __future__ import annotations

import re
from typing import Any

_FENCE = re.compile(r"^(?P<fence> *`{3,})(?P<language>\w+) \{(?P<options>[^}\n]*)\}$", re.MULTILINE)
_FILE = re.compile(r"\bfile=(\S+)")
_ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
_CODE = re.compile(r"`[^`]+`")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite the first lines of the fences, and the code in tables."""
    return _ROW.sub(_row, _FENCE.sub(_fence, markdown))


def _fence(match: re.Match[str]) -> str:
    file = _FILE.search(match["options"])
    title = f' title="{file[1]}"' if file else ""
    return f"{match['fence']}{match['language']}{title}"


def _row(match: re.Match[str]) -> str:
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), match[0])
