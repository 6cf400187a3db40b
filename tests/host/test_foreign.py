"""Extensions that were written without sepkit, in Python and in Node, right and wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit.errors import Cancelled, RequestTimeout, SepkitError
from sepkit.host import Delegate, Host, KvStore, Manifest
from sepkit.host.manifest import GROUPS, Capabilities, Run
from sepkit.wire import messages
from tests.conformance.extension import FAULTS

FOLDER: Final = Path(__file__).parents[1] / "conformance"
PYTHON: Final = [sys.executable, str(FOLDER / "extension.py")]
SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
NODE: Final = [shutil.which("node") or "node", str(FOLDER / "extension.mjs")]


def manifest(command: list[str], name: str = "plain") -> Manifest:
    return Manifest(
        name=name,
        version="1",
        root=FOLDER,
        run=Run(command=command[0], args=command[1:]),
        capabilities=Capabilities(**dict.fromkeys(GROUPS, True)),  # type: ignore[arg-type]  # `events` is no group
    )


class Agreeable(Delegate):
    ui_kinds = ("confirm",)

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.logged: list[str] = []

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        return messages.UiResult(confirmed=True)

    async def append_entry(self, extension: str, request: messages.SessionAppendEntryParams) -> None:
        self.entries.append(request.entry)

    def log(self, extension: str, record: messages.LogParams) -> None:
        self.logged.append(record.message)


@pytest.mark.parametrize("command", [PYTHON, NODE], ids=["python", "node"])
def test_an_extension_without_sepkit_is_loaded_and_driven(command: list[str]) -> None:
    """Host, "What it must show": one in Node and one in plain Python."""
    if shutil.which(command[0]) is None:
        pytest.skip("no node here")

    async def main() -> None:
        person = Agreeable()
        async with Host(store=KvStore(), delegate=person, flags={"loud": True}, trusted=True) as host:
            assert await host.load([manifest(command)]) == []
            assert [tool.name for tool in host.tools()] == ["plain.ask", "plain.echo", "plain.fail", "plain.slow"]
            assert (await host.call_tool("plain.echo", {"text": "hi"})).content == "HI"
            assert (await host.call_tool("plain.echo", {})).is_error
            told: list[messages.ToolUpdateParams] = []
            await host.call_tool("plain.slow", {"seconds": 0.1}, on_update=told.append)
            assert [update.progress for update in told] == [0.25, 0.5, 0.75, 1]
            with pytest.raises(RequestTimeout):
                await host.call_tool("plain.slow", {"seconds": 5}, timeout=0.1)
            failed = await host.call_tool("plain.fail")
            assert (failed.is_error, failed.details) == (True, {"why": "it is told to"})
            asked = [await host.call_tool("plain.ask") for _ in range(2)]
            assert [one.content for one in asked] == ["yes", "yes"]
            assert [one.details for one in asked] == [{"asked": 1, "refused": []}, {"asked": 2, "refused": []}]
            assert person.entries == [{"question": "Go on?", "agreed": True}] * 2
            assert person.logged == ["about to fail"]

            trimmed = await host.run_hook("tool_call", {"tool": "plain.echo", "arguments": {"text": " a "}})
            assert trimmed.value["arguments"] == {"text": "a"}
            denied = await host.run_hook("tool_call", {"tool": "bash", "arguments": {"command": "rm -rf /"}})
            assert (denied.verdict, denied.reason) == ("denied", "rm -rf is not wanted here")
            prompt = await host.run_hook("before_agent_start", {"system_prompt": "x"})
            assert prompt.value["system_prompt"].startswith("x\n")

            host.dispatch_event("turn_start", {})
            assert await host.run_command("turns") == "There have been 1 turns."
            assert await host.run_command("colour", {"name": "blue"}) == "The colour is blue."
            assert [one.value for one in await host.complete_command("colour", "g")] == ["green"]

            stream = host.complete("parrot", "small", [{"role": "user", "content": "hi"}])
            events = [event async for event in stream]
            assert [event.content for event in events if isinstance(event, messages.Delta)] == ["You", " said: ", "hi"]
            assert stream.result is not None
            assert stream.result.content == "You said: hi"
            assert (await host.oauth_login("parrot")).access_token == "access"
            slow = asyncio.ensure_future(host.call_tool("plain.slow", {"seconds": 5}))
            await asyncio.sleep(0.05)
            slow.cancel()
            with contextlib.suppress(asyncio.CancelledError, Cancelled):
                await slow
            assert host.status()[0].pending == 0
            assert host.status()[0].epoch == 1

    asyncio.run(main())


async def drive(host: Host, name: str) -> None:
    """Ask an extension for a bit of everything; it may fail at all of it, but only in its own way."""
    asks = [
        host.call_tool(f"{name}.echo", {"text": "x"}, timeout=1),
        host.call_tool(f"{name}.slow", {"seconds": 0.05}, on_update=lambda update: None, timeout=1),
        host.call_tool(f"{name}.ask", timeout=1),
        host.run_hook("before_agent_start", {"system_prompt": "x"}),
        host.run_command("colour", extension=name, timeout=1),
        host.complete_command("colour", "r", extension=name, timeout=1),
    ]
    host.dispatch_event("turn_start", {})
    for outcome in await asyncio.gather(*asks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, SepkitError), repr(outcome)


def test_no_wrong_extension_upsets_the_host() -> None:
    """Host: all of what an extension can do wrong, one fault at a time, beside one that does nothing wrong."""

    async def one(fault: str) -> None:
        options: dict[str, Any] = {"initialize_timeout": 5.0, "shutdown_grace": 0.3, "restart_delays": ()}
        async with Host(store=KvStore(), delegate=Agreeable(), trusted=True, **options) as host:
            wrong = manifest([*PYTHON, "--fault", fault], "wrong")
            problems = await host.load([wrong])
            assert all(isinstance(problem.error, SepkitError) for problem in problems)
            await drive(host, "wrong")

    async def main() -> None:
        async with Host(store=KvStore(), delegate=Agreeable(), trusted=True) as beside:
            assert await beside.load([manifest(PYTHON)]) == []
            chosen = list(FAULTS) if SOAK else list(FAULTS)[::4]
            faults = iter(chosen)
            tried: list[str] = []

            async def try_them() -> None:
                for fault in faults:
                    await one(fault)
                    tried.append(fault)
                    assert (await beside.call_tool("plain.echo", {"text": fault})).content == fault

            await asyncio.gather(*(try_them() for _ in range(4)))
            assert sorted(tried) == sorted(chosen)

    asyncio.run(main())
