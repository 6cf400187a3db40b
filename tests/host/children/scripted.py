"""An extension without sepkit that answers as it is told to, and remembers what it was asked.

Its argument is a JSON object: ``registrations``; ``answers``, by method, each a result, ``{"error": …}`` or
``"silence"``; ``hooks``, the same by the hook's name, or a list of them, of which the last one stays. Its tool ``do``
writes the frames in ``send``, waits for ``answers`` answers and returns them; its tool ``seen`` tells what has come in.
Events are also written to ``file``, which outlives the process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

TOOLS = [{"name": name, "description": "", "parameters": {"type": "object"}} for name in ("do", "seen")]


def send(**frame: Any) -> None:
    data = json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def answered(rid: object, answer: Any) -> None:
    if isinstance(answer, dict) and "error" in answer:
        send(id=rid, error=answer["error"])
    elif answer != "silence":
        send(id=rid, result=answer)


def main() -> None:
    said = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    answers, hooks = said.get("answers", {}), said.get("hooks", {})
    seen: list[Any] = []
    for line in sys.stdin.buffer:
        frame = json.loads(line)
        rid, method, params = frame.get("id"), frame.get("method"), frame.get("params", {})
        if method is None:
            continue
        arguments = params.get("arguments", {})
        if (method, params.get("tool")) == ("tool/execute", "seen"):
            send(id=rid, result={"content": "", "details": seen})
            continue
        seen.append([method, params])
        if method == "event" and "file" in said:
            with open(said["file"], "a") as file:
                file.write(json.dumps({**params, "pid": os.getpid()}) + "\n")
        if method == "initialize":
            registrations = {**said.get("registrations", {})}
            registrations["tools"] = [*TOOLS, *registrations.get("tools", [])]
            introduction = {"name": "scripted", "version": "1"}
            send(id=rid, result={"protocol_version": 1, "extension": introduction, "registrations": registrations})
        elif (method, params.get("tool")) == ("tool/execute", "do"):
            for one in arguments.get("send", []):
                send(**(said["frames"][one] if isinstance(one, str) else one))
            if "exit" in arguments:
                os._exit(arguments["exit"])
            came = [json.loads(sys.stdin.buffer.readline()) for _ in range(arguments.get("answers", 0))]
            send(id=rid, result={"content": arguments.get("text", ""), "details": came})
        elif method == "hook":
            answer = hooks.get(params["hook"], {"error": {"code": -32601, "message": "no hooks here"}})
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            answered(rid, answer)
        elif rid is not None:
            answered(rid, answers.get(method, {"content": method}))
        if method == "shutdown":
            return


if __name__ == "__main__":
    main()
