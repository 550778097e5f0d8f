"""Hook of the site: the changelog gets what is not released yet from the fragments in `docs/changes/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")
PLACE = "::: changes"


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Put the fragments where the page asks for them."""
    if PLACE not in markdown.splitlines():
        return markdown
    return markdown.replace(PLACE, gathered(Path(config.docs_dir) / "changes"))


def gathered(directory: Path) -> str:
    """Return all fragments, by kind, each as an item of a list.

    Raises:
        ValueError: a file in the directory is of no kind that there is.
    """
    fragments: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in sorted(directory.glob("*.md")):
        if path.name != "README.md":
            _, _, kind = path.stem.rpartition(".")
            if kind not in fragments:
                raise ValueError(f"{path}: name it <what>.<kind>.md, with one of {', '.join(KINDS)}")
            fragments[kind].append(_item(path.read_text(encoding="utf-8").strip()))
    return "\n\n".join(f"### {kind.capitalize()}\n\n" + "\n".join(items) for kind, items in fragments.items() if items)


def _item(text: str) -> str:
    return "- " + text.replace("](../", "](").replace("\n", "\n  ")  # its links begin one folder further down
