"""The reference host, as published, finds the plugins by their manifests, loads and uses them. Nothing is mocked."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from smooth_operator_core import extension as reference

PLUGINS = Path(__file__).parents[2] / "plugins"


class Delegate(reference.HostDelegate):  # type: ignore[misc]  # the reference host is untyped
    """What the host is asked and told."""

    def __init__(self) -> None:
        self.updates: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.store: dict[str, Any] = {}

    def tool_update(self, ext: str, params: Any) -> None:
        self.updates.put_nowait((ext, params))

    async def kv_get(self, ext: str, key: str) -> Any:
        return self.store.get(key)

    async def kv_set(self, ext: str, key: str, value: Any) -> None:
        self.store[key] = value


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A global extensions folder with both plugins in it, as a user would have installed them."""
    folder = tmp_path / "home" / "extensions"
    for name in ("hello", "permission_gate"):
        shutil.copytree(PLUGINS / name, folder / name)
    # The manifests say `python3`; a user has sepkit in the one that comes first.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest_asyncio.fixture
async def loaded(extensions: Path) -> AsyncIterator[tuple[Any, Delegate]]:
    """The reference host with both plugins loaded."""
    found, bad = reference.discover(extensions, None)
    assert bad == []
    assert [one.manifest.name for one in found] == ["hello", "permission-gate"]
    delegate = Delegate()
    host, failures = await reference.ExtensionHost.load(
        found,
        reference.HostInfo(name="reference", version="1"),
        reference.WorkspaceInfo(root=str(extensions), trusted=True),
        "cli",
        [],
        delegate,
    )
    assert failures == []
    try:
        yield host, delegate
    finally:
        await host.shutdown_all()


def tool_named(host: Any, name: str) -> Any:
    return next(tool for tool in host.tools() if tool.name == name)


async def run_turns(host: Any) -> str:
    result = await host.run_command("hello", "turns", {})
    return str(result["content"])


async def until_turns(host: Any, expected: str) -> None:
    """Events and requests have lanes of their own in the host; ask until the event has been observed."""
    async with asyncio.timeout(20):
        while await run_turns(host) != expected:
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_tool_is_called_and_its_progress_arrives_before_its_result(loaded: tuple[Any, Delegate]) -> None:
    """``tool/execute`` is answered with content, after its ``tool/update`` notifications.

    Source: docs/protocol.md, sections 3 and 4.
    """
    host, delegate = loaded
    greet = tool_named(host, "hello.greet")
    assert greet.description == "Greet someone by name."
    assert greet.parameters["required"] == ["name"]
    assert await greet.execute({"name": "Ada", "times": 2, "language": "fr"}) == "Bonjour, Ada!\nBonjour, Ada!"
    seen = [delegate.updates.get_nowait() for _ in range(delegate.updates.qsize())]
    assert [(ext, update["message"], update["progress"]) for ext, update in seen] == [
        ("hello", "greeting Ada", 0.0),
        ("hello", "greeting Ada", 0.5),
        ("hello", "done", 1.0),
    ]


@pytest.mark.asyncio
async def test_arguments_that_break_the_schema_are_a_result_with_is_error(loaded: tuple[Any, Delegate]) -> None:
    """Such a result lets the model correct itself; the reference host raises it as RuntimeError."""
    host, _ = loaded
    with pytest.raises(RuntimeError, match=r"\$\.times: expected integer"):
        await tool_named(host, "hello.greet").execute({"name": "Ada", "times": 11})


@pytest.mark.asyncio
async def test_the_gate_blocks_and_lets_pass(loaded: tuple[Any, Delegate]) -> None:
    """A block ends the chain with its reason; continue leaves the call as it was.

    Source: docs/protocol.md, section 6.
    """
    host, _ = loaded
    blocked = await host.run_tool_call_hook("bash", {"command": "rm -rf /"})
    assert blocked.blocked
    assert "rm -rf /" in blocked.reason
    assert "fail-closed" not in blocked.reason, "blocked by the gate, not by its failure"
    passed = await host.run_tool_call_hook("bash", {"command": "ls"})
    assert not passed.blocked
    assert passed.value == {"tool": "bash", "arguments": {"command": "ls"}}


@pytest.mark.asyncio
async def test_a_hook_that_fails_blocks_and_can_be_told_from_a_denial(loaded: tuple[Any, Delegate]) -> None:
    """A ``tool_call`` without a tool fails closed, and its reason says that the hook failed, not that it denied."""
    host, _ = loaded
    failed = await host.run_hook(reference.HookType.TOOL_CALL, {"arguments": {}})
    assert failed.blocked
    assert failed.reason == "tool_call hook failed (fail-closed)"


@pytest.mark.asyncio
async def test_an_event_is_observed(loaded: tuple[Any, Delegate]) -> None:
    """A subscribed event reaches its handler; a command shows its effect. Source: docs/protocol.md, section 7."""
    host, _ = loaded
    assert host.has_subscriber("turn_start")
    assert await run_turns(host) == "0 turns"
    host.dispatch_event("turn_start", {"agent_id": "a"})
    host.dispatch_event("turn_end", {"agent_id": "a"})
    await until_turns(host, "1 turns")


@pytest.mark.asyncio
async def test_a_command_runs_and_completes(loaded: tuple[Any, Delegate]) -> None:
    """``command/execute`` and ``command/complete`` are answered as the host expects.

    Source: docs/protocol.md, section 3.
    """
    host, _ = loaded
    assert [(ext, command.name) for ext, command in host.commands()] == [("hello", "turns")]
    assert await host.run_command(None, "turns", {"unit": "dozens"}) == {"content": "0.0 dozen turns"}
    completions = await host.complete_command("hello", "turns", "d")
    assert [completion.value for completion in completions] == ["dozens"]


@pytest.mark.asyncio
async def test_a_reload_gives_a_fresh_extension(loaded: tuple[Any, Delegate]) -> None:
    """A reload starts a new process and handshake, with nothing of the old state.

    Source: docs/protocol.md, section 2.
    """
    host, _ = loaded
    host.dispatch_event("turn_start", {})
    await until_turns(host, "1 turns")
    await host.reload("hello")
    assert await run_turns(host) == "0 turns"
    (greet,) = host.tools_for("hello")
    assert await greet.execute({"name": "Ada"}) == "Hello, Ada!"


@pytest.mark.asyncio
async def test_shutdown_is_answered_inside_the_hosts_grace(extensions: Path, tmp_path: Path) -> None:
    """The reply comes and the process exits by itself, well inside 5 s; the lifespan has ended.

    Source: docs/protocol.md, section 2.
    """
    ended = tmp_path / "ended"
    folder = extensions / "leaves-a-mark"
    folder.mkdir()
    (folder / "app.py").write_text(
        f"""
from contextlib import asynccontextmanager
from pathlib import Path
from sepkit import App

@asynccontextmanager
async def lifespan(app):
    yield
    Path({json.dumps(str(ended))}).write_text("lifespan")

app = App("leaves-a-mark", lifespan=lifespan)

@app.tool
async def pid() -> int:
    import os
    return os.getpid()
"""
    )
    manifest = (PLUGINS / "hello" / "extension.toml").read_text().replace('"hello"', '"leaves-a-mark"')
    (folder / "extension.toml").write_text(manifest)
    found, _ = reference.discover(extensions, None)
    host, failures = await reference.ExtensionHost.load(
        [one for one in found if one.manifest.name == "leaves-a-mark"],
        reference.HostInfo(name="reference", version="1"),
        reference.WorkspaceInfo(root="/", trusted=True),
        "headless",
        [],
        Delegate(),
    )
    assert failures == []
    pid = int(await tool_named(host, "leaves-a-mark.pid").execute({}))
    began = time.monotonic()
    await host.shutdown_all()
    assert time.monotonic() - began < 4
    assert ended.read_text() == "lifespan"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
