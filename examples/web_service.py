"""A web service that sells prints: orders are runs inside the server, and outlive it.

An order is rendered, approved by a person if it is a large one, printed and sent. ``POST /orders`` answers as soon as
the order is on disk, and everything else happens in the event loop of the server. Kill the server whenever you like:
the next one takes up what it left (``recover=True``), and a browser that follows the events of an order reconnects and
misses none.

    $ pip install starlette uvicorn
    $ uvicorn --app-dir examples web_service:app --port 8000

Order 300 prints, and follow the order in another terminal. It waits for an approval:

    $ curl localhost:8000/orders --json '{"id": "o-1", "motif": "harbour", "copies": 300}'
    $ curl -N localhost:8000/orders/o-1/events

kill -9 the server, start it with a slow printer, and approve:

    $ PRINTER_SECONDS=30 uvicorn --app-dir examples web_service:app --port 8000
    $ curl localhost:8000/orders/o-1
    $ curl localhost:8000/orders/o-1/approval --json '{"granted": true, "by": "Ann"}'

kill -9 it again while it prints, and start it a third time. It prints again, since nobody knows how far it came, and
sends the parcel; it has not rendered again. The events go on behind the last one seen:

    $ uvicorn --app-dir examples web_service:app --port 8000
    $ curl -N localhost:8000/orders/o-1/events -H 'Last-Event-ID: 3'
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flujo_async import Flujo, Retry, RunContext, RunHandle, errors, step, workflow

PRINTER_SECONDS = float(os.environ.get("PRINTER_SECONDS", "0"))


class Order(BaseModel):
    id: str = Field(min_length=1, max_length=64, pattern=r"^[\w-]+$")
    motif: str
    copies: int = Field(gt=0)


class Approval(BaseModel):
    granted: bool
    by: str


# ---------------------------------------------------------------------------------------------------------- the work


@step(retry=Retry(max_attempts=3))
async def render(order: Order) -> str:
    print("rendering", order.id, flush=True)
    return f"{order.motif}.tiff"


@step(retry=Retry(max_attempts=3), timeout=timedelta(hours=1))
async def make_prints(sheet: str, copies: int) -> int:
    print("printing", sheet, flush=True)
    await asyncio.sleep(PRINTER_SECONDS)
    return copies


@step
async def send(order: Order) -> str:
    print("sending", order.id, flush=True)
    return f"parcel {order.id}"


@workflow(name="prints", version="1.0.0")
async def prints(order: Order, ctx: RunContext) -> str:
    sheet = await render(order)
    if order.copies > 100:
        prompt = f"Print {order.copies} copies of {order.motif}?"
        approval = await ctx.wait_for("approval", schema=Approval, prompt=prompt, timeout=timedelta(days=3))
        if not approval.granted:
            return f"refused by {approval.by}"
    ctx.emit({"printing": order.copies})
    await make_prints(sheet, order.copies)
    return await send(order)


# ------------------------------------------------------------------------------------------------------- the service


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with Flujo(prints, state_backend="sqlite:///prints.db", recover=True, max_concurrency=50) as flujo:
        app.state.flujo = flujo
        yield


def handle_of(request: Request) -> RunHandle[str]:
    flujo: Flujo[Order, str] = request.app.state.flujo
    return flujo.handle(request.path_params["id"])


async def post_order(request: Request) -> Response:
    """Accept an order. The client names it, so a client that got no answer may send it again."""
    order = Order.model_validate_json(await request.body())
    await request.app.state.flujo.start(order, run_id=order.id)
    return JSONResponse({"id": order.id}, status_code=202, headers={"Location": f"/orders/{order.id}"})


async def get_order(request: Request) -> Response:
    handle = handle_of(request)
    state = await handle.state()
    found: dict[str, object] = {"status": state.status, "questions": [waiting.prompt for waiting in state.waiting_for]}
    if state.status == "completed":
        found["output"] = (await handle.result()).output
    return JSONResponse(found)


async def post_approval(request: Request) -> Response:
    """Answer the question of an order. Whether the caller may is for your application to check, here."""
    await handle_of(request).signal("approval", await request.json())
    return JSONResponse({}, status_code=202)


async def get_events(request: Request) -> Response:
    """Tell what happens to an order until it rests, as server-sent events."""
    handle = handle_of(request)
    await handle.status()  # an order that is not there is a 404, as long as the response has not begun
    after = int(request.headers.get("last-event-id", 0))

    async def lines() -> AsyncIterator[str]:
        async for event in handle.events(after=after, follow=True):
            data = json.dumps({"step": event.step, "data": event.data}, default=str)
            yield f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


STATUS_CODES = {
    ValidationError: 422,
    errors.RunNotFound: 404,
    errors.RunConflict: 409,
    errors.InvalidSignal: 409,
}


async def tell_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=STATUS_CODES[type(error)])


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders", post_order, methods=["POST"]),
        Route("/orders/{id}", get_order),
        Route("/orders/{id}/events", get_events),
        Route("/orders/{id}/approval", post_approval, methods=["POST"]),
    ],
    exception_handlers=dict.fromkeys(STATUS_CODES, tell_error),
)
