"""Hook of the site: an entry `FOLDER/*` of the navigation stands for all numbered pages of that folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> None:
    """Put the pages where the entry stands."""
    config.nav = expanded(config.nav, Path(config.docs_dir))


def expanded(item: Any, docs: Path) -> Any:
    """Return an item of the navigation with the entries that stand for several replaced."""
    if isinstance(item, dict):
        return {title: expanded(below, docs) for title, below in item.items()}
    if isinstance(item, list):
        return [page for entry in item for page in _pages(entry, docs)]
    return item


def _pages(entry: Any, docs: Path) -> list[Any]:
    if isinstance(entry, str) and entry.endswith("/*"):
        return [path.relative_to(docs).as_posix() for path in sorted(docs.glob(f"{entry[:-2]}/[0-9]*.md"))]
    return [expanded(entry, docs)]
