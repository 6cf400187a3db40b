"""A correct SEP extension in plain Python that validates nothing, answers everything, and does one thing after another.

python careless.py [SECONDS]: how long it takes to start
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

PARAMETERS = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"type": "number"}]}},
    "required": ["pair"],
}
REGISTRATIONS = {
    "tools": [
        {"name": "pair", "description": "Say what comes first.", "parameters": PARAMETERS},
        {"name": "think", "description": "Take a while.", "parameters": {"type": "object"}},
    ],
    "commands": [{"name": "once", "description": "Works only once."}],
    "hooks": ["tool_call"],
}
done: set[str] = set()


def send(**frame: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **frame}) + "\n")
    sys.stdout.flush()


def initialize(params: Any) -> Any:
    return {
        "protocol_version": 1,
        "extension": {"name": "careless", "version": "1"},
        "registrations": REGISTRATIONS,
    }


def tool(params: Any) -> Any:
    if params["tool"] == "think":
        time.sleep(0.3)
        return {"content": "I have thought."}
    return {"content": str(params["arguments"].get("pair", ["nothing"])[:1])}


def command(params: Any) -> Any:
    if params["command"] in done:
        raise RuntimeError("this was done before")
    done.add(params["command"])
    return {"content": "done"}


def hook(params: Any) -> Any:
    return {"action": "modify", "patch": {"arguments": params["input"]["arguments"]}}  # the tool stays the same


METHODS = {
    "initialize": initialize,
    "ping": lambda params: {},
    "shutdown": lambda params: {},
    "tool/execute": tool,
    "command/execute": command,
    "command/complete": lambda params: {"completions": []},
    "hook": hook,
}


def received(line: bytes) -> bool:
    """Answer a line; whether there may be more."""
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError):
        send(id=None, error={"code": -32700, "message": "not JSON"})
        return True
    if not isinstance(frame, dict) or "id" not in frame or "method" not in frame:
        return True
    rid, method = frame["id"], frame["method"]
    if not isinstance(method, str) or method not in METHODS:
        send(id=rid, error={"code": -32601, "message": f"there is no method {method}"})
        return True
    try:
        result = METHODS[method](frame.get("params"))
    except Exception as error:
        send(id=rid, error={"code": -32603, "message": repr(error)})
    else:
        send(id=rid, result=result)
    return bool(method != "shutdown")


time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)
for each in sys.stdin.buffer:
    if each.startswith(b"\xef\xbb\xbf"):
        continue
    if not received(each):
        break
