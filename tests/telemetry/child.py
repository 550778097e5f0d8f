"""What the child processes of these tests do: ``python -m tests.telemetry.child drive|stop URL SPANS``."""

import asyncio
import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from flujo_async import Flujo, Retry, StepContext, step
from flujo_async.telemetry import OpenTelemetryInstrument
from tests.telemetry.spans import FileExporter


@step
async def first(value: int) -> int:
    return value + 1


@step(retry=Retry(max_attempts=3, base=0))
async def second(value: int, ctx: StepContext) -> int:
    if ctx.attempt == 1:
        raise ValueError("the first time")
    if sys.argv[1] == "stop":
        print(f"{trace.get_current_span().get_span_context().trace_id:#034x}", flush=True)
        await asyncio.Event().wait()
    return value + 1


async def main(url: str, spans: Path) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(spans)))
    instrument = OpenTelemetryInstrument(provider)
    flujo = Flujo(first >> second, pipeline_name="sum", state_backend=url, instruments=[instrument])
    with provider.get_tracer("tests").start_as_current_span("caller"):
        result = await flujo.run(1, run_id="r")
    print(result.output, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2], Path(sys.argv[3])))
