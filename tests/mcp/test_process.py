"""``run --mcp`` as clients start it: a process that is probed, asked, and ended; and hostile lines over its pipes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from sepkit.cli.mcp_clients import absolute, server_name
from sepkit.testing import McpClient
from tests.driver import Extension
from tests.e2e.test_hostile import BAD_JSON, NO_FRAMES, frame
from tests.mcp.checked import meta
from tests.mcp.test_wire import initialize, request

APP: Final = """
import sys
from sepkit import App, ToolContext

app = App("served", version="1.0.0")
app.flag("loud", default=False)

@app.tool
async def echo(text: str) -> str:
    print("stray output")
    return text

@app.tool
async def flag(ctx: ToolContext) -> str:
    return repr(ctx.flags["loud"])

@app.tool
async def modules() -> list[str]:
    return sorted(sys.modules)

@app.hook("input")
async def gate() -> None: ...

@app.provider("acme", models=[])
async def acme():
    yield None
"""


def start(*options: str, source: str = APP, **more: Any) -> Extension:
    return Extension(source, "--mcp", *options, handshake=False, **more)


def test_a_process_is_greeted_called_and_ends_at_end_of_file_with_0() -> None:
    with start() as server:
        server.send(initialize("2025-06-18", rid=1))
        server.notify("notifications/initialized", {})
        assert server.answer(1)["result"]["serverInfo"] == {"name": "served", "version": "1.0.0"}
        server.send(request("a", "tools/call", name="echo", arguments={"text": "hi"}))
        assert server.answer("a")["result"]["content"] == [{"type": "text", "text": "hi"}]
        assert server.end() == 0
        assert server.rest() == []
        assert "mcp: not served: hook input (gate), provider acme" in server.stderr
        assert server.stderr.count("not served") == 1
        assert "stray output" in server.stderr


def test_a_process_ends_at_sigterm_with_0_and_answers_what_was_asked() -> None:
    with start() as server:
        server.send(request(1, "tools/call", name="echo", arguments={"text": "hi"}, _meta=meta()))
        assert server.answer(1)["result"]["resultType"] == "complete"
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_process_whose_input_is_empty_ends_with_0() -> None:
    with start() as server:
        assert server.end() == 0
        assert server.rest() == []


def test_neither_face_imports_the_other() -> None:
    with start() as server:
        server.send(request(1, "tools/call", name="modules", _meta=meta()))
        names = set(orjson.loads(server.answer(1)["result"]["content"][0]["text"]))
        assert server.end() == 0
    assert "sepkit.faces.mcp.dispatcher" in names
    unwanted = {"sepkit.faces.sep.dispatcher", "sepkit.capabilities.services", "sqlite3", "click", "hashlib", "mcp"}
    assert not unwanted & names
    with Extension(APP) as extension:
        sep = set(extension.tool("modules")["details"])
        assert extension.end() == 0
    assert not {name for name in sep if "faces.mcp" in name}


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [(("--flag", "loud=true"), {"SEPKIT_FLAG_LOUD": "false"}, "True"), ((), {"SEPKIT_FLAG_LOUD": "true"}, "True")],
)
def test_flags_come_from_the_command_line_and_the_environment(
    options: tuple[str, ...], env: dict[str, str], expected: str
) -> None:
    with start(*options, env={**os.environ, **env}) as server:
        server.send(request(1, "tools/call", name="flag", _meta=meta()))
        assert server.answer(1)["result"]["content"][0]["text"] == expected
        assert server.end() == 0


@pytest.mark.parametrize(
    ("options", "source", "code", "text"),
    [
        (("--flag", "lout=1"), APP, 78, "--flag 'lout': expected a flag of the app (loud"),
        (("--flag", "loud"), APP, 2, "'loud' sets no flag; write NAME=VALUE"),
        (
            (),
            APP + '\n@app.tool(name="a.b")\nasync def b(): ...\n@app.tool(name="a_b")\nasync def c(): ...\n',
            7,
            "would both be 'a_b' to MCP clients",
        ),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence_with_an_exit_code(
    options: tuple[str, ...], source: str, code: int, text: str
) -> None:
    with start(*options, source=source) as server:
        assert server.wait() == code
        server.wait_for_stderr(text)
        assert "Traceback" not in server.stderr
        assert server.rest() == []


def test_on_a_terminal_it_says_what_it_is_and_how_clients_come_to_start_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sepkit", "run", "app:app", "--mcp"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(theirs)
    try:
        os.write(ours, b"\x04")
        said = process.communicate(timeout=30)[1].decode()
    finally:
        os.close(ours)
        process.kill()
    assert process.returncode == 0
    assert "sepkit: served 1.0.0 is an MCP server, and waits for a client" in said
    assert f"claude mcp add served -s user -- {sys.executable} -m sepkit run {tmp_path}/app.py:app --mcp" in said
    (line,) = [line for line in said.splitlines() if "mcpServers" in line]
    entry = json.loads(line)["mcpServers"]["served"]
    assert entry == {"command": sys.executable, "args": ["-m", "sepkit", "run", f"{tmp_path}/app.py:app", "--mcp"]}


def test_names_and_targets_are_such_as_all_clients_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_name("Hello_World.2") == "hello-world-2"
    assert server_name("2fast") == "app-2fast"
    assert len(server_name("x" * 80)) == 31
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text("", encoding="utf-8")
    assert absolute("app:app") == f"{tmp_path}/app.py:app"
    assert absolute("./app.py:app") == f"{tmp_path}/app.py:app"
    assert absolute("package.module:app") == "package.module:app"


@pytest.mark.asyncio
async def test_the_test_client_starts_a_command_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    client = McpClient([sys.executable, "-m", "sepkit", "run", "app:app", "--mcp"], cwd=tmp_path)
    async with client:
        assert (await client.call_tool("echo", {"text": "hi"})).text == "hi"
    assert client.exit_code == 0


# -------------------------------------------------------------------------------------------------------------- hostile
@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[Extension]:
    with start("--loop", request.param, "--log-level", "warning") as made:
        made.send(initialize("2025-11-25", rid="init"))
        made.notify("notifications/initialized", {})
        made.answer("init")
        yield made
        assert made.end() == 0
        assert made.rest() == []
        assert "Traceback" not in made.stderr


def answered(server: Extension, data: bytes) -> list[dict[str, Any]]:
    """What is answered to ``data`` by the time that a ping is."""
    server.write(data + b"\n")
    server.answer(server.request("ping", {}))
    return server.kept()


UNREADABLE: Final = {
    **BAD_JSON,
    **{
        name: line
        for name, line in NO_FRAMES.items()
        # What has an id that can be read is answered under it; see below.
        if b'"id":' not in line or line[:1] == b"[" or b'"id": null' in line
    },
}


def test_unreadable_lines_are_never_answered_and_the_next_line_is_served(server: Extension) -> None:
    wrong = {name: found for name, line in UNREADABLE.items() if (found := answered(server, line))}
    # Half a character is read as U+FFFD, but not in an id, which must go back as it came.
    assert wrong == {}
    assert len(UNREADABLE) > 90


def test_a_line_with_a_readable_id_is_answered_once_and_never_under_null(server: Extension) -> None:
    for name, line in NO_FRAMES.items():
        for found in answered(server, line):
            assert found["id"] is not None, name
            assert found["error"]["code"] == -32600, name


METHODS: Final[dict[str, dict[str, Any]]] = {
    "initialize": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
    "tools/call": {"name": "echo", "arguments": {"text": "x"}},
    "prompts/get": {"name": "nothing"},
    "resources/read": {"uri": "x://y"},
    "completion/complete": {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "a", "value": ""}},
    "logging/setLevel": {"level": "error"},
    "resources/subscribe": {"uri": "x://y"},
    "subscriptions/listen": {"notifications": {"toolsListChanged": True}, "_meta": meta()},
    "server/discover": {"_meta": meta()},
    "tools/list": {"_meta": meta()},
}
ODD: Final[tuple[Any, ...]] = (
    None,
    0,
    -1,
    1.5,
    True,
    "",
    "x",
    [],
    {},
    [[]],
    {"x": {"y": 1}},
    2**63,
    "\x00",
    "x" * 10_000,
)


def test_each_member_of_each_request_may_be_anything_and_is_answered_once_with_a_code_of_mcp(server: Extension) -> None:
    """No request hangs, ends the process, or is answered with a failure of the server's own."""
    sent = 0
    for method, params in METHODS.items():
        for name in params:
            for value in ODD:
                if method == "subscriptions/listen" and name == "notifications" and type(value) is dict:
                    continue  # a stream that opens, and is answered at the end
                sent += 1
                rid = f"odd-{sent}"
                server.write(frame(method, {**params, name: value}, rid=rid) + b"\n")
                found = server.answer(rid)
                assert "result" in found or found["error"]["code"] in (-32601, -32602, -32002, -32022), found
    assert sent > 200
    server.send(initialize("2025-11-25", rid="again"))
    server.answer("again")
    server.send(request("last", "tools/call", name="echo", arguments={"text": "alive"}))
    assert server.answer("last")["result"]["content"][0]["text"] == "alive"
    assert server.kept() == []


def test_notifications_may_hold_anything_and_are_never_answered(server: Extension) -> None:
    for method in ("notifications/cancelled", "notifications/initialized", "notifications/progress", "tools/call", "x"):
        for value in ODD:
            assert answered(server, frame(method, {"requestId": value, "name": value})) == []


def test_a_request_whose_id_is_in_use_does_not_disturb_the_first(server: Extension) -> None:
    listen = {"notifications": {"toolsListChanged": True}, "_meta": meta()}
    server.send(request("twice", "subscriptions/listen", **listen))
    server.send(request("twice", "ping"))
    assert server.answer("twice")["error"]["code"] == -32600
    server.notify("notifications/cancelled", {"requestId": "twice"})
    assert [one["method"] for one in answered(server, b"")] == ["notifications/subscriptions/acknowledged"]


def test_an_over_long_line_is_logged_and_the_next_one_is_served() -> None:
    with start("--max-frame-bytes", "4096") as server:
        server.write(b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 10_000 + b'"}\n')
        server.send({"jsonrpc": "2.0", "id": 2, "method": "ping"})
        assert server.answer(2)["result"] == {}
        assert server.kept() == []
        server.wait_for_stderr("the line is longer than max_frame_bytes (4096 bytes)")
        assert server.end() == 0


def test_memory_stays_flat_over_calls_of_both_eras() -> None:
    """Plain ones, with progress, failing, and suspended ones that go on."""
    source = """
from sepkit import App, ToolContext
app = App("flat")
@app.tool
async def plain(a: int) -> dict:
    return {"a": a}
@app.tool
async def ask(ctx: ToolContext) -> str:
    ctx.update("asking")
    return str(await ctx.ui.confirm("Sure?"))
"""
    modern = {**meta(progressToken="t"), "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    with start(source=source) as server:
        server.send(initialize("2025-06-18", rid="i"))
        server.notify("notifications/initialized", {})
        server.answer("i")

        def rounds(count: int) -> int:
            for _ in range(count):
                server.send(request("p", "tools/call", name="plain", arguments={"a": 1}))
                server.send(request("m", "tools/call", name="plain", arguments={"a": "x"}, _meta=modern))
                first = request("q", "tools/call", name="ask", arguments={}, _meta=modern)
                server.send(first)
                assert server.answer("p")["result"]["structuredContent"] == {"a": 1}
                assert server.answer("m")["result"]["isError"]
                state = server.answer("q")["result"]["requestState"]
                answers = {"q1": {"action": "accept", "content": {"value": True}}}
                server.send({**first, "params": {**first["params"], "inputResponses": answers, "requestState": state}})
                assert server.answer("q")["result"]["content"] == [{"type": "text", "text": "True"}]
                server.kept()
            return rss(server.process.pid)

        before = rounds(300)
        assert rounds(25_000 if SOAK else 700) - before < 3 * 1024, "KiB"
        assert server.end() == 0


def rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))


SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
