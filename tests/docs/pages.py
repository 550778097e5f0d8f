"""Read the pages of the documentation: their code blocks, their links, their headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
PAGE_IDS = [str(path.relative_to(ROOT)) for path in PAGES]

PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a block, and what the page shows below it as its output."""

    line: int
    text: str
    output: str


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block: ```` ```language {options} ````."""

    language: str
    options: dict[str, str]
    text: str
    line: int

    @property
    def commands(self) -> list[Command]:
        """Return what begins with a prompt; a backslash continues it, and what stands below is its output."""
        found: list[Command] = []
        is_open = False
        for line, text in enumerate(self.text.splitlines(), self.line):
            if is_open:
                found[-1] = replace(found[-1], text=f"{found[-1].text}\n{text.removeprefix('> ')}")
            elif text.startswith(PROMPT):
                found.append(Command(line, text.removeprefix(PROMPT), ""))
            else:
                found[-1:] = [replace(last, output=f"{last.output}{text}\n") for last in found[-1:]]
                continue
            is_open = text.endswith("\\")
        return found


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [_block(token) for token in tokens(page) if token.type == "fence"]


def _block(token: Token) -> Block:
    language, _, rest = token.info.strip().partition(" ")
    options: dict[str, str] = {}
    for word in rest.strip("{} ").split():
        name, _, value = word.removeprefix(".").partition("=")
        options[name] = value
    assert token.map is not None
    return Block(language, options, token.content, token.map[0] + 2)  # from 1, and past the fence


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, target) for each link and image of a page."""
    for token in tokens(page):
        for child in token.children or []:
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                yield (token.map or [0])[0] + 1, str(target)


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of a page make, as the usual hosts make them."""
    found: set[str] = set()
    for heading, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if heading.type == "heading_open":
            words = "".join(child.content for child in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.add(next(name for name in _numbered(slug) if name not in found))
    return found


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    number = 0
    while True:
        number += 1
        yield f"{slug}-{number}"
