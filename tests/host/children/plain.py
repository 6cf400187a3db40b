"""An extension without sepkit: quick to start, and as wrong as it is told to be.

Its argument is a JSON object: ``registrations``, and under ``hooks`` its answer to each hook (``"silence"``: none). Its
tool ``seen`` tells its environment, its arguments, its folder, and the inputs of the hooks that it was asked.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    said = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    inputs: list[object] = []
    for line in sys.stdin:
        frame = json.loads(line)
        if "id" not in frame:
            continue
        method, params, result = frame["method"], frame["params"], {}
        if method == "initialize":
            seen = {"name": "seen", "description": "", "parameters": {"type": "object"}}
            registrations = {"tools": [seen], **said.get("registrations", {})}
            result = {
                "protocol_version": 1,
                "extension": {"name": "plain", "version": "1"},
                "registrations": registrations,
            }
        elif method == "hook":
            inputs.append(params["input"])
            result = said["hooks"][params["hook"]]
            if result == "silence":
                continue
        elif method == "tool/execute":
            about = {"env": dict(os.environ), "argv": sys.argv, "cwd": os.getcwd(), "inputs": inputs}
            result = {"content": json.dumps(about)}
        print(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}), flush=True)
        if method == "shutdown":
            return


if __name__ == "__main__":
    main()
