"""The example of the seeds, with ``await``."""

import asyncio
from pathlib import Path

from flujo_async import Flujo, PipelineRegistry, SQLiteBackend, step

greeted: list[str] = []


@step
async def greet(name: str) -> str:
    greeted.append(name)
    return f"Hello, {name}!"


def test_the_example_of_the_seeds_works(tmp_path: Path) -> None:
    """A registry, a database, two runners, one run."""
    greeted.clear()

    async def main() -> None:
        pipeline = greet
        registry = PipelineRegistry()
        registry.register(pipeline, "hello", "1.0.0")
        backend = SQLiteBackend(tmp_path / "workflow.db")

        runner = Flujo(
            registry=registry,
            pipeline_name="hello",
            pipeline_version="1.0.0",
            state_backend=backend,
        )
        result = await runner.run("world", run_id="run1")

        # To resume later just create a new runner with the same ``run_id``
        runner2 = Flujo(
            registry=registry,
            pipeline_name="hello",
            pipeline_version="1.0.0",
            state_backend=backend,
        )
        resumed = await runner2.run("world", run_id="run1")
        assert result.output == resumed.output == "Hello, world!"
        state = await runner2.state("run1")
        assert (state.pipeline_name, state.pipeline_version, state.current_step_index) == ("hello", "1.0.0", 1)

    asyncio.run(main())
    assert greeted == ["world"]
