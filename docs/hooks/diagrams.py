"""Hook of the site: a fence of mermaid becomes an SVG when the site is built, and takes its colours from the page.

So a page shows its diagrams without scripts, and without fetching anything when it is read.
"""

from __future__ import annotations

import logging
import re
from hashlib import sha256
from typing import Any

import mermaidx

_log = logging.getLogger("mkdocs.hooks.diagrams")
_ID = "my-svg"  # what the renderer calls every diagram
_WIDTH = re.compile(r"max-width: ([\d.]+)px;")
_CONFIG = {"sequence": {"mirrorActors": False, "actorMargin": 20, "width": 130}}
_READABLE = 560  # pixels: a narrow screen scrolls a wider diagram, rather than making it too small to read


def on_config(config: Any) -> None:
    """Register the fence."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "mermaid", "class": "diagram", "format": _formatted}]


def _formatted(source: str, *_: Any, **__: Any) -> str:
    try:
        svg = mermaidx.render(source, theme="neutral", config=_CONFIG).svg()
    except Exception as error:  # a fence whose format raises would silently be shown as text
        _log.warning("A diagram is not drawn: %s\n%s", error, source)
        raise
    svg = svg.replace(_ID, f"diagram-{sha256(source.encode()).hexdigest()[:8]}")
    return f'<div class="diagram">{_WIDTH.sub(_least_width, svg, count=1)}</div>'


def _least_width(match: re.Match[str]) -> str:
    return f"{match[0]} min-width: {min(float(match[1]), _READABLE)}px;"
