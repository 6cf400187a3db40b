"""The floor: read, loads, dumps, write, and nothing of what an extension needs. What sepkit is measured against."""

from __future__ import annotations

import os

import orjson


def main() -> None:
    held = b""
    while data := os.read(0, 65_536):
        *lines, held = (held + data).split(b"\n")
        replies = []
        for line in lines:
            frame = orjson.loads(line)
            result = {"content": frame["params"]["arguments"]["text"]} if frame["method"] == "tool/execute" else {}
            # The `+` frees orjson's buffer; without it the floor would be lower than it has to be.
            replies.append(orjson.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}) + b"\n")
        out = b"".join(replies)
        while out:
            out = out[os.write(1, out) :]


main()
