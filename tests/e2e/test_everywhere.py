"""One App that uses documents, settings, secrets, jobs, fetch and users, unchanged at each kind of host."""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from smooth_operator_core import extension as reference

from sepkit.host import Host, discover
from sepkit.testing import McpClient
from tests.driver import HANDSHAKE, Extension

APP = """
import asyncio
from dataclasses import dataclass
from datetime import timedelta
from sepkit import App, JobContext, ToolContext
from sepkit.errors import NoUser

app = App("everything", needs=["network:127.0.0.1"], instructions="Be brief.")

@dataclass
class Note:
    text: str
    stars: int = 0

notes = app.collection("notes", Note, indexes=["stars"])
depth = app.setting("depth", int, default=1)
ran = asyncio.Event()

@app.job
async def later(ctx: JobContext) -> None:
    await ctx.store(notes).put("job", Note(ctx.payload))
    ran.set()

@app.tool
async def everything(url: str, ctx: ToolContext) -> dict:
    store = ctx.store(notes)
    await store.put_many({"a": Note("first", 1), "b": Note("second", 5)})
    found = [note.text for note in await store.find({"stars": {"$gte": 2}})]
    await ctx.set_setting(depth, 7)
    await app.schedule.at(timedelta(0), later, payload="from the job", id="one")
    await asyncio.wait_for(ran.wait(), 20)
    job = await store.get("job")
    answer = await ctx.fetch(url)
    try:
        ctx.user.store(notes)
    except NoUser:
        user = "none"
    return {
        "found": found, "depth": ctx.setting(depth), "secret": await ctx.secrets.get("api.key"),
        "job": job.text, "fetched": answer.text, "user": user, "users": await ctx.users(),
    }
"""

MANIFEST = """
name = "everything"
version = "0.0.0"
protocol = 1
[run]
command = "python3"
args = ["-m", "sepkit", "run", "app:app"]
[run.env]
SEPKIT_DATA_DIR = "{data}"
SEPKIT_SECRET_API_KEY = "k1"
[capabilities]
tools = true
hooks = true
"""

EXPECTED = {
    "found": ["second"],
    "depth": 7,
    "secret": "k1",
    "job": "from the job",
    "fetched": "hello",
    "user": "none",
    "users": [],
}
Call = Callable[[str], Awaitable[Any]]


@pytest.fixture
def url() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The extension, as a user has installed it; its home."""
    folder = tmp_path / "home" / "extensions" / "everything"
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP, encoding="utf-8")
    (folder / "extension.toml").write_text(MANIFEST.format(data=tmp_path / "data"), encoding="utf-8")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "home"


@asynccontextmanager
async def at_the_reference_host(home: Path) -> AsyncIterator[Call]:
    found, bad = reference.discover(home / "extensions", None)
    assert bad == []
    host, failures = await reference.ExtensionHost.load(
        found,
        reference.HostInfo(name="reference", version="1"),
        reference.WorkspaceInfo(root=str(home), trusted=True),
        "cli",
        [],
        reference.HostDelegate(),
    )
    try:
        assert failures == []
        (tool,) = host.tools()

        async def call(url: str) -> Any:
            return json.loads(await tool.execute({"url": url}))

        yield call
    finally:
        await host.shutdown_all()


@asynccontextmanager
async def at_sepkits_host(home: Path) -> AsyncIterator[Call]:
    async with Host("test", "1", workspace=home, trusted=True) as host:
        assert await host.load(discover(home=home)) == []

        async def call(url: str) -> Any:
            return (await host.call_tool("everything.everything", {"url": url})).details

        yield call


@asynccontextmanager
async def at_an_mcp_client(home: Path) -> AsyncIterator[Call]:
    command = [sys.executable, "-m", "sepkit", "run", "app:app", "--mcp"]
    folder = home / "extensions" / "everything"
    env = {**os.environ, "SEPKIT_DATA_DIR": str(home.parent / "data"), "SEPKIT_SECRET_API_KEY": "k1"}
    async with McpClient(command, cwd=folder, env=env) as client:

        async def call(url: str) -> Any:
            return (await client.call_tool("everything", {"url": url})).structured

        yield call


@asynccontextmanager
async def at_a_host_without_any_of_it(home: Path) -> AsyncIterator[Call]:
    """It answers no request of the extension, and has switched off what it can."""
    env = {**os.environ, "SEPKIT_DATA_DIR": str(home.parent / "data"), "SEPKIT_SECRET_API_KEY": "k1"}
    off = dict.fromkeys(("kv", "exec", "ui", "bus", "session", "tasks"), False)
    with Extension(home / "extensions" / "everything", env=env, handshake=False) as extension:
        extension.ask("initialize", {**HANDSHAKE, "capabilities_enabled": off})

        async def call(url: str) -> Any:
            return extension.tool("everything", url=url)["details"]

        yield call


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "host", [at_the_reference_host, at_sepkits_host, at_an_mcp_client, at_a_host_without_any_of_it]
)
async def test_the_services_are_there_at_each_kind_of_host(host: Any, installed: Path, url: str) -> None:
    async with host(installed) as call:
        assert await call(url) == EXPECTED
    assert (installed.parent / "data" / "everything" / "app.sqlite3").is_file()
