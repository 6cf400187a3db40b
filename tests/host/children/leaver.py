"""An extension that leaves processes behind: ``leaver.py FOLDER WAY…``. Each of them makes a file, named by its id.

With the way ``deaf`` it does not end with its input, with ``stubborn`` not with a SIGTERM either.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEP = 'touch "$0/$$"; exec sleep 600'


def fork_twice(folder: Path) -> None:
    """As daemons do: the process that stays has a session of its own, and init for a parent."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for fd in range(3):
        os.close(fd)
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def leave(way: str, folder: Path) -> None:
    command = ["sh", "-c", SLEEP, str(folder)]
    match way:
        case "a session":
            subprocess.Popen(command, start_new_session=True)
        case "setsid":
            subprocess.Popen(["setsid", "-f", *command])
        case "nohup":
            subprocess.run(
                ["sh", "-c", 'nohup setsid sh -c "$1" "$0" >/dev/null 2>&1 &', str(folder), SLEEP], check=True
            )
        case "two forks":
            fork_twice(folder)
        case "variables that are gone":
            forgetful = (
                "import os, sys, time; os.environ.clear(); open(f'{sys.argv[1]}/{os.getpid()}', 'w'); time.sleep(600)"
            )
            subprocess.Popen([sys.executable, "-c", forgetful, str(folder)], start_new_session=True)


def main() -> None:
    folder, ways = Path(sys.argv[1]), sys.argv[2:]
    if "stubborn" in ways:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if {"deaf", "stubborn"} & set(ways):
        (folder / str(os.getpid())).touch()
    for way in ways:
        leave(way, folder)
    for line in sys.stdin:
        frame = json.loads(line)
        result = {"protocol_version": 1, "extension": {"name": "leaver", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}), flush=True)
        if frame["method"] == "shutdown":
            break
    if {"deaf", "stubborn"} & set(ways):
        time.sleep(600)


if __name__ == "__main__":
    main()
