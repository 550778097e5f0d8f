"""A credit check as a graph: the parameters of the steps say what they depend on, and all runs as soon as it can.

Two credit bureaus are asked side by side, and whichever answers first will do (``any_of``). The employer is only
asked if there is one (``when=``). ``decide`` returns an ``Action``, which chooses what comes after it; what stands
behind the other edges is skipped.

    $ python examples/credit_check.py bob 90000

The southern bureau is down, which fails nobody as long as the other one answers. Let the employer take half a minute,
and kill -9 the process when it says "asking the employer". What the northern bureau said is on disk by then, and it is
not asked again:

    $ python examples/credit_check.py ann 12000 --employer-seconds 30
    $ flujo-async runs show ann-12000 --db credit.db
    $ python examples/credit_check.py ann 12000

The graph, as a chart that many tools draw:

    $ python examples/credit_check.py --chart
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import nullcontext
from typing import Annotated, Literal

from pydantic import BaseModel

from flujo_async import Action, Depends, Flujo, Resource, StepStatus, any_of, graph, step

EMPLOYERS = {"ann": "a bakery", "cyd": "the railways"}
EMPLOYER_SECONDS = Annotated[float, Resource("employer_seconds")]


class Person(BaseModel):
    name: str
    employer: str | None


def has_employer(person: Person) -> bool:
    return person.employer is not None


@step
async def identify(name: str) -> Person:
    print("identifying", name, flush=True)
    return Person(name=name, employer=EMPLOYERS.get(name))


@step
async def ask_north(person: Annotated[Person, Depends(identify)]) -> int:
    print("asking the northern bureau", flush=True)
    return 500 + 10 * len(person.name)


@step
async def ask_south(person: Annotated[Person, Depends(identify)]) -> int:
    print("asking the southern bureau", flush=True)
    raise ConnectionError(f"no answer about {person.name}")


@step
async def ask_employer(
    person: Annotated[Person, Depends(identify, when=has_employer)], seconds: EMPLOYER_SECONDS
) -> int:
    print("asking the employer", flush=True)
    await asyncio.sleep(seconds)
    return 2600


@step
async def decide(
    score: Annotated[int, Depends(any_of(ask_north, ask_south))],
    income: Annotated[int | None, Depends(ask_employer)],  # None where the question was skipped
    loan: int,
) -> Action[Literal["accept", "refuse"]]:
    bearable = 5 * (income or 0) + 10 * score
    return Action("accept") if loan <= bearable else Action("refuse", bearable)


@step
async def pay_out(loan: int, person: Annotated[Person, Depends(identify)]) -> str:
    return f"{loan} euros for {person.name}"


@step
async def refuse(loan: int, decision: Annotated[Action, Depends(decide)]) -> str:
    return f"not {loan} euros, at most {decision.value}"


credit_check = graph(decide, {decide.on("accept"): pay_out, decide.on("refuse"): refuse})


async def main(name: str, loan: int, employer_seconds: float) -> None:
    async with Flujo(
        credit_check,
        pipeline_name="credit-check",
        state_backend="sqlite:///credit.db",
        resources={"employer_seconds": nullcontext(employer_seconds)},
    ) as flujo:
        result = await flujo.run({"name": name, "loan": loan}, run_id=f"{name}-{loan}")
    print(result.output["pay_out"] or result.output["refuse"])
    print("skipped:", *sorted(record.name for record in result.steps if record.status == StepStatus.SKIPPED))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check whether somebody gets a loan.")
    parser.add_argument("name", nargs="?", default="ann")
    parser.add_argument("loan", nargs="?", type=int, default=12000)
    parser.add_argument("--employer-seconds", type=float, default=0, help="how long the employer takes to answer")
    parser.add_argument("--chart", action="store_true", help="print the graph as a Mermaid chart")
    options = parser.parse_args()
    if options.chart:
        print(credit_check.to_mermaid(), end="")
    else:
        asyncio.run(main(options.name, options.loan, options.employer_seconds))
