r"""A host, and an extension that writes through it until the host is killed: ``key number\n`` for each write.

``python -m tests.host.children.host_writer PATH SEED`` is the host; the same without arguments is the extension.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.host.children.kv_writer import KEYS, NAMESPACE, write_all

WRITE = {"name": "write", "description": "", "parameters": {"type": "object"}}


def extension() -> None:
    def send(**frame: Any) -> None:
        print(json.dumps({"jsonrpc": "2.0", **frame}), flush=True)

    for line in sys.stdin:
        frame = json.loads(line)
        match frame.get("method"):
            case None:  # the answer to a kv/set, whose id is that of the call
                assert frame["result"] == {}
                send(id=frame["id"], result={"content": ""})
            case "initialize":
                introduction = {"name": NAMESPACE, "version": "1"}
                send(
                    id=frame["id"],
                    result={"protocol_version": 1, "extension": introduction, "registrations": {"tools": [WRITE]}},
                )
            case "tool/execute":
                send(id=frame["id"], method="kv/set", params=frame["params"]["arguments"])


async def host(path: str, seed: int) -> None:
    from sepkit.host import Host, Manifest
    from sepkit.host.manifest import Capabilities, Run

    run = Run(sys.executable, ["-m", "tests.host.children.host_writer"])
    manifest = Manifest(NAMESPACE, "1", Path(__file__).parents[3], run, capabilities=Capabilities(tools=True, kv=True))
    async with Host(store=path) as host:
        assert await host.load([manifest]) == []

        async def write(key: str, value: Any) -> None:
            await host.call_tool(f"{NAMESPACE}.write", {"key": key, "value": value})

        await write_all(write, {key: await host.store.get(NAMESPACE, key) for key in KEYS}, seed)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        extension()
    else:
        asyncio.run(host(sys.argv[1], int(sys.argv[2])))
