"""Plugins of this repository, unchanged, as MCP servers in processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.mcp.checked import VERSIONS, CheckedClient

PLUGINS = Path(__file__).parents[2] / "plugins"


def server(plugin: str, tmp_path: Path, version: str, **options: Any) -> CheckedClient:
    command = [sys.executable, "-m", "sepkit", "run", "app:app", "--mcp"]
    env = {**os.environ, "SEPKIT_DATA_DIR": str(tmp_path / "data"), "CLAUDE_PROJECT_DIR": str(tmp_path)}
    return CheckedClient(command, version, cwd=PLUGINS / plugin, env=env, **options)


@pytest.mark.asyncio
async def test_hello_greets_with_progress_and_its_command_is_a_prompt(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    async with server("hello", tmp_path, VERSIONS[0]) as client:
        result = await client.call_tool(
            "greet", {"name": "Ada", "language": "fr", "times": "2"}, on_progress=told.append
        )
        assert result.text == "Bonjour, Ada!\nBonjour, Ada!"
        assert [one["progress"] for one in told] == [0, 0.5, 1]
        (message,) = await client.get_prompt("turns", {"unit": "dozens"})
        assert message["content"]["text"] == "0.0 dozen turns"
        assert await client.complete("turns", "unit", "d") == ["dozens"]
    assert client.exit_code == 0


@pytest.mark.asyncio
async def test_permission_gate_starts_and_says_what_is_not_served(tmp_path: Path) -> None:
    async with server("permission_gate", tmp_path, VERSIONS[-1]) as client:
        assert await client.list_tools() == []
        assert client.server["name"] == "permission-gate"
    assert client.exit_code == 0


@pytest.mark.asyncio
async def test_folder_watch_resumes_its_watches_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    async with server("folder_watch", tmp_path, VERSIONS[-1]) as client:
        began = await client.call_tool("start_watch", {"path": "watched", "user": "ada"})
        assert began.structured["path"] == str(tmp_path / "watched")
    assert client.exit_code == 0
    async with server("folder_watch", tmp_path, VERSIONS[-2]) as client:
        watches = orjson.loads((await client.call_tool("list_watches", {"user": "ada"})).text)
        assert [(one["id"], one["status"]) for one in watches] == [(began.structured["id"], "running")]
        (tasks,) = await client.read_resource("sepkit://tasks")
        assert began.structured["id"] in tasks["text"]
        assert not (await client.call_tool("stop_watch", {"id": began.structured["id"], "user": "ada"})).is_error
    assert client.exit_code == 0
