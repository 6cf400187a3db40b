"""An extension without sepkit whose tool ``send`` writes lines as they are, and returns what the host answered to them.

Its arguments are ``lines``, each as latin-1 text, and ``answers``: how many there are to be. Told to end, it says all
sorts of things that nobody should heed any more.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SEND = {"name": "send", "description": "", "parameters": {"type": "object"}}


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def send(**frame: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n")


def main() -> None:
    for line in sys.stdin.buffer:
        frame = json.loads(line)
        rid, method = frame.get("id"), frame.get("method")
        if method == "initialize":
            introduction = {"name": "raw", "version": "1"}
            send(id=rid, result={"protocol_version": 1, "extension": introduction, "registrations": {"tools": [SEND]}})
        elif method == "tool/execute":
            arguments = frame["params"]["arguments"]
            write(b"".join(line.encode("latin-1") + b"\n" for line in arguments["lines"]))
            answers = [json.loads(sys.stdin.buffer.readline()) for _ in range(arguments["answers"])]
            send(id=rid, result={"content": "", "details": answers})
        elif method == "shutdown":
            send(method="registry/update", params={"tools": [{**SEND, "name": "late"}]})
            send(method="log", params={"level": "info", "message": "late"})
            task = {"task_id": "late", "name": "late", "user_id": "", "status": "running", "restart_count": 0}
            send(method="task/update", params=task)
            send(id=rid, result={})
            return
        elif rid is not None:
            send(id=rid, result={})


if __name__ == "__main__":
    main()
