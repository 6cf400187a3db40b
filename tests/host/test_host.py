"""``Host`` beside the wire: what it answers to lines that are wrong, a delegate that fails, and who is too late."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit.faces.runner import LoopKind, new_loop
from sepkit.host import Delegate, ExtensionDied, Host, KvStore, Manifest, UnknownEvent
from sepkit.host.manifest import GROUPS, Capabilities, Run
from sepkit.wire import messages

CHILDREN: Final = Path(__file__).with_name("children")
PATIENCE: Final = 20.0
LOOPS: Final[tuple[LoopKind, ...]] = ("asyncio", "uvloop")
ALL: Final = Capabilities(**dict.fromkeys(GROUPS, True))  # type: ignore[arg-type]  # `events` is no group


def child(name: str, *args: str, program: str = "") -> Manifest:
    run = Run(command=sys.executable, args=[str(CHILDREN / (program or f"{name}.py")), *args])
    return Manifest(name=name, version="1", root=CHILDREN, run=run, capabilities=ALL)


def script(name: str, source: str) -> Manifest:
    run = Run(command=sys.executable, args=["-c", source])
    return Manifest(name=name, version="1", root=CHILDREN, run=run, capabilities=ALL)


def on(loop_kind: LoopKind, work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), 50)

    with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
        runner.run(limited())


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


def is_there(pid: int) -> bool:
    """Whether there is such a process, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- lines that are wrong ----------------------------------------------------------------------------------------------


def frame(**fields: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", **fields})


LIST: Final = {"method": "kv/list", "params": {}}

ANSWERED: Final[list[tuple[str, object, int | None]]] = [
    # A line, the id and the code of its answer; None is a result.
    ("{", None, -32700),
    ('{"jsonrpc":"2.0","id":1,"method":"\xff","params":{}}', None, -32700),
    ('{"jsonrpc":"2.0","id":1,"method":"kv/list","params":{"x":NaN}}', None, -32700),
    ("\x00", None, -32700),
    *((line, None, -32600) for line in ("null", "5", '"x"', "true", "[]", "[{}]", "{}")),
    ('{"id":7,"method":"kv/list","params":{}}', 7, -32600),
    ('{"jsonrpc":"1.0","id":7,"method":"kv/list","params":{}}', 7, -32600),
    (frame(id=7, method=5, params={}), 7, -32600),
    (frame(id=7, method="kv/list", params=[]), 7, -32600),
    *((line, None, -32600) for line in (frame(id=None, **LIST), frame(id=True, **LIST), frame(id=1.5, **LIST))),
    *((line, None, -32600) for line in (frame(id={}, **LIST), frame(id=[], **LIST))),
    (frame(id=8, method="no/such", params={}), 8, -32601),
    (frame(id=8, method="initialize", params={}), 8, -32601),
    (frame(id=9, method="kv/get", params={}), 9, -32602),
    (frame(id=9, method="kv/get", params={"key": 5}), 9, -32602),
    *((frame(id=good, **LIST), good, None) for good in (0, "", 1, "1", "x" * 100)),
    (frame(id=3, **LIST, more="unknown fields are ignored"), 3, None),
]


@pytest.mark.parametrize("loop_kind", LOOPS)
def test_each_wrong_line_has_its_one_answer_and_the_next_is_heard(loop_kind: LoopKind) -> None:
    """The host answers each line before the next is sent, with the right code and id."""

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([child("raw")]) == []
            for line, rid, code in ANSWERED:
                result = await host.call_tool("raw.send", {"lines": [line], "answers": 1}, timeout=PATIENCE)
                (answer,) = result.details
                assert (line, answer.get("error", {}).get("code")) == (line, code)
                assert (line, type(answer["id"]), answer["id"]) == (line, type(rid), rid)
            deep = "[" * 100_000
            (answer,) = (await host.call_tool("raw.send", {"lines": [deep], "answers": 1}, timeout=PATIENCE)).details
            assert answer["error"]["code"] in (-32700, -32600)
            # A notification has no answer, whatever it is: the one answer is that of the request behind them.
            silent = [
                frame(method="no/such", params={}),
                frame(method="log", params={"level": 5}),
                frame(method="$/cancel", params={"id": 99}),
                "",
                "\r",
            ]
            lines = [*silent, frame(id=5, **LIST) + "\r"]
            (answer,) = (await host.call_tool("raw.send", {"lines": lines, "answers": 1}, timeout=PATIENCE)).details
            assert (answer["id"], "result" in answer) == (5, True)
            assert host.status()[0].epoch == 1

    on(loop_kind, main)


def test_many_long_replies_at_once_with_notifications_between_them() -> None:
    """200 replies of 256 KiB pass both ways with logs and events between them, each to its call."""

    class Listener(Delegate):
        logged = 0

        def log(self, extension: str, record: messages.LogParams) -> None:
            assert len(record.message) == 10_000
            self.logged += 1

    source = """
import json, sys, threading
lock = threading.Lock()
def send(**frame):
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **frame}) + "\\n")
        sys.stdout.flush()
def chatter():
    for _ in range(200):
        send(method="log", params={"level": "info", "message": "l" * 10_000})
for line in sys.stdin:
    frame = json.loads(line)
    match frame["method"]:
        case "initialize":
            tool = {"name": "echo", "description": "", "parameters": {}}
            send(id=frame["id"], result={"protocol_version": 1, "extension": {"name": "e", "version": "1"},
                                         "registrations": {"tools": [tool], "subscriptions": ["turn_start"]}})
            chatting = threading.Thread(target=chatter)
            chatting.start()
        case "tool/execute":
            send(id=frame["id"], result={"content": frame["params"]["arguments"]["text"]})
        case "shutdown":
            chatting.join()
            send(id=frame["id"], result={})
            break
"""

    async def main() -> None:
        listener = Listener()
        async with Host(store=KvStore(), delegate=listener) as host:
            assert await host.load([script("e", source)]) == []
            texts = [f"{number}-".ljust(256 * 1024, "x") for number in range(200)]
            calls = []
            for text in texts:
                calls.append(asyncio.ensure_future(host.call_tool("e.echo", {"text": text}, timeout=PATIENCE)))
                host.dispatch_event("turn_start", {"n": len(calls)})
            assert [result.content for result in await asyncio.gather(*calls)] == texts
            await until(lambda: listener.logged == 200)

    on("auto", main)


# -- who is too late, or gives up --------------------------------------------------------------------------------------


def test_what_an_ended_life_still_says_is_dropped() -> None:
    """What an extension says while it is being ended is not taken for the next process's."""

    class Listener(Delegate):
        def __init__(self) -> None:
            self.logged: list[str] = []

        def log(self, extension: str, record: messages.LogParams) -> None:
            self.logged.append(record.message)

    async def main() -> None:
        listener = Listener()
        async with Host(store=KvStore(), delegate=listener) as host:
            assert await host.load([child("raw")]) == []
            said = frame(method="log", params={"level": "info", "message": "in time"})
            await host.call_tool("raw.send", {"lines": [said], "answers": 0})
            await host._extension("raw").lives.reload(child("raw"))
            assert host.status()[0].epoch == 2
            assert [tool.name for tool in host.tools()] == ["raw.send"]
            assert host.tasks() == {"raw": []}
        assert listener.logged == ["in time"]

    on("auto", main)


STREAMING: Final = """
import json, sys

def send(**frame):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **frame}) + "\\n")
    sys.stdout.flush()

for line in sys.stdin:
    frame = json.loads(line)
    rid, method, params = frame.get("id"), frame.get("method"), frame.get("params", {})
    if method == "initialize":
        said = {"name": "streaming", "version": "1"}
        registrations = {"providers": [{"name": "p", "models": []}]}
        send(id=rid, result={"protocol_version": 1, "extension": said, "registrations": registrations})
    elif method == "provider/complete":
        for event in params["messages"]:
            send(method="provider/delta", params={"request_id": params["request_id"], "event": event["event"]})
        send(id=rid, result={"content": "x", "tool_calls": [], "finish_reason": "stop", "usage": {"prompt_tokens": 1}})
    elif rid is not None:
        send(id=rid, result={})
"""


@pytest.mark.parametrize("loop_kind", LOOPS)
def test_a_stream_event_that_the_host_does_not_know_reaches_the_caller(
    loop_kind: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Known events are records, all others come as they are; only what is malformed is left out, and told in the log.

    Source: docs/protocol.md, section 4.
    """
    told: list[object] = [
        {"type": "ResponseId", "id": "resp-1"},
        {"type": "Delta", "content": "x"},
        {"type": "Citation", "url": "https://a.test", "span": [1, 2]},
        {"type": "delta", "content": "x"},
        {"type": ""},
        {"type": "Usage", "prompt_tokens": 1},
        {"type": "Cost", "usd": 1},
        {"type": "Delta", "content": 5},
        {"type": 5},
        {"content": "x"},
        "Delta",
        None,
    ]

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([script("streaming", STREAMING)]) == []
            stream = host.complete("p", "m", [{"event": event} for event in told])
            assert [event async for event in stream] == [
                messages.ResponseId("resp-1"),
                messages.Delta("x"),
                UnknownEvent("Citation", {"url": "https://a.test", "span": [1, 2]}),
                UnknownEvent("delta", {"content": "x"}),
                UnknownEvent("", {}),
                messages.Usage(prompt_tokens=1),
                messages.Cost(1),
            ]
            assert stream.result is not None
            assert stream.result.usage == messages.Usage(prompt_tokens=1), "a host reads more than it may be sent"
        assert caplog.text.count("streaming: ignored a malformed provider/delta") == 1, "said once"

    on(loop_kind, main)


@pytest.mark.parametrize("loop_kind", LOOPS)
def test_an_end_is_not_held_up_by_a_grandchild_with_the_pipes(loop_kind: LoopKind) -> None:
    """Stopping returns even if one that cannot be found, without its mark, holds all pipes and what waits in them."""
    source = """
import json, subprocess, sys, time
held = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True, env={})
rid = json.loads(sys.stdin.readline())["id"]
tool = {"name": "t", "description": "", "parameters": {}}
result = {"protocol_version": 1, "extension": {"name": "h", "version": "1"}, "registrations": {"tools": [tool]}}
print(held.pid, file=sys.stderr, flush=True)
print(json.dumps({"jsonrpc": "2.0", "id": rid, "result": result}), flush=True)
time.sleep(60)
"""

    async def main() -> None:
        host = Host(store=KvStore(), shutdown_grace=0.3)
        assert await host.load([script("holder", source)]) == []
        await until(lambda: host.status()[0].stderr.endswith("\n"))
        held = int(host.status()[0].stderr)
        try:
            stuck = asyncio.ensure_future(host.call_tool("holder.t", {"text": "x" * (4 << 20)}))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await host.aclose()
            assert time.monotonic() - began < 4
            with pytest.raises(ExtensionDied):
                await asyncio.wait_for(stuck, 1)
            assert is_there(held), "else this has shown nothing"
        finally:
            os.kill(held, signal.SIGKILL)

    on(loop_kind, main)


def test_who_gives_up_loading_leaves_no_process_behind() -> None:
    """A load that is cancelled ends what it has begun; extensions that are ready stay until the host is closed."""

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            hanging = script("hanging", "import time; time.sleep(60)")
            loading = asyncio.ensure_future(host.load([hanging, child("raw")]))
            await until(lambda: [one.state for one in host.status()] == ["starting", "ready"])
            pids = [one.pid for one in host.status()]
            assert None not in pids
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            assert [is_there(pid) for pid in pids if pid is not None] == [False, True]
            assert [one.state for one in host.status()] == ["failed", "ready"]
        assert [is_there(pid) for pid in pids if pid is not None] == [False, False]

    on("auto", main)


# -- a delegate that fails ---------------------------------------------------------------------------------------------


class Broken(Delegate):
    """Fails at all that it is told, as who prints to a terminal that is gone."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("log", "stderr", "published", "registered", "state_changed", "task_changed"):
            return self._fail
        return super().__getattribute__(name)

    def _fail(self, *said: object) -> None:
        raise BrokenPipeError("the terminal is gone")


def test_a_delegate_that_fails_holds_up_no_life_and_no_death(caplog: pytest.LogCaptureFixture) -> None:
    """Host: what it tells the program cannot fail it; the extension starts, dies, comes back and ends all the same."""

    async def main() -> None:
        async with Host(store=KvStore(), delegate=Broken(), restart_delays=(0.01,)) as host:
            assert await host.load([child("raw")]) == []
            said = [
                frame(method="log", params={"level": "info", "message": "x"}),
                frame(method="registry/update", params={"tools": [{"name": "b", "description": "", "parameters": {}}]}),
                frame(id=1, method="bus/publish", params={"topic": "t", "payload": {}}),
            ]
            (answer,) = (await host.call_tool("raw.send", {"lines": said, "answers": 1})).details
            assert answer["result"] == {}
            assert [tool.name for tool in host.tools()] == ["raw.b", "raw.send"]
            pid = host.status()[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: host.status()[0].epoch == 2 and host.status()[0].state == "ready")
            noisy = "import sys; sys.stderr.write('one\\ntwo\\nthree without an end'); sys.exit(3)"
            (problem,) = await asyncio.wait_for(host.load([script("noisy", noisy)]), 5)
            assert "exit code 3" in str(problem.error)
            assert "three without an end" in str(problem.error)

    on("auto", main)
    assert "the terminal is gone" in caplog.text
