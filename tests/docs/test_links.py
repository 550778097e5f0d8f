"""Links between the pages of this repository lead somewhere."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import PAGE_IDS, PAGES, ROOT, anchors, links

WRITTEN = [*PAGES, ROOT / "CONTRIBUTING.md"]


def fault(page: Path, target: str) -> str | None:
    """Return what is wrong with a link, if anything; addresses on the web are not followed."""
    url = urlsplit(target)
    if url.scheme or url.netloc:
        return None
    goal = (page.parent / unquote(url.path)).resolve() if url.path else page
    if not goal.is_relative_to(ROOT):
        return "leaves the repository"
    if not goal.exists():
        return "there is no such file"
    if url.fragment and goal.suffix == ".md" and unquote(url.fragment) not in anchors(goal):
        return "the page has no such heading"
    return None


@pytest.mark.parametrize("page", WRITTEN, ids=[*PAGE_IDS, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: Path) -> None:
    found = [f"{page.name}:{line} {target}: {wrong}" for line, target in links(page) if (wrong := fault(page, target))]
    assert found == []
