"""What sepkit's start is measured against. ``starts.py bare|imports|mcp|fastmcp``.

``bare`` and ``imports`` answer the first line that comes, without and with sepkit's dependencies; the others are a
server with one tool by the MCP SDKs.
"""

# ruff: noqa: F401
from __future__ import annotations

import sys
from importlib import import_module  # mypy must not need what may not be installed


def answer() -> None:
    sys.stdin.readline()
    sys.stdout.write('{"jsonrpc":"2.0","id":0,"result":{}}\n')
    sys.stdout.flush()
    sys.stdin.readline()


def imports() -> None:
    import asyncio

    import attrs
    import cattrs
    import orjson
    import uvloop

    answer()


def mcp() -> None:
    server = import_module("mcp.server.mcpserver").MCPServer("echo", log_level="ERROR")
    server.tool()(echo)
    server.run()


def fastmcp() -> None:
    server = import_module("fastmcp").FastMCP("echo")
    server.tool(echo)
    server.run(show_banner=False)


async def echo(text: str) -> str:
    """Return the text."""
    return text


{"bare": answer, "imports": imports, "mcp": mcp, "fastmcp": fastmcp}[sys.argv[1]]()
