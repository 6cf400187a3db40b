"""The floor of tools that wait: a plain uvloop loop, which makes a task of each call. Nothing is checked or cancelled.

``echo`` gives way to the loop once; ``sleeps`` sleeps for ten milliseconds. As little around it as there can be.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import orjson
import uvloop

SECONDS = {"waits": 0, "sleeps": 0.01}


class Loop:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = self.loop.create_future()
        self.held = b""
        self.tasks: set[asyncio.Task[None]] = set()
        self.replies: list[bytes] = []
        self.loop.add_reader(0, self.read)

    def read(self) -> None:
        data = os.read(0, 65_536)
        if not data:
            self.loop.remove_reader(0)
            self.ended.set_result(None)
            return
        *lines, self.held = (self.held + data).split(b"\n")
        for line in lines:
            frame = orjson.loads(line)
            if frame["method"] == "tool/execute":
                task = self.loop.create_task(self.call(frame))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            else:
                self.reply(frame["id"], {})

    async def call(self, frame: dict[str, Any]) -> None:
        params = frame["params"]
        await asyncio.sleep(SECONDS[params["tool"]])
        self.reply(frame["id"], {"content": params["arguments"]["text"]})

    def reply(self, number: int, result: dict[str, Any]) -> None:
        if not self.replies:
            self.loop.call_soon(self.write)  # all that the loop has done by then in one write
        self.replies.append(orjson.dumps({"jsonrpc": "2.0", "id": number, "result": result}) + b"\n")

    def write(self) -> None:
        out = b"".join(self.replies)
        self.replies = []
        while out:
            out = out[os.write(1, out) :]


async def main() -> None:
    await Loop().ended


uvloop.run(main())
