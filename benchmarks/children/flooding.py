"""An extension that floods its host with one kind of thing, again and again; meanwhile it reads, and answers.

The kinds are those of ``benchmarks/floods.py``, which imports this module for their names.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

LARGE = 256 * 1024
BLOCK = 64 * 1024

Pieces = Iterator[bytes]


def notification(method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode() + b"\n"


def again(line: bytes) -> Pieces:
    """The same lines again and again, some at a time."""
    block = line * max(1, BLOCK // len(line))
    while True:
        yield block


def asked(method: str, params: object) -> Pieces:
    """Requests, each with an id of its own."""
    rest = json.dumps({"method": method, "params": params}).encode()[1:]
    numbers = itertools.count(1)
    while True:
        count = max(1, BLOCK // (len(rest) + 30))
        yield b"".join(b'{"jsonrpc":"2.0","id":%d,%b\n' % (next(numbers), rest) for _ in range(count))


def long_ids(method: str, params: object) -> Pieces:
    for number in itertools.count():
        frame = {"jsonrpc": "2.0", "id": f"{number}{TEXT}", "method": method, "params": params}
        yield json.dumps(frame).encode() + b"\n"


def numbered(method: str, make: Callable[[int], object]) -> Pieces:
    """Notifications, each another one."""
    for number in itertools.count():
        yield notification(method, make(number))


def filled(item: object, size: int = LARGE) -> list[Any]:
    return [item] * (size // (len(json.dumps(item)) + 2))


def after(first: bytes, then: Pieces) -> Pieces:
    yield first
    yield from then


TOOL = {"name": "t", "description": "", "parameters": {}}
LISTS: dict[str, object] = {
    "tools": TOOL,
    "commands": {"name": "c", "description": ""},
    "flags": "f",
    "subscriptions": "s",
    "providers": {"name": "p"},
    "models": {"id": "m"},
}


def listed(kind: str, item: object) -> dict[str, Any]:
    return {"providers": [{"name": "p", "models": filled(item)}]} if kind == "models" else {kind: filled(item)}


def task(**fields: object) -> dict[str, Any]:
    return {"task_id": "t", "name": "t", "user_id": "", "status": "running", "restart_count": 0, **fields}


def delta(content: str) -> dict[str, Any]:
    return {"request_id": RUNNING["provider/complete"], "event": {"type": "Delta", "content": content}}


def update(**fields: object) -> dict[str, Any]:
    return {"call_id": RUNNING["tool/execute"], **fields}


def many(kind: str, make: Callable[[int], object]) -> list[bytes]:
    return [
        notification("registry/update", {kind: [make(n) for n in range(a, a + 20_000)]})
        for a in range(0, 400_000, 20_000)
    ]


CONTEXT: dict[str, Any] = {}
RUNNING: dict[str, str] = {}
TEXT = "x" * LARGE

REQUESTS: dict[str, Callable[[], dict[str, Any]]] = {
    "ui/request": lambda: {"kind": "confirm", "prompt": "sure?"},
    "kv/get": lambda: {"key": "k"},
    "kv/set": lambda: {"key": "k", "value": 1},
    "kv/delete": lambda: {"key": "k"},
    "kv/list": dict,
    "exec/run": lambda: {"context": CONTEXT, "command": "ls"},
    "bus/publish": lambda: {"topic": "t", "payload": {"n": 1}},
    "tools/set_active": lambda: {"tools": ["a.b"]},
    "session/send_message": lambda: {"context": CONTEXT, "text": "hi"},
    "session/send_user_message": lambda: {"context": CONTEXT, "text": "hi"},
    "session/append_entry": lambda: {"context": CONTEXT, "entry": {}},
    "session/set_model": lambda: {"context": CONTEXT, "model": "m"},
    "session/state": lambda: {"context": CONTEXT},
    "ping": dict,
    "unknown": dict,
}
LARGER: dict[str, Callable[[], dict[str, Any]]] = {
    "ui/request": lambda: {"kind": "confirm", "prompt": TEXT},
    "ui/request select": lambda: {"kind": "select", "prompt": "", "options": filled("o")},
    "ui/request widget": lambda: {"kind": "set_widget", "widget": {"kind": "table", "columns": [], "rows": filled([])}},
    "kv/set": lambda: {"key": "k", "value": TEXT},
    "exec/run": lambda: {"context": CONTEXT, "command": "ls", "args": filled("a")},
    "bus/publish": lambda: {"topic": "t", "payload": {"t": TEXT}},
    "tools/set_active": lambda: {"tools": filled("a")},
    "session/send_message": lambda: {"context": CONTEXT, "text": TEXT},
    "session/append_entry": lambda: {"context": CONTEXT, "entry": {"e": filled([])}},
}
KINDS: dict[str, Callable[[], Pieces]] = {
    # Frames.
    "frames: unknown notifications": lambda: again(notification("hm", {})),
    "frames: answers to nothing": lambda: again(b'{"jsonrpc":"2.0","id":1,"result":{}}\n'),
    "frames: cancels": lambda: again(notification("$/cancel", {"id": 1})),
    "frames: large": lambda: again(notification("hm", {"t": TEXT})),
    "frames: large, of empty lists": lambda: again(notification("hm", {"t": filled([])})),
    # Lines that are none.
    "lines: blank": lambda: again(b"\n"),
    "lines: {}": lambda: again(b"{}\n"),
    "lines: garbage": lambda: again(b"garbage\n"),
    "lines: batches": lambda: again(b"[]\n"),
    "lines: nested": lambda: again(b"[" * 2000 + b"]" * 2000 + b"\n"),
    "lines: bad text": lambda: again(b'{"jsonrpc":"2.0","method":"log","params":{"message":"\xff"}}\n'),
    "lines: half characters": lambda: again(b'"' + b"\\ud800" * (LARGE // 6) + b'"x\n'),
    "lines: long garbage": lambda: again(b"x" * LARGE + b"\n"),
    "lines: long JSON": lambda: again(json.dumps(filled([])).encode() + b"\n"),
    "lines: endless": lambda: again(b"x" * BLOCK),
    # Requests: small ones, large ones, and ones whose answers are not read.
    **{f"request: {name}": lambda name=name: asked(name, REQUESTS[name]()) for name in REQUESTS},  # type: ignore[misc]
    **{
        f"large request: {name}": lambda name=name: asked(name.split()[0], LARGER[name]())  # type: ignore[misc]
        for name in LARGER
    },
    "requests with many wrong items": lambda: asked("tools/set_active", {"tools": [5] * 1000}),
    "malformed requests": lambda: asked("ui/request", {"kind": 5}),
    "requests whose answers are not read": lambda: asked("ping", {}),
    "requests with long ids": lambda: long_ids("ui/request", REQUESTS["ui/request"]()),
    "requests with long ids whose answers are not read": lambda: long_ids("ping", {}),
    # Notifications.
    "log": lambda: again(notification("log", {"level": "info", "message": "hello"})),
    "log: large": lambda: again(notification("log", {"level": "info", "message": TEXT})),
    "log: malformed": lambda: again(notification("log", {"level": 5})),
    "bus/publish": lambda: again(notification("bus/publish", {"topic": "t", "payload": {}})),
    "bus/publish: large": lambda: again(notification("bus/publish", {"topic": "t", "payload": {"t": TEXT}})),
    "bus/publish: malformed": lambda: again(notification("bus/publish", {"topic": 5})),
    "task/update": lambda: again(notification("task/update", task())),
    "task/update: made up": lambda: numbered("task/update", lambda n: task(task_id=str(n))),
    "task/update: made up, 100 kB": lambda: numbered(
        "task/update", lambda n: task(task_id=str(n), last_health_status="h" * 100_000)
    ),
    "task/update: malformed": lambda: again(notification("task/update", {"task_id": 5})),
    "tool/update": lambda: again(notification("tool/update", update(message="on"))),
    "tool/update: large": lambda: again(notification("tool/update", update(details=filled([])))),
    "tool/update: malformed": lambda: again(notification("tool/update", update(progress=5))),
    "tool/update: no id": lambda: again(notification("tool/update", {"call_id": []})),
    "provider/delta": lambda: again(notification("provider/delta", delta("word "))),
    "provider/delta: large": lambda: again(notification("provider/delta", delta(TEXT))),
    "provider/delta: malformed": lambda: again(
        notification("provider/delta", {**delta(""), "event": {"type": "Done"}})
    ),
    # Registrations.
    **{
        f"registry/update: {kind}": lambda kind=kind: again(  # type: ignore[misc]
            notification("registry/update", listed(kind, LISTS[kind]))
        )
        for kind in LISTS
    },
    "registry/update: malformed": lambda: again(notification("registry/update", {"tools": [*filled(TOOL), 5]})),
    "registry/update: wrong within wrong": lambda: again(
        notification("registry/update", {"providers": [{"name": 5, "models": [{"id": 5}] * 100}] * 10})
    ),
    "registry/update: new tools": lambda: numbered("registry/update", lambda n: {"tools": [{**TOOL, "name": f"t{n}"}]}),
    "registry/update: tools with long texts": lambda: numbered(
        "registry/update", lambda n: {"tools": [{**TOOL, "name": f"t{n}", "description": TEXT}]}
    ),
    "registry/update: many flags, then small ones": lambda: after(
        b"".join(many("flags", str)), again(notification("registry/update", {"flags": ["f"]}))
    ),
    # Not on the wire.
    "stderr: short lines": lambda: again(b"e\n"),
    "stderr: long lines": lambda: again(b"e" * LARGE + b"\n"),
    "stderr: no lines": lambda: again(b"e" * BLOCK),
}


def write(fd: int, data: bytes) -> None:
    with OUT:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


OUT = threading.Lock()


def send(**frame: Any) -> None:
    write(1, json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n")


def flood(kind: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    fd = 2 if kind.startswith("stderr") else 1
    for piece in KINDS[kind]():
        write(fd, piece)
        if time.monotonic() >= until:
            break
    if kind == "lines: endless":
        write(1, b"\n")


REGISTRATIONS = {
    "tools": [{"name": name, "description": "", "parameters": {}} for name in ("run", "flood")],
    "providers": [{"name": "flooding"}],
}


def main() -> None:
    for line in sys.stdin.buffer:
        frame = json.loads(line)
        rid, method, params = frame.get("id"), frame.get("method"), frame.get("params", {})
        if method is None:
            continue
        if method == "initialize":
            introduction = {"name": "flooding", "version": "1"}
            send(
                id=rid,
                result={"protocol_version": 1, "extension": introduction, "registrations": REGISTRATIONS},
            )
        elif method == "provider/complete":
            RUNNING[method] = params["request_id"]
        elif method == "tool/execute" and params["tool"] == "run":
            RUNNING[method] = params["call_id"]  # never answered
        elif method == "tool/execute":
            CONTEXT.update(params["context"])
            kind, seconds = params["arguments"]["kind"], params["arguments"]["seconds"]
            if kind.endswith("are not read"):
                flood(kind, seconds)
            else:
                threading.Thread(target=flood, args=(kind, seconds), daemon=True).start()
        elif method == "shutdown":
            os._exit(0)
        elif rid is not None:
            send(id=rid, result={})


if __name__ == "__main__":
    main()
