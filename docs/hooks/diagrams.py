"""Hook of the site: a fence of mermaid becomes an SVG when the site is built, and takes its colours from the page.

So a page shows its diagrams without scripts, and without fetching anything when it is read.
"""

from __future__ import annotations

import logging
from typing import Any

import mermaidx

_log = logging.getLogger("mkdocs.hooks.diagrams")
_ID = "my-svg"  # what the renderer calls every diagram


def on_config(config: Any) -> None:
    """Register the fence."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "mermaid", "class": "diagram", "format": _formatted}]


def _formatted(source: str, *_: Any, **__: Any) -> str:
    try:
        svg = mermaidx.render(source, theme="neutral").svg()
    except Exception as error:  # a fence whose format raises would silently be shown as text
        _log.warning("A diagram is not drawn: %s\n%s", error, source)
        raise
    name = f"diagram-{abs(hash(source)):x}"
    return f'<div class="diagram">{svg.replace(_ID, name)}</div>'
