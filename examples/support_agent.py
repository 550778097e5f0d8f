"""A support agent: a loop of model calls and tools, with a person before the one that pays money out.

The agent is one coroutine. Each answer of the model and each result of a tool is on disk before the next call, so a
ticket whose process was killed goes on in the middle of the conversation, without asking the model again. ``refund``
waits for an approval, and has ``effect="once"``: the bank below cannot tell a second request from a repeated one, so
when a refund was interrupted the run asks a person what became of it. No network is needed: a script stands in for the
language model, and a text file for the bank.

    $ python examples/support_agent.py open t-1 "My lamp arrived broken, order A-1001. I want my money back."

The run waits for an approval now, in no process. Approve it, and kill -9 the process when it says "refunding":

    $ python examples/support_agent.py approve t-1 Ann --bank-seconds 30

The money is on its way, but nobody knows whether the bank got the request. The run does not guess:

    $ python examples/support_agent.py show t-1

Look into payouts.txt. The payment is there, so say so, and the agent finishes its conversation. Had it not been there,
"unpaid" in place of "paid" would have paid it now:

    $ python examples/support_agent.py settle t-1 paid

Who has approved it, and when, is in the audit log:

    $ flujo-async audit --db support.db --event signal.received
"""

from __future__ import annotations

import argparse
import asyncio
import re
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel

from flujo_async import Flujo, Resource, Retry, RunContext, RunResult, Step, StepContext, step, workflow

MAX_TURNS = 10
ORDERS = {"A-1001": ("a brass lamp", 49), "A-1002": ("a wool rug", 320)}


class ToolCall(BaseModel):
    id: str
    tool: str
    arguments: dict[str, Any]


class Message(BaseModel):
    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: list[ToolCall] = []
    answers: str | None = None
    """Of a tool's message: the id of the call."""


class Approval(BaseModel):
    granted: bool
    by: str


# ------------------------------------------------------------------------------------------------------ the outside


class Model(Protocol):
    """What the agent needs of a language model. Put the client of a real one behind this one method."""

    async def reply(self, messages: list[Message], tools: list[str]) -> Message: ...


class ScriptedModel:
    """Plays the part of the model: looks the order up, asks for the refund, and tells the customer."""

    async def reply(self, messages: list[Message], tools: list[str]) -> Message:
        order = re.search(r"A-\d+", messages[0].text)
        match sum(message.role == "assistant" for message in messages):
            case 0 if order:
                calls = [ToolCall(id="c1", tool="find_order", arguments={"order": order[0]})]
            case 1 if order and (price := re.search(r"(\d+) euros", messages[-1].text)):
                calls = [ToolCall(id="c2", tool="refund", arguments={"order": order[0], "euros": int(price[1])})]
            case _:
                return Message(role="assistant", text=f"I have looked into it: {messages[-1].text}.")
        return Message(role="assistant", calls=calls)


@dataclass(frozen=True)
class Bank:
    """Pays whatever it is asked to, as often as it is asked, and takes its time to answer."""

    ledger: Path
    seconds: float

    async def pay(self, order: str, euros: int) -> str:
        with self.ledger.open("a", encoding="utf-8") as file:
            file.write(f"{euros} euros for {order}\n")
        await asyncio.sleep(self.seconds)
        return f"{euros} euros are on their way to you"


# -------------------------------------------------------------------------------------------------------- the agent


@step(retry=Retry(max_attempts=5, give_up_on=ValueError), timeout=120)
async def think(messages: list[Message], ctx: StepContext, model: Annotated[Model, Resource("model")]) -> Message:
    print("asking the model", flush=True)
    reply = await model.reply(messages, sorted(TOOLS))
    ctx.report_usage(tokens={"input": len(str(messages)) // 4, "output": len(reply.text) // 4})  # a real client counts
    ctx.emit({"said": reply.text, "uses": [call.tool for call in reply.calls]})  # for a chat window that follows
    return reply


@step
async def find_order(order: str) -> str:
    item, euros = ORDERS[order]
    return f"order {order} is {item} for {euros} euros"


@step(effect="once")
async def refund(order: str, euros: int, bank: Annotated[Bank, Resource("bank")]) -> str:
    print("refunding", euros, "euros for", order, flush=True)
    return await bank.pay(order, euros)


TOOLS: dict[str, Step[Any, str, Any]] = {"find_order": find_order, "refund": refund}
NEED_APPROVAL = {"refund"}


@workflow(name="support-agent", version="1.0.0")
async def support_agent(request: str, ctx: RunContext) -> str:
    messages = [Message(role="user", text=request)]
    for _ in range(MAX_TURNS):
        reply = await think(messages)
        messages.append(reply)
        if not reply.calls:
            return reply.text
        messages += await asyncio.gather(*(use(call, ctx) for call in reply.calls))
    return "A colleague will take over from here."


async def use(call: ToolCall, ctx: RunContext) -> Message:
    """Let the model use a tool, if a person agrees where one has to."""
    if call.tool in NEED_APPROVAL:
        prompt = f"{call.tool} with {call.arguments}?"
        approval = await ctx.wait_for(f"approval of {call.id}", schema=Approval, prompt=prompt)
        if not approval.granted:
            return Message(role="tool", text=f"{approval.by} has refused that", answers=call.id)
    try:
        text = await TOOLS[call.tool](**call.arguments)
    except LookupError as error:  # a tool or an order that the model made up: let it read so, and try something else
        text = f"there is no {error}"
    return Message(role="tool", text=text, answers=call.id)


# ------------------------------------------------------------------------------------------------- the command line


def tell(result: RunResult[str]) -> None:
    for waiting in result.waiting_for:
        print(f"waiting for {waiting.kind} {waiting.name!r}:", waiting.prompt)
    if result.status == "completed":
        print("answer:", result.output)


async def answer(flujo: Flujo[str, str], ticket: str, approval: Approval) -> None:
    """Answer all approvals that a ticket waits for."""
    for waiting in (await flujo.state(ticket)).waiting_for:
        if waiting.kind == "signal":
            await flujo.signal(ticket, waiting.name, approval, by=approval.by)


async def settle(flujo: Flujo[str, str], ticket: str, *, is_paid: bool) -> None:
    """Decide on a refund that was interrupted: it counts as done, or is done again."""
    await flujo.run(run_id=ticket)  # takes the ticket up, if nobody has since the crash, up to the question
    if is_paid:
        await flujo.redrive(ticket, decision="skip", output="the money is on its way to you")
    else:
        await flujo.redrive(ticket, decision="retry")


async def main(verb: str, ticket: str, text: str, bank_seconds: float) -> None:
    resources = {
        "model": nullcontext(ScriptedModel()),
        "bank": nullcontext(Bank(Path("payouts.txt"), bank_seconds)),
    }
    async with Flujo(support_agent, state_backend="sqlite:///support.db", resources=resources) as flujo:
        match verb:
            case "open":
                await flujo.run(text, run_id=ticket)
            case "approve" | "refuse":
                await answer(flujo, ticket, Approval(granted=verb == "approve", by=text))
            case "settle":
                await settle(flujo, ticket, is_paid=text == "paid")
        tell(await flujo.run(run_id=ticket))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answer support tickets.")
    parser.add_argument("verb", choices=["open", "approve", "refuse", "show", "settle"])
    parser.add_argument("ticket", help="the ticket, which is the run_id")
    parser.add_argument("text", nargs="?", default="", help="the request; who approves; 'paid' or 'unpaid'")
    parser.add_argument("--bank-seconds", type=float, default=0, help="how long the bank takes to answer")
    options = parser.parse_args()
    asyncio.run(main(options.verb, options.ticket, options.text, options.bank_seconds))
