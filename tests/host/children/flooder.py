"""An extension without sepkit that sends what its tool ``flood`` is told to: ``pieces`` is a Python expression.

A thread sends, so that it reads meanwhile, unless it is told to ``stop`` reading. The tool ``seen`` tells how many
results and errors it has had, the errors' texts, and the events. ``argv``: an expression for what it says before it
introduces itself, and one for its registrations.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

OUT = threading.Lock()
SEEN: dict[str, Any] = {"results": 0, "errors": [], "events": [], "lost": 0}
RUNNING: dict[str, str] = {}
NAMES = ("flood", "seen", "run", "echo", "stop")
TOOLS: list[dict[str, Any]] = [{"name": name, "description": "", "parameters": {}} for name in NAMES]


def write(data: bytes, fd: int = 1) -> None:
    with OUT:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


def frame(**fields: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **fields}).encode() + b"\n"


def note(method: str, params: object) -> bytes:
    return frame(method=method, params=params)


def ask(rid: object, method: str, params: object) -> bytes:
    return frame(id=rid, method=method, params=params)


def send(rid: object, pieces: Iterable[bytes], fd: int) -> None:
    for piece in pieces:
        write(piece, fd)
    write(frame(id=rid, result={"content": "sent"}))


def call(rid: object, params: dict[str, Any]) -> None:
    arguments = params["arguments"]
    match params["tool"]:
        case "flood":
            known = {**globals(), "context": params["context"], "rid": rid, **RUNNING}
            pieces = eval(arguments["pieces"], known)
            threading.Thread(target=send, args=(rid, pieces, arguments.get("fd", 1)), daemon=True).start()
        case "seen":
            write(frame(id=rid, result={"content": "", "details": SEEN}))
        case "run":
            RUNNING["call_id"] = params["call_id"]
        case "stop":
            write(frame(id=rid, result={"content": "stopped"}))
            while not os.path.exists(arguments["until"]):
                time.sleep(0.005)
        case "echo":
            write(frame(id=rid, result={"content": arguments.get("text", "")}))


def main() -> None:
    for line in sys.stdin.buffer:
        said = json.loads(line)
        rid, method, params = said.get("id"), said.get("method"), said.get("params", {})
        if method is None:
            if "error" in said:
                SEEN["errors"].append(said["error"])
            else:
                SEEN["results"] += 1
        elif method == "initialize":
            for piece in eval(sys.argv[1]) if len(sys.argv) > 1 else ():
                write(piece)
            registrations = {
                "tools": TOOLS,
                "providers": [{"name": "flooder"}],
                "subscriptions": ["bus/event"],
                **(eval(sys.argv[2]) if len(sys.argv) > 2 else {}),
            }
            introduction = {"name": "flooder", "version": "1"}
            write(
                frame(id=rid, result={"protocol_version": 1, "extension": introduction, "registrations": registrations})
            )
        elif method == "tool/execute":
            call(rid, params)
        elif method == "provider/complete":
            RUNNING["request_id"] = params["request_id"]
            RUNNING["completion"] = rid
        elif method == "event":
            if params["event"] == "events_lost":
                SEEN["lost"] += params["payload"]["lost"]
            else:
                SEEN["events"].append(params["seq"])
        elif rid is not None:
            write(frame(id=rid, result={}))
            if method == "shutdown":
                return


if __name__ == "__main__":
    main()
