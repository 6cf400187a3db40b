"""How a server gets into MCP clients: what to type, and what to write into their configurations."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import orjson


def ways_to_install(app: str, target: str) -> list[str]:
    """What to type for the clients that have a command for it, and what the others want to have written."""
    name = server_name(app)
    command = [sys.executable, "-m", "sepkit", "run", absolute(target), "--mcp"]
    entry = {"command": command[0], "args": command[1:]}
    code = {"name": name, **entry}
    return [
        f"  Claude Code      claude mcp add {name} -s user -- {shlex.join(command)}",
        f"  VS Code          code --add-mcp {shlex.quote(orjson.dumps(code).decode())}",
        f"  Gemini CLI       gemini mcp add -s user {name} {shlex.join(command)}",
        f"  Codex            codex mcp add {name} -- {shlex.join(command)}",
        "  Claude Desktop, Cursor, Windsurf and others, in their JSON configuration:",
        f"    {orjson.dumps({'mcpServers': {name: entry}}).decode()}",
    ]


def server_name(app: str) -> str:
    """A name that all clients take: lower case letters, digits and hyphens, 31 characters at most."""
    name = re.sub(r"[^a-z0-9]+", "-", app.lower()).strip("-")
    return (name if name[:1].isalpha() else f"app-{name}".rstrip("-"))[:31].rstrip("-")


def absolute(target: str) -> str:
    """``target`` as it can be found from any folder: clients start a server wherever they are."""
    module, colon, attribute = target.rpartition(":")
    path = Path(module if module.endswith(".py") else module.replace(".", os.sep) + ".py")
    if not colon or not path.is_file():
        return target
    return f"{path.resolve()}:{attribute}"
