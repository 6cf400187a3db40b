"""The neutral pump: keeps a child process busy, and measures it from outside.

It writes frames that were serialised before, holds so many in flight, and counts newlines; nothing is parsed. All
benchmarks of whole processes use this one, with the children named here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

CHILDREN = Path(__file__).parent / "children"
RUN = (sys.executable, "-m", "sepkit", "run")
READ = 1 << 16


def _request(method: str, params: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}).encode() + b"\n"


SEP = _request(
    "initialize",
    {
        "protocol_version": 1,
        "host": {"name": "pump", "version": "1"},
        "workspace": {"root": "/", "trusted": True},
        "mode": "headless",
    },
)
MCP = _request(
    "initialize",
    {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "pump", "version": "1"}},
)
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
CONTEXT = b'"context":{"token":"epoch-1","tier":"command"}'


def sep_call(number: int, tool: bytes = b"echo", text: bytes = b"hello, world") -> bytes:
    """A call of a tool that takes a text."""
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"tool/execute","params":{"call_id":"call-%d","tool":"%b",'
        b'"arguments":{"text":"%b"},%b}}\n' % (number, number, tool, text, CONTEXT)
    )


def mcp_call(number: int) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo",'
        b'"arguments":{"text":"hello, world"}}}\n' % number
    )


@dataclass(frozen=True)
class Child:
    """A program that is measured.

    Args:
        command: How it is started.
        opening: What it is told first, and answers with one line.
        after: What follows that answer, and is not answered.
        call: The frame of a call, by its number; answered with one line.
    """

    command: Sequence[str]
    opening: bytes = SEP
    after: bytes = b""
    call: Callable[[int], bytes] = sep_call


BARE = "bare loop"
OURS = "sepkit"
TYPESCRIPT = "TypeScript SDK"


def _peer(name: str) -> Child:
    return Child([sys.executable, str(CHILDREN / "starts.py"), name], MCP, INITIALIZED, mcp_call)


def peers(typescript: str | None = None) -> tuple[dict[str, Child], list[str]]:
    """The other SDKs that are here, and those that are missing, each with the reason.

    Args:
        typescript: The folder of the TypeScript SDK for SEP extensions, built.
    """
    found: dict[str, Child] = {}
    missing = []
    for name in ("mcp", "fastmcp"):
        if importlib.util.find_spec(name) is None:
            missing.append(f"{name} (not installed: pip install 'sepkit[bench]')")
        else:
            found[name] = _peer(name)
    node = shutil.which("node")
    if typescript is None:
        missing.append(f"{TYPESCRIPT} (name its folder with --typescript)")
    elif node is None:
        missing.append(f"{TYPESCRIPT} (there is no node)")
    else:
        found[TYPESCRIPT] = Child([node, str(CHILDREN / "echo.mjs"), str(Path(typescript).resolve())])
    return found, missing


def left_out(missing: Sequence[str]) -> str:
    """What a table says of them."""
    return f"\nleft out: {', '.join(missing)}" if missing else ""


def peer_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--peers`` and ``--typescript``."""
    command = click.option(
        "--typescript",
        envvar="SEPKIT_BENCH_TYPESCRIPT",
        type=click.Path(exists=True, file_okay=False),
        help="The folder of the TypeScript SDK for SEP extensions, built.",
    )(command)
    return click.option("--peers/--no-peers", "with_peers", default=True, show_default=True, help="With other SDKs.")(
        command
    )


def chosen(with_peers: bool, typescript: str | None) -> tuple[dict[str, Child], list[str]]:
    """The bare loop, sepkit, and the peers that are wanted and here; and what is missing of these."""
    found, missing = peers(typescript) if with_peers else ({}, ["all other SDKs (--no-peers)"])
    ours = Child([*RUN, str(CHILDREN / "echo.py:app")])
    return {BARE: Child([sys.executable, str(CHILDREN / "bare.py")]), OURS: ours, **found}, missing


def environment(**variables: str) -> dict[str, str]:
    """That of a user: with bytecode. A shell that forbids writing it would have each start compile everything."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | variables


def resident(pid: int) -> float:
    """MiB of memory that a process holds; NaN where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), float("nan"))


class Pump:
    """Keeps one child busy. Knows bytes and newlines only."""

    def __init__(self, child: Child, **variables: str) -> None:
        self._call = child.call
        self._number = 0
        self.process = subprocess.Popen(
            child.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment(**variables),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._in, False)
        self.send(child.opening, 1)
        self.send(child.after, 0)

    def send(self, data: bytes, lines: int) -> None:
        """Write ``data``, and read so many lines."""
        unwritten = memoryview(data)
        while unwritten or lines > 0:
            readable, writable, _ = select.select([self._out] if lines > 0 else [], [self._in] if unwritten else [], [])
            if writable:
                unwritten = unwritten[os.write(self._in, unwritten) :]
            if readable:
                lines -= self._lines()

    def _lines(self) -> int:
        data = os.read(self._out, READ)
        if not data:
            raise SystemExit(f"{self.process.args!r} ended with {self.process.wait()} before it had answered")
        return data.count(b"\n")

    def calls(self, count: int) -> list[bytes]:
        """The frames of so many calls, with numbers that go on from those before."""
        first, self._number = self._number + 1, self._number + count
        return [self._call(number) for number in range(first, first + count)]

    def run(self, calls: list[bytes], in_flight: int) -> float:
        """Send all ``calls``, never with more than ``in_flight`` unanswered. Seconds."""
        sent = answered = 0
        unwritten = memoryview(b"")
        began = time.perf_counter()
        while answered < len(calls):
            if not unwritten and sent < len(calls) and (room := in_flight - (sent - answered)) > 0:
                unwritten = memoryview(b"".join(calls[sent : sent + room]))
                sent = min(sent + room, len(calls))
            readable, writable, _ = select.select([self._out], [self._in] if unwritten else [], [])
            if writable:
                unwritten = unwritten[os.write(self._in, unwritten) :]
            if readable:
                answered += self._lines()
        return time.perf_counter() - began

    def rate(self, count: int, in_flight: int) -> float:
        """Calls a second."""
        return count / self.run(self.calls(count), in_flight)

    def cpu(self) -> float:
        """Seconds of CPU time that the child has used; NaN where the system does not tell."""
        try:
            return time.clock_gettime((~self.process.pid << 3) | 2)  # the clock of another process, on Linux
        except OSError:
            return float("nan")

    def resident(self) -> float:
        """MiB of memory that the child holds."""
        return resident(self.process.pid)


@contextmanager
def pump(child: Child, **variables: str) -> Iterator[Pump]:
    """A pump with a child that is ready, and ends with the block."""
    running = Pump(child, **variables)
    assert running.process.stdin is not None
    assert running.process.stdout is not None
    with running.process.stdin, running.process.stdout:
        try:
            yield running
        finally:
            running.process.stdin.close()
            try:
                running.process.wait(10)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
