"""A grown extension: twenty tools that take attrs classes, hooks, an event, a command, a task and a lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import attrs
from annotated_types import Ge

from sepkit import App, Block, EventContext, HookContext, TaskContext, ToolCall, ToolContext, UserBash


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, int]]:
    yield {"calls": 0}


app = App("typed", version="1.0.0", lifespan=lifespan)


@attrs.frozen
class Place:
    """Where something is."""

    name: str
    latitude: float = 0.0
    longitude: float = 0.0
    tags: list[str] = attrs.field(factory=list)


@attrs.frozen
class Order:
    """What is ordered, and where it goes."""

    place: Place
    count: Annotated[int, Ge(1)] = 1
    note: str | None = None


def made() -> Callable[..., Any]:
    async def tool(order: Order, places: list[Place], ctx: ToolContext, limit: int = 10, dry: bool = False) -> Order:
        """Put an order somewhere.

        Args:
            order: The order.
            places: Where it may go.
            ctx: The call.
            limit: How many of them are tried.
            dry: Only look.
        """
        return order

    return tool


for number in range(20):
    app.add_tool(made(), name=f"tool_{number}")


@app.hook("tool_call")
async def guard(call: ToolCall, ctx: HookContext) -> Block | None:
    return Block("not there") if "/etc" in str(call.arguments) else None


@app.hook("user_bash")
async def careful(call: UserBash) -> Block | None:
    return None


@app.on("turn_start")
async def turn(payload: dict[str, Any], ctx: EventContext) -> None:
    ctx.log.debug("a turn")


@app.command
async def report(days: int = 1) -> str:
    """Say what has been ordered."""
    return f"nothing in {days} days"


@app.task(restart="on-failure")
async def poll(ctx: TaskContext) -> None:
    """Look for news."""
    await ctx.wait_stop()
