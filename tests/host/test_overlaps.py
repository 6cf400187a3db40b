"""What happens at the same time: calls that are cancelled, starts and ends that overlap, and who is asked meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from sepkit.errors import SepkitError
from sepkit.host import Delegate, ExtensionDied, Host, KvStore, Manifest, read
from sepkit.host.lives import ExtensionUnavailable
from sepkit.wire import messages

PATIENCE: Final = 20.0

CHILD: Final = """
import json, os, signal, sys, time

HOW = sys.argv[1:]  # "slow": to shut down; "stubborn": does not; "asks": a person, when it is greeted; and more

def send(**frame):
    data = json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\\n"
    while data:
        data = data[os.write(1, data):]

if "stubborn" in HOW:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
tools = [{"name": "do", "description": "", "parameters": {"type": "object"}}]
registrations = {"tools": tools, "hooks": ["tool_call"] if "guards" in HOW else []}
for line in sys.stdin.buffer:
    frame = json.loads(line)
    rid, method = frame.get("id"), frame.get("method")
    if method == "initialize":
        if "floods" in HOW:
            for number in range(50_000):
                send(method="registry/update", params={"subscriptions": [str(number)]})
            send(method="log", params={"level": "error", "message": "the database is away"})
            send(id=rid, error={"code": -32603, "message": "no database"})
            continue
        send(id=rid, result={"protocol_version": 1, "extension": {"name": "x", "version": "1"},
                             "registrations": registrations})
        if "asks" in HOW:
            send(id="question", method="ui/request", params={"kind": "confirm", "prompt": "sure?"})
    elif method == "hook":
        send(id=rid, result={"action": "block", "reason": "never"})
    elif method == "shutdown":
        time.sleep(3600 if "stubborn" in HOW else 0.5 if "slow" in HOW else 0)
        send(id=rid, result={})
        break
    elif method == "task/start":
        if "hangs" in HOW and os.path.exists("again"):
            time.sleep(3600)
        open("again", "w").close()
        task = {"task_id": "t", "name": "t", "user_id": None, "restart_count": 0}
        send(id=rid, result={**task, "status": "running"})
        if "ends" in HOW:
            with open("ran", "a") as ran:
                ran.write("x")
            send(method="task/update", params={**task, "status": "stopped"})
    elif method == "tool/execute":
        arguments = frame["params"]["arguments"]
        if "exit" in arguments:
            os._exit(arguments["exit"])
        for number in range(arguments.get("learn", 0)):
            tool = {"name": f"t{number}", "description": "", "parameters": {"type": "object"}}
            send(method="registry/update", params={"tools": [tool]})
        send(id=rid, result={"content": "x" * arguments.get("size", 1)})
    elif rid is not None and method is not None:
        send(id=rid, result={})
"""


class Person(Delegate):
    """Is asked, and never answers."""

    ui_kinds = ("confirm",)

    def __init__(self) -> None:
        self.asked = 0
        self.withdrawn = 0
        self.logged: list[str] = []

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        self.asked += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self.withdrawn += 1
        return messages.UiResult()

    def log(self, extension: str, record: messages.LogParams) -> None:
        self.logged.append(record.message)


def manifest(folder: Path, *how: str, name: str = "x") -> Manifest:
    """An extension that behaves so, in a folder of its own, as a user would have it."""
    root = folder / name
    root.mkdir()
    (root / "child.py").write_text(textwrap.dedent(CHILD), encoding="utf-8")
    groups = "\n".join(f"{group} = true" for group in ("tools", "ui", "bus", "kv"))
    (root / "extension.toml").write_text(
        f'name = "{name}"\nversion = "1"\n'
        f'[run]\ncommand = "{sys.executable}"\nargs = {["child.py", *how]!r}\n[capabilities]\n{groups}\n',
        encoding="utf-8",
    )
    return read(root)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(main())


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children() -> list[int]:
    """The processes that this one has started, and that live."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, found) if lives(pid)]


def pid_of(host: Host) -> int:
    pid = host.status()[0].pid
    assert pid is not None
    return pid


def test_a_gate_that_is_reloaded_blocks(tmp_path: Path) -> None:
    """``tool_call`` fails closed, also during a reload. Source: docs/protocol.md, section 6."""

    async def test() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([manifest(tmp_path, "guards", "slow")]) == []
            reloading = asyncio.create_task(host.reload("x"))
            asked = 0
            while not reloading.done():
                folded = await host.run_hook("tool_call", {"tool": "bash", "arguments": {}})
                assert folded.blocked
                asked += 1
                await asyncio.sleep(0.02)
            await reloading
            assert asked > 1
            assert host.status()[0].state == "ready"

    run(test)


async def cancelled(work: Awaitable[object], after: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await work


@pytest.mark.parametrize("call", ["unload", "reload", "aclose"])
def test_who_gives_up_an_end_leaves_no_process_behind(call: str, tmp_path: Path) -> None:
    """Nothing of the child's session is left, even if the caller no longer waits for its orderly end."""

    async def test() -> None:
        host = Host(store=KvStore())
        await host.load([manifest(tmp_path, "stubborn")])
        pid = pid_of(host)
        work = {"unload": lambda: host.unload("x"), "reload": lambda: host.reload("x"), "aclose": host.aclose}[call]
        await cancelled(work(), 0.2)
        await until(lambda: not lives(pid))
        assert host.status()[0].state == ("failed" if call == "reload" else "stopped")
        await host.aclose()
        assert children() == []

    run(test)


@pytest.mark.parametrize("call", ["unload", "reload", "aclose"])
def test_an_end_that_was_given_up_is_waited_for_by_the_next(call: str, tmp_path: Path) -> None:
    """When ``aclose`` returns nothing is at work any more, and no process waits for somebody to take its exit code."""

    async def test() -> None:
        others = asyncio.all_tasks()
        host = Host(store=KvStore())
        await host.load([manifest(tmp_path, "stubborn")])
        pid = pid_of(host)
        work = {"unload": lambda: host.unload("x"), "reload": lambda: host.reload("x"), "aclose": host.aclose}[call]
        await cancelled(work(), 0.2)
        await host.aclose()
        assert asyncio.all_tasks() == others
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(test)


def test_a_reload_that_is_given_up_while_tasks_come_back_leaves_no_process_behind(tmp_path: Path) -> None:
    """Its process was ready already."""

    async def test() -> None:
        async with Host(store=KvStore()) as host:
            await host.load([manifest(tmp_path, "hangs")])
            await host.start_task("x", "t")
            await cancelled(host.reload("x"), 1.0)
            await until(lambda: not children())
            assert host.status()[0].state == "failed"

    run(test)


def test_a_reload_that_is_given_up_in_a_restart_leaves_a_state_that_can_be_left(tmp_path: Path) -> None:
    """Not ``starting`` for ever, with nobody who starts it."""

    async def test() -> None:
        async with Host(store=KvStore(), restart_delays=(0.01,)) as host:
            await host.load([manifest(tmp_path, "slow")])
            for pause in (0.0, 0.02, 0.03, 0.05):
                os.kill(pid_of(host), signal.SIGKILL)
                await until(lambda: host.status()[0].state == "restarting")
                await asyncio.sleep(pause)
                reloading = asyncio.create_task(host.reload("x"))
                await asyncio.sleep(0)
                reloading.cancel()
                await asyncio.wait([reloading])
                await until(lambda: host.status()[0].state not in ("starting", "restarting"))
                await host.reload("x")
                assert (await host.call_tool("x.do")).content == "x"
        assert children() == []

    run(test)


def test_what_comes_while_it_ends_starts_nothing(tmp_path: Path) -> None:
    """A file watcher that reloads while its program ends, or unloads twice; and a load that comes too late."""

    async def test() -> None:
        host = Host(store=KvStore())
        found = manifest(tmp_path, "slow")
        async with host:
            await host.load([found])
            outcomes = await asyncio.gather(
                host.unload("x"), host.unload("x"), host.reload("x"), return_exceptions=True
            )
            assert (outcomes[0], outcomes[1]) == (None, None)
            assert isinstance(outcomes[2], ExtensionUnavailable)
            assert (host.status(), host.tools(), children()) == ([], [], [])
            await host.load([found])
            late = asyncio.create_task(host.reload("x"))
            await asyncio.sleep(0.05)
        await asyncio.wait([late])
        assert isinstance(late.exception(), ExtensionUnavailable)
        assert children() == []
        with pytest.raises(SepkitError, match="the host is closed"):
            await host.load([found])

    run(test)


def test_what_a_dead_extension_has_asked_is_withdrawn(tmp_path: Path) -> None:
    """Nobody can hear the answer any more, and a person is not asked for nothing."""

    async def test() -> None:
        person = Person()
        async with Host(store=KvStore(), delegate=person, restart_delays=()) as host:
            await host.load([manifest(tmp_path, "asks")])
            await until(lambda: person.asked == 1)
            with pytest.raises(ExtensionDied):
                await host.call_tool("x.do", {"exit": 1})
            await until(lambda: person.withdrawn == 1)
            await host.reload("x")
            await until(lambda: person.asked == 2)
            await host.reload("x")
            await until(lambda: person.withdrawn == 2)
            await until(lambda: person.asked == 3)
            await host.unload("x")
            await until(lambda: person.withdrawn == 3)

    run(test)


def test_a_task_that_has_ended_is_not_run_again_by_a_reload(tmp_path: Path) -> None:
    """Background tasks: those that should run come back; what was done once is done."""

    async def test() -> None:
        async with Host(store=KvStore()) as host:
            await host.load([manifest(tmp_path, "ends")])
            await host.start_task("x", "t")
            await until(lambda: host.tasks()["x"][0].status == "stopped")
            await host.reload("x")
            os.kill(pid_of(host), signal.SIGKILL)
            await until(lambda: host.status()[0].epoch == 3 and host.status()[0].state == "ready")
            assert (tmp_path / "x" / "ran").read_text() == "x"

    run(test)


def test_what_a_start_that_fails_has_said_stays(tmp_path: Path) -> None:
    """``status()``: why it hangs is on its stderr, and nowhere else."""

    async def test() -> None:
        async with Host(store=KvStore(), initialize_timeout=0.5) as host:
            found = manifest(tmp_path, "hangs")
            (found.root / "child.py").write_text(
                "import sys, time\nprint('waiting for the database', file=sys.stderr, flush=True)\ntime.sleep(3600)\n"
            )
            (problem,) = await host.load([found])
            assert "no answer within 0.5 s" in str(problem.error)
            assert (host.status()[0].state, host.status()[0].stderr) == ("failed", "waiting for the database\n")

    run(test)


def test_a_flood_of_registrations_holds_up_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8,000 updates of a tool each: taken together, and no more than 2,000 tools of them."""

    async def test() -> None:
        async with Host(store=KvStore()) as host:
            await host.load([manifest(tmp_path, name="x"), manifest(tmp_path, name="other")])
            flood = asyncio.create_task(host.call_tool("x.do", {"learn": 8_000}))
            slowest = 0.0
            loop = asyncio.get_running_loop()
            while not flood.done():
                began = loop.time()
                await host.call_tool("other.do")
                slowest = max(slowest, loop.time() - began)
            await flood
            await asyncio.sleep(0)
            assert len([tool for tool in host.tools() if tool.extension == "x"]) == 2_000
            assert slowest < 5, f"{slowest:.3f} s; one look at all tools for each update took 15 s for half as many"

    run(test)
    assert caplog.text.count("x: it has too many tools") == 1


def test_a_reload_that_finds_it_disabled_takes_its_tools_away(tmp_path: Path) -> None:
    """What is not there is not offered to a model."""

    async def test() -> None:
        async with Host(store=KvStore()) as host:
            found = manifest(tmp_path)
            await host.load([found])
            path = found.root / "extension.toml"
            text = path.read_text(encoding="utf-8")
            path.write_text("disabled = true\n" + text, encoding="utf-8")
            await host.reload("x")
            assert (host.status()[0].state, host.tools()) == ("stopped", [])
            path.write_text(text, encoding="utf-8")
            await host.reload("x")
            assert [tool.name for tool in host.tools()] == ["x.do"]

    run(test)


def test_what_is_told_before_the_handshake_is_bounded_and_its_log_is_heard(tmp_path: Path) -> None:
    """50,000 notifications of a start that fails are not kept; and the log says why it failed."""

    async def test() -> None:
        person = Person()
        async with Host(store=KvStore(), delegate=person) as host:
            (problem,) = await host.load([manifest(tmp_path, "floods")])
            assert "no database" in str(problem.error)
            assert person.logged == ["the database is away"]
            assert not any(isinstance(kept, messages.RegistryUpdateParams) for kept in gc.get_objects())

    run(test)
