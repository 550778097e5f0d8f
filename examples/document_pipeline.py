"""A document pipeline: every file of a directory is read, parsed and summarised, and then there is one digest.

``map_each`` takes each document through steps of its own, eight at a time. Reading is a plain function, which runs in a
thread; parsing computes, so it runs in a process, where a hanging parser can be killed; the summariser stands for a
service over the network that is sometimes busy, so it is retried and bounded by a limit. A document that cannot be
parsed gets a line in the digest and stops nobody.

    $ python examples/document_pipeline.py docs/explanation

The run is named after the directory: asked for the same again, it only tells the recorded result. Now one that takes
longer: a second for each thousand words. kill -9 it on the way, as often as you like. The last command does what is
left, and summarises no document again that it had a summary of:

    $ python examples/document_pipeline.py docs/how-to --seconds-per-word 0.001
    $ python examples/document_pipeline.py docs/how-to

The digest is in digest.md. What each document went through, and how long it took:

    $ flujo-async runs show docs/how-to --db documents.db
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel

from flujo_async import Flujo, Limit, Resource, Retry, StepContext, map_each, step

KINDS = {".md", ".html", ".txt"}


class Source(BaseModel):
    path: str
    data: bytes


class Document(BaseModel):
    path: str
    title: str
    text: str


class Summary(BaseModel):
    path: str
    title: str
    gist: str
    words: int


# ----------------------------------------------------------------------------------------------- reading and parsing


@step
def list_documents(directory: str) -> list[str]:
    return sorted(str(path) for path in Path(directory).rglob("*") if path.suffix in KINDS)


@step(retry=Retry(max_attempts=3, retry_on=OSError))
def read(path: str) -> Source:
    return Source(path=path, data=Path(path).read_bytes())


class TextOfHtml(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@step
def set_aside(source: Source) -> Document:
    return Document(path=source.path, title="(could not be read)", text="")


@step(run_in="process", timeout=60, fallback=set_aside)
def parse(source: Source) -> Document:
    """Return the plain text of a document. Text recognition for scans would stand here as well."""
    text = source.data.decode()
    if source.path.endswith(".html"):
        parser = TextOfHtml()
        parser.feed(text)
        text = "".join(parser.found)
    text = re.sub(r"^```.*?^```$|^\|.*?$|[#*`_]", "", text, flags=re.MULTILINE | re.DOTALL).strip()
    title, _, rest = text.partition("\n")
    return Document(path=source.path, title=title.strip(), text=rest)


# ------------------------------------------------------------------------------------------------------- summarising


class BusyError(Exception):
    def __init__(self) -> None:
        super().__init__("too many requests")
        self.retry_after = 0.01  # seconds; a retry heeds it


@dataclass
class Summariser:
    """Stands for a language model: picks the sentence with the most frequent words. Each fifth call fails."""

    seconds_per_word: float
    calls: int = 0

    async def gist(self, text: str) -> str:
        self.calls += 1
        if self.calls % 5 == 0:
            raise BusyError
        await asyncio.sleep(self.seconds_per_word * len(text.split()))
        frequency = Counter(re.findall(r"\w{5,}", text.lower()))
        sentences = [" ".join(words) for said in re.split(r"(?<=[.!?:])\s", text) if len(words := said.split()) < 30]
        return max(sentences, key=lambda said: sum(frequency[word] for word in said.lower().split()), default="")


@step(limit="summariser", retry=Retry(max_attempts=10, retry_on=(BusyError, ConnectionError)))
async def summarise(
    document: Document, ctx: StepContext, summariser: Annotated[Summariser, Resource("summariser")]
) -> Summary:
    gist = await summariser.gist(document.text)
    print("summarised", document.path, f"(attempt {ctx.attempt})", flush=True)
    return Summary(path=document.path, title=document.title, gist=gist, words=len(document.text.split()))


@step
def write_digest(summaries: list[Summary]) -> str:
    """Write the digest. A second execution writes the same once more."""
    lines = [f"- **{each.title}** ({each.path}, {each.words} words): {each.gist}" for each in summaries]
    Path("digest.md").write_text("\n".join(["# Digest", "", *lines, ""]), encoding="utf-8")
    return f"{len(summaries)} documents, {sum(each.words for each in summaries)} words"


pipeline = list_documents >> map_each(read >> parse >> summarise, max_concurrency=8) >> write_digest


async def main(directory: str, seconds_per_word: float) -> None:
    async with Flujo(
        pipeline,
        pipeline_name="digest",
        state_backend="sqlite:///documents.db",
        resources={"summariser": nullcontext(Summariser(seconds_per_word))},
        limits={"summariser": Limit(concurrency=4)},
    ) as flujo:
        print((await flujo.run(directory, run_id=directory)).output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Summarise the documents of a directory.")
    parser.add_argument("directory")
    parser.add_argument("--seconds-per-word", type=float, default=0, help="how long the summariser takes")
    options = parser.parse_args()
    asyncio.run(main(options.directory, options.seconds_per_word))
