"""Blocks shell commands that destroy what cannot be brought back.

It looks at what the agent's tools are about to run (``tool_call``) and at what the user types (``user_bash``). Here is
what the host sees; the package ``gate`` reads the commands.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from typing import Final

from gate.calls import Command, commands_of
from gate.decision import Verdict, decide
from gate.marks import Unreadable
from gate.rules import Rules
from gate.settings import FLAGS, Settings, settings_of
from sepkit import App, Block, HookContext, RpcError, ToolCall, UserBash

ANSWER_LIMIT: Final = 50.0  # seconds that a person has; hosts wait 60 for a hook
CALL_LIMIT: Final = 2.0  # seconds of the thread's own for all commands of a call; one has a second
_SHOWN: Final = 1_000  # characters of a command in a reason: some hosts take no line over 64 KiB

app = App("permission-gate", version="0.2.0")
for _name, (_default, _description, _) in FLAGS.items():
    app.flag(_name, _default, description=_description)

log = logging.getLogger("permission-gate")
_told: set[str] = set()


@app.hook("tool_call")
async def gate_tools(call: ToolCall, ctx: HookContext) -> Block | None:
    settings = _settings(ctx)
    try:
        commands = list(commands_of(call.tool, call.arguments, settings))
    except Unreadable as error:
        shown = json.dumps(call.arguments, default=str)[:_SHOWN]
        return await _answer(Command(text=shown), Verdict(f"it cannot be read: {error}", readable=False), settings, ctx)
    block = await _judge(commands, settings, ctx)
    if block is not None:
        ctx.log.warning("blocked %s: %s", call.tool, (block.reason or "").rpartition(" is blocked: ")[2])
    return block


@app.hook("user_bash")
async def gate_user(typed: UserBash, ctx: HookContext) -> Block | None:
    return await _judge([Command(text=typed.command)], _settings(ctx), ctx)


def _settings(ctx: HookContext) -> Settings:
    def wrong(message: str) -> None:
        if message not in _told and len(_told) < 100:
            _told.add(message)
            ctx.log.error("%s", message)

    return settings_of(ctx.flags, wrong)


async def _judge(commands: Iterable[Command], settings: Settings, ctx: HookContext) -> Block | None:
    rules = Rules(settings.rules, settings.protect)
    doubtful: list[tuple[Command, Verdict]] = []
    end = time.thread_time() + CALL_LIMIT
    for command in commands:
        if time.thread_time() > end:
            doubtful.append(
                (command, Verdict("it cannot be read: its call holds too much to be followed", readable=False))
            )
            break
        verdict = decide(command, rules, ctx.workspace.root)
        if verdict is not None and verdict.readable:
            return _block(command, verdict.reason)
        if verdict is not None:
            doubtful.append((command, verdict))
    for command, verdict in doubtful[:1]:
        return await _answer(command, verdict, settings, ctx)
    return None


async def _answer(command: Command, verdict: Verdict, settings: Settings, ctx: HookContext) -> Block | None:
    """What becomes of a command that cannot be read: a person decides, and without one it is blocked."""
    if settings.unreadable == "pass":
        return None
    if settings.unreadable == "block" or not ctx.has_ui("confirm"):
        return _block(command, verdict.reason)
    try:
        async with asyncio.timeout(ANSWER_LIMIT):
            agreed = await ctx.ui.confirm(f"May this run? {_shown(command)}: {verdict.reason}")
    except TimeoutError:
        return _block(command, f"{verdict.reason}; no person has answered within {ANSWER_LIMIT:.0f} s")
    except RpcError:
        return _block(command, verdict.reason)
    return None if agreed else _block(command, f"{verdict.reason}; a person was asked, and did not agree")


def _shown(command: Command) -> str:
    return f"{command.shown[:_SHOWN]!r}{'…' * (len(command.shown) > _SHOWN)}"


def _block(command: Command, reason: str) -> Block:
    return Block(f"{_shown(command)} is blocked: {reason[:_SHOWN]}")
