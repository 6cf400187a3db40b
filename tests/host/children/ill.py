"""An extension without sepkit that does what no extension should, when its tool ``do`` is told to.

Reads on while a call waits (each in a thread), so that a fault comes in the middle of others.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

OUT = threading.Lock()
TOOLS = [{"name": name, "description": "", "parameters": {"type": "object"}} for name in ("echo", "slow", "do", "pids")]


def write(data: bytes) -> None:
    with OUT:
        while data:
            data = data[os.write(1, data) :]


def send(**frame: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **frame}).encode() + b"\n")


def answer(rid: object, content: str) -> None:
    send(id=rid, result={"content": content})


def fault(rid: object, what: str) -> None:
    match what:
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "freezes":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)  # another thread may be the one that takes the signal, a little later
        case "endless line":
            write(b"x" * (4 << 20) + b"\n")
        case "garbage":
            write(b'\xff\xfe garbage\n{{{\nnull\n[]\n5\n"x"\n\x00\n' * 100)
        case "flood":
            update = json.dumps({"jsonrpc": "2.0", "method": "tool/update", "params": {"call_id": "nobody"}}).encode()
            log = json.dumps(
                {"jsonrpc": "2.0", "method": "log", "params": {"level": "info", "message": "x" * 100}}
            ).encode()
            write((update + b"\n" + log + b"\n" + b'{"jsonrpc":"2.0","method":"hm","params":{}}\n') * 4_000)
        case "wrong id":
            for wrong in (10**9, "1", None, -1, 1.5, True):
                send(id=wrong, result={"content": "to nobody"})
        case "two replies":
            answer(rid, "first")
            answer(rid, "second")
            return
        case "half a reply":
            write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":"ha' % int(str(rid)))
            os._exit(3)
        case "stderr":
            line = b"e" * 79 + b"\n"
            for _ in range(400):
                os.write(2, line * 819)
        case "grandchild":
            # It keeps the pipes, and takes itself out of the session.
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], start_new_session=True)
            os._exit(4)
        case "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            os._exit(5)
    answer(rid, what)


def work(rid: object, params: dict[str, Any]) -> None:
    arguments = params["arguments"]
    match params["tool"]:
        case "echo":
            answer(rid, arguments.get("text", ""))
        case "slow":
            time.sleep(arguments["seconds"])
            answer(rid, "slow")
        case "pids":
            answer(rid, json.dumps([os.getpid(), os.getsid(0)]))
        case "do":
            fault(rid, arguments["what"])


def main() -> None:
    for line in sys.stdin.buffer:
        frame = json.loads(line)
        rid, method = frame.get("id"), frame.get("method")
        if rid is None or method is None:
            continue
        if method == "initialize":
            introduction = {"name": "ill", "version": "1"}
            registrations = {"tools": TOOLS, "subscriptions": ["turn_start"]}
            result: dict[str, Any] = {"protocol_version": 1, "extension": introduction, "registrations": registrations}
            send(id=rid, result=result)
        elif method == "tool/execute" and frame["params"]["tool"] != "echo":
            threading.Thread(target=work, args=(rid, frame["params"]), daemon=True).start()
        elif method == "tool/execute":
            work(rid, frame["params"])
        else:
            send(id=rid, result={})
            if method == "shutdown":
                return


if __name__ == "__main__":
    main()
