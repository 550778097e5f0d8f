"""A worker fleet: one process hands over 200 invoices, others make and send them, and one of those is killed.

The queue is the store: there is no broker. ``dispatch`` puts runs on disk and executes nothing; a worker takes the most
urgent run that is due, then the oldest. When a worker is killed the others notice, and take over what it had. Express
customers go first within a queue, reminders wait in a queue of their own, and each worker has at most eight requests
at a time at the service that renders PDFs.

    $ python examples/worker_fleet.py dispatch 200
    $ python examples/worker_fleet.py status

Start three workers, in a terminal each. The PDF service of the first one hangs:

    $ python examples/worker_fleet.py work --pdf-seconds 60
    $ python examples/worker_fleet.py work
    $ python examples/worker_fleet.py work --queue invoices --queue reminders

All is done but the twenty invoices that the first worker took, and those are the express ones. kill -9 it, and within
a second or two the others have done them too. Stop these with Ctrl-C:

    $ python examples/worker_fleet.py status

sent.txt has a line for each invoice. Had the worker died in the very moment of sending, one could be there twice, under
the same idempotency key, by which the receiver of a real one knows it:

    $ wc -l sent.txt
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel

from flujo_async import Flujo, Limit, PipelineRegistry, Resource, Retry, StepContext, Worker, step

EXPRESS = 10  # a priority; that of the others is 0


class Invoice(BaseModel):
    number: int
    euros: int


class Letter(BaseModel):
    number: int
    pdf: bytes


# --------------------------------------------------------------------------------- the work, which all processes know


@dataclass(frozen=True)
class PdfService:
    seconds: float

    async def render(self, text: str) -> bytes:
        await asyncio.sleep(self.seconds)
        return f"%PDF {text}".encode()


@step(limit="pdf", retry=Retry(max_attempts=5), timeout=timedelta(minutes=5))
async def render(invoice: Invoice, service: Annotated[PdfService, Resource("pdf")]) -> Letter:
    return Letter(number=invoice.number, pdf=await service.render(f"{invoice.euros} euros, please"))


@step(retry=Retry(max_attempts=5))
def send(letter: Letter, ctx: StepContext) -> str:
    with Path("sent.txt").open("a", encoding="utf-8") as file:
        file.write(f"{ctx.idempotency_key} {letter.number} {os.getpid()}\n")
    return f"{len(letter.pdf)} bytes sent"


registry = PipelineRegistry()
registry.register(render >> send, "invoice", "1.0.0")


def runtime(pdf_seconds: float = 0.02) -> Flujo[Invoice, str]:
    return Flujo(
        registry=registry,
        pipeline_name="invoice",
        state_backend="sqlite:///invoices.db",
        resources={"pdf": nullcontext(PdfService(pdf_seconds))},
        limits={"pdf": Limit(concurrency=8)},
    )


# ---------------------------------------------------------------------------------------------------- the three roles


async def dispatch(flujo: Flujo[Invoice, str], number: int) -> None:
    """Hand an invoice over: each tenth is an express one, each twentieth but one a reminder."""
    await flujo.dispatch(
        Invoice(number=number, euros=10 + number % 90),
        run_id=f"invoice-{number}",  # the same again changes nothing, so who is not sure dispatches all again
        queue="reminders" if number % 20 == 1 else "invoices",
        priority=EXPRESS if number % 10 == 0 else 0,
        timeout=timedelta(days=2),
    )


async def status(flujo: Flujo[Invoice, str]) -> None:
    runs = await flujo.list_runs(limit=None)
    for (queue, where), count in sorted(Counter((run.queue or "", run.status) for run in runs).items()):
        print(queue, where, count)


async def main(options: argparse.Namespace) -> None:
    async with runtime(options.pdf_seconds) as flujo:
        match options.role:
            case "dispatch":
                await asyncio.gather(*(dispatch(flujo, number) for number in range(1, options.count + 1)))
            case "status":
                await status(flujo)
            case "work":
                await Worker(flujo, queues=options.queue or ["invoices"], concurrency=20).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send invoices.")
    parser.add_argument("role", choices=["dispatch", "work", "status"])
    parser.add_argument("count", nargs="?", type=int, default=200, help="how many invoices to dispatch")
    parser.add_argument("--queue", action="append", help="a queue to work for; can be repeated")
    parser.add_argument("--pdf-seconds", type=float, default=0.02, help="how long the PDF service takes")
    asyncio.run(main(parser.parse_args()))
