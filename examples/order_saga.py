"""An order as a saga: reserve, charge, ship; if the carrier refuses, refund and release, the newest first.

Each step that changes something outside names the step that undoes it. When a later one fails for good, the completed
ones are undone in reverse order. A crash changes nothing about that, be it on the way or while things are undone. The
warehouse and the bank are played by a table in shop.db. It keeps the idempotency key of every request, as a payment
provider does: the same request sent again is the same deed.

    $ python examples/order_saga.py o-1 lamp

The carrier is busy at first, and asked again. A piano is too heavy for it, so nothing of that order remains:

    $ python examples/order_saga.py o-2 piano

Now with a slow bank. kill -9 the first process when it says "charge", the second one when it says "refund":

    $ python examples/order_saga.py o-3 piano --slow charge
    $ python examples/order_saga.py o-3 piano --slow refund
    $ python examples/order_saga.py o-3 piano

The last one does what is left to undo, and nothing else. The customer was charged once, and got it back once:

    $ flujo-async runs show o-3 --db orders.db
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel

from flujo_async import Flujo, Resource, Retry, StepContext, errors, step

PRICES = {"lamp": 49, "rug": 320, "piano": 7900}


class Order(BaseModel):
    order_id: str
    item: str


class Reservation(BaseModel):
    order: Order
    shelf: str


class Payment(BaseModel):
    reservation: Reservation
    euros: int


class CarrierBusyError(Exception):
    """Comes and goes: worth another try."""


class CarrierRefusedError(Exception):
    """Will not change its mind."""


# ------------------------------------------------------------------------------------------------------ the outside


@dataclass(frozen=True)
class Partners:
    """The warehouse and the bank, over a connection that may be slow."""

    path: str
    slow: str | None = None

    async def ask(self, deed: str, order: Order, euros: int, key: str) -> None:
        """Have something done; asked again with the same key it is not done again."""
        print(deed, order.order_id, flush=True)
        await asyncio.to_thread(self._do, deed, order, euros, key)
        if deed == self.slow:
            await asyncio.sleep(30)

    def _do(self, deed: str, order: Order, euros: int, key: str) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS deeds (key TEXT PRIMARY KEY, deed, order_id, euros)")
            database.execute("INSERT OR IGNORE INTO deeds VALUES (?, ?, ?, ?)", (key, deed, order.order_id, euros))


Services = Annotated[Partners, Resource("partners")]
PATIENT = Retry(max_attempts=5, base=0.05, give_up_on=CarrierRefusedError)

# --------------------------------------------------------------------------------------------------------- the saga


@step(retry=PATIENT)
async def release(reservation: Reservation, ctx: StepContext, partners: Services) -> None:
    await partners.ask("release", reservation.order, 0, ctx.idempotency_key)


@step(retry=PATIENT, compensate=release)
async def reserve(order: Order, ctx: StepContext, partners: Services) -> Reservation:
    await partners.ask("reserve", order, 0, ctx.idempotency_key)
    return Reservation(order=order, shelf=f"{order.item[0].upper()}-7")


@step(retry=PATIENT)
async def refund(payment: Payment, ctx: StepContext, partners: Services) -> None:
    await partners.ask("refund", payment.reservation.order, -payment.euros, ctx.idempotency_key)


@step(retry=PATIENT, compensate=refund)
async def charge(reservation: Reservation, ctx: StepContext, partners: Services) -> Payment:
    euros = PRICES[reservation.order.item]
    await partners.ask("charge", reservation.order, euros, ctx.idempotency_key)
    return Payment(reservation=reservation, euros=euros)


@step(retry=PATIENT)
async def ship(payment: Payment, ctx: StepContext, partners: Services) -> str:
    order = payment.reservation.order
    if ctx.attempt == 1:
        raise CarrierBusyError("all lines are taken")
    if order.item == "piano":
        raise CarrierRefusedError(f"a {order.item} is too heavy for us")
    await partners.ask("ship", order, 0, ctx.idempotency_key)
    return f"parcel {order.order_id}, from shelf {payment.reservation.shelf}, {payment.euros} euros"


# ------------------------------------------------------------------------------------------------- the command line


async def main(order: Order, slow: str | None) -> None:
    async with Flujo(
        reserve >> charge >> ship,
        pipeline_name="order",
        pipeline_version="1.0.0",
        state_backend="sqlite:///orders.db",
        resources={"partners": nullcontext(Partners("shop.db", slow))},
    ) as flujo:
        try:
            print((await flujo.run(order, run_id=order.order_id)).output)
        except errors.RunFailed as failed:
            sys.exit(f"order {order.order_id} failed: {failed.__cause__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Order something.")
    parser.add_argument("order_id")
    parser.add_argument("item", choices=PRICES)
    parser.add_argument("--slow", choices=["reserve", "charge", "refund", "release"], help="what takes half a minute")
    options = parser.parse_args()
    asyncio.run(main(Order(order_id=options.order_id, item=options.item), options.slow))
