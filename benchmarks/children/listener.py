"""A bare extension for the benchmark of hosts: one tool, and events that are counted. Nothing of sepkit is in it."""

from __future__ import annotations

import os
import sys

import orjson

TOOL = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
INTRODUCTION = {
    "protocol_version": 1,
    "extension": {"name": "listener", "version": "1"},
    "registrations": {
        "tools": [
            {"name": "echo", "description": "Return the text.", "parameters": TOOL},
            {"name": "heard", "description": "How many events have come.", "parameters": {"type": "object"}},
        ],
        "subscriptions": ["turn_start", *sys.argv[1:]],
        "hooks": ["session_before_tree"],
    },
}


def main() -> None:
    heard = 0
    rest = b""
    while data := os.read(0, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        answers = []
        for line in lines:
            frame = orjson.loads(line)
            method = frame.get("method")
            if method == "event":
                heard += 1
            elif "id" in frame and method is not None:
                if method == "tool/execute":
                    params = frame["params"]
                    content = str(heard) if params["tool"] == "heard" else params["arguments"]["text"]
                    result: object = {"content": content}
                else:
                    result = INTRODUCTION if method == "initialize" else {}
                answers.append(orjson.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}) + b"\n")
                if method == "shutdown":
                    os.write(1, b"".join(answers))
                    sys.exit(0)
        unwritten = memoryview(b"".join(answers))
        while unwritten:
            unwritten = unwritten[os.write(1, unwritten) :]


if __name__ == "__main__":
    main()
