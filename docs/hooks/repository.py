"""Hook of the site: what the pages link to outside `docs/` becomes part of the site, below `repository/`.

A page there is a page here; any other file, or a folder, becomes a page that shows it; pictures are copied. The links
are turned, so that the site is whole wherever it is put, without a host of the source.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

FOLDER = "repository"
_LINK = re.compile(r"(?<=\]\()(?P<path>[^()#:\s]+)(?P<anchor>#[^()\s]*)?(?=\))")
_AS_THEY_ARE = {".md", ".png", ".svg", ".jpg"}


def on_files(files: Files, *, config: Any) -> None:
    """Add what the pages link to, and what that links to in turn."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    todo = [root / "CONTRIBUTING.md", *(docs / file.src_uri for file in files.documentation_pages())]
    found: set[Path] = set()
    while todo:
        page = todo.pop()
        if not _is_built(page, docs) and page not in found:
            found.add(page)
            files.append(_file(page, root, config))
        if page.suffix == ".md":
            todo += [goal for goal in _goals(page, root) if goal not in found and not _is_built(goal, docs)]


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Turn the links that lead outside, and those of what stands outside."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    source = _source(page.file.src_uri, root, docs)

    def turned(match: re.Match[str]) -> str:
        goal = _goal(source, match["path"])
        if not goal.exists() or (_is_built(source, docs) and _is_built(goal, docs)):
            return match[0]
        target = goal.relative_to(docs).as_posix() if _is_built(goal, docs) else _uri(goal, root)
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri)) + (match["anchor"] or "")

    return _LINK.sub(turned, markdown)


def _goals(page: Path, root: Path) -> Iterator[Path]:
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        goal = _goal(page, match["path"])
        if goal.exists() and goal.is_relative_to(root):
            yield goal


def _goal(page: Path, link: str) -> Path:
    """Return where a link of a page leads; of a folder to the page that presents it, if there is one."""
    goal = (page.parent / link).resolve()
    return goal / "README.md" if (goal / "README.md").exists() else goal


def _is_built(path: Path, docs: Path) -> bool:
    """Return whether a file is part of the site anyhow."""
    return path.is_file() and path.is_relative_to(docs) and path.relative_to(docs).parts[0] not in ("changes", "hooks")


def _uri(goal: Path, root: Path) -> str:
    path = goal.relative_to(root).as_posix()
    return f"{FOLDER}/{path}" if goal.suffix in _AS_THEY_ARE else f"{FOLDER}/{path}.md"


def _source(uri: str, root: Path, docs: Path) -> Path:
    """Return the file that a page of the site was made of."""
    return root / uri.removeprefix(f"{FOLDER}/") if uri.startswith(f"{FOLDER}/") else docs / uri


def _file(path: Path, root: Path, config: Any) -> File:
    uri, inclusion = _uri(path, root), InclusionLevel.NOT_IN_NAV
    if path.suffix in _AS_THEY_ARE:
        return File.generated(config, uri, abs_src_path=str(path), inclusion=inclusion)
    return File.generated(config, uri, content=_shown(path, root), inclusion=inclusion)


def _shown(path: Path, root: Path) -> str:
    """Return a page that shows a file, or the names of what a folder holds."""
    language = path.suffix.removeprefix(".") or "text"
    if path.is_dir():
        text = "\n".join(item.name for item in sorted(path.iterdir()) if item.name != "__pycache__")
    else:
        text = path.read_text(encoding="utf-8")
    return f"# {path.relative_to(root)}\n\n``````{language}\n{text}\n``````\n"
