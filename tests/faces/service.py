"""The service that its tests start and kill: ``uvicorn tests.faces.service:app``.

From the environment: ``STORE`` is the URL of its store, ``SIDE_EFFECTS`` the file that its steps write to, and
``HANG_IN`` a step that never ends.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flujo_async import Flujo, RunContext, StepContext, errors, step, workflow

STATUS_CODES: dict[type[Exception], int] = {errors.RunNotFound: 404, errors.RunConflict: 409, errors.InvalidSignal: 422}


class Approval(BaseModel):
    granted: bool
    by: str


async def happen(ctx: StepContext) -> None:
    """Put a side effect on record, in one write."""
    with open(os.environ["SIDE_EFFECTS"], "ab", buffering=0) as log:  # noqa: ASYNC230 -- a line, and no other task waits
        log.write(f"{os.getpid()} {ctx.run_id} {ctx.step_name}\n".encode())
    if os.environ.get("HANG_IN") == ctx.step_name:
        await asyncio.Event().wait()


@step
async def reserve(item: str, ctx: StepContext) -> str:
    await happen(ctx)
    return f"{item}, reserved"


@step
async def pack(item: str, ctx: StepContext) -> str:
    await happen(ctx)
    return f"{item}, packed"


@step
async def ship(item: str, ctx: StepContext) -> str:
    await happen(ctx)
    return f"{item}, shipped"


@workflow(name="order", version="1")
async def order(item: str, ctx: RunContext) -> str:
    """Reserve, ask, pack, ship."""
    reserved = await reserve(item)
    approval = await ctx.wait_for("approval", schema=Approval, prompt=f"{item}?")
    return f"{await ship(await pack(reserved))}, says {approval.by}"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with Flujo(order, state_backend=os.environ["STORE"], recover=True) as flujo:
        app.state.flujo = flujo
        yield


async def put_order(request: Request) -> JSONResponse:
    handle = await request.app.state.flujo.start(await request.json(), run_id=request.path_params["id"])
    return JSONResponse({"id": handle.run_id}, status_code=202)


async def get_order(request: Request) -> JSONResponse:
    state = await request.app.state.flujo.state(request.path_params["id"])
    return JSONResponse({"status": state.status, "asks": [waiting.prompt for waiting in state.waiting_for]})


async def get_result(request: Request) -> JSONResponse:
    """Answer when the run rests."""
    result = await request.app.state.flujo.handle(request.path_params["id"]).result()
    return JSONResponse({"status": result.status, "output": result.output})


async def put_approval(request: Request) -> JSONResponse:
    await request.app.state.flujo.signal(request.path_params["id"], "approval", await request.json())
    return JSONResponse({}, status_code=202)


async def tell_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=STATUS_CODES[type(error)])


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders/{id}", put_order, methods=["PUT"]),
        Route("/orders/{id}", get_order),
        Route("/orders/{id}/result", get_result),
        Route("/orders/{id}/approval", put_approval, methods=["PUT"]),
    ],
    exception_handlers=dict.fromkeys(STATUS_CODES, tell_error),
)
