"""The document pipeline, driven as its docstring says."""

from pathlib import Path

import pytest

from tests.examples.conftest import Terminal, until

SENTENCES = "Tea is a drink. Tea leaves are steeped in water. Some people like tea with milk."


@pytest.fixture(autouse=True)
def documents(terminal: Terminal) -> None:
    """Lay documents of all kinds out, one of them broken, one of them very long."""
    few, many = (terminal.directory / "docs" / name for name in ("explanation", "how-to"))
    write(few / "tea.md", f"# On *tea*\n\n{SENTENCES}\n\n```\ntea tea\n```\n")
    write(few / "coffee.html", "<title>Coffee</title>\n<p>Coffee is <b>roasted</b>.</p>")
    write(few / "broken.txt", "caf\xe9", encoding="latin-1")
    for number in range(11):
        write(many / f"note-{number:02}.md", f"# Note {number}\n\n{SENTENCES}\n")
    write(many / "tome.md", "# Tome\n\n" + f"{SENTENCES}\n" * 3000)


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def test_a_digest_tells_of_every_document_and_a_killed_one_goes_on(terminal: Terminal) -> None:
    """What had been summarised is not summarised again; what cannot be parsed has its line, and stops nobody."""
    first = terminal.type("python examples/document_pipeline.py docs/how-to --seconds-per-word 0.001")
    few = terminal.type("python examples/document_pipeline.py docs/explanation")
    for _ in range(11):
        first.says("summarised docs/how-to/note-")
    show = "flujo-async runs show docs/how-to --db documents.db"
    until(lambda: len(terminal.succeeded(show, "summarise")) == 11)
    first.dies()
    assert few.ends()[-1] == "3 documents, 19 words"
    assert terminal.lines("digest.md") == [
        "# Digest",
        "",
        "- **(could not be read)** (docs/explanation/broken.txt, 0 words): ",
        "- **Coffee** (docs/explanation/coffee.html, 3 words): Coffee is roasted.",
        f"- **On tea** (docs/explanation/tea.md, 16 words): {SENTENCES.split('. ')[1]}.",
    ]

    said = terminal.type("python examples/document_pipeline.py docs/how-to").ends()
    assert [line.rpartition(" (")[0] or line for line in said] == [
        "summarised docs/how-to/tome.md",
        f"12 documents, {16 * 3011} words",
    ]
    assert len(terminal.lines("digest.md")) == 14
    assert len(terminal.succeeded(show, "summarise")) == 12
