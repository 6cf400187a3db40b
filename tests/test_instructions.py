"""``App(instructions=)``: what the model should know of an extension as a whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sepkit import App, Block, HookContext, Patch, SystemPrompt
from sepkit.errors import InvalidParams, RegistrationError
from sepkit.testing import BlockOutcome, ContinueOutcome, ModifyOutcome, TestHost
from tests.memory_host import on_each_loop

TEXT = "Notes are kept with `keep`.\nAsk before you forget one."


async def prompted(host: TestHost, prompt: str = "Be brief.") -> Any:
    return await host.call_hook("before_agent_start", {"system_prompt": prompt})


@on_each_loop
async def test_instructions_are_added_to_the_system_prompt_once() -> None:
    async with TestHost(App("notes", instructions=TEXT)) as host:
        assert host.registrations.hooks == ["before_agent_start"]
        outcome = await prompted(host)
        assert isinstance(outcome, ModifyOutcome)
        assert outcome.patch == {"system_prompt": f"Be brief.\n\n{TEXT}"}
        assert isinstance(await prompted(host, f"Be brief.\n\n{TEXT}"), ContinueOutcome), "a host may send it again"
        empty = await prompted(host, "")
        assert isinstance(empty, ModifyOutcome)
        assert empty.patch == {"system_prompt": TEXT}


@on_each_loop
async def test_without_instructions_there_is_no_such_hook() -> None:
    async with TestHost(App("notes")) as host:
        assert host.registrations.hooks == []


@on_each_loop
async def test_hooks_of_the_apps_own_see_the_instructions_and_decide() -> None:
    app = App("notes", instructions=TEXT)
    seen, mood = [], ["nothing"]

    @app.hook("tool_call")
    async def other(call: dict[str, Any]) -> None: ...

    @app.hook("before_agent_start")
    async def own(prompt: SystemPrompt, ctx: HookContext) -> Block | Patch | None:
        seen.append(prompt.system_prompt)
        if mood[0] == "block":
            return Block("not now")
        return Patch(system_prompt=f"{prompt.system_prompt} Really.") if mood[0] == "patch" else None

    async with TestHost(app) as host:
        assert host.registrations.hooks == ["before_agent_start", "tool_call"]
        outcome = await prompted(host)
        assert isinstance(outcome, ModifyOutcome)
        assert outcome.patch == {"system_prompt": f"Be brief.\n\n{TEXT}"}
        mood[0] = "patch"
        outcome = await prompted(host)
        assert isinstance(outcome, ModifyOutcome)
        assert outcome.patch == {"system_prompt": f"Be brief.\n\n{TEXT} Really."}
        mood[0] = "block"
        assert isinstance(await prompted(host), BlockOutcome)
        assert seen == [f"Be brief.\n\n{TEXT}"] * 3
        with pytest.raises(InvalidParams, match="does not fit the hook"):
            await host.call_hook("before_agent_start", {"system_prompt": 5})
        with pytest.raises(InvalidParams, match="does not fit the hook"):
            await host.call_hook("before_agent_start", {})


@pytest.mark.parametrize("instructions", ["", "  \n", 5, ["x"], b"x", "\ud800", "x" * 65_537])
def test_instructions_that_cannot_be_sent_are_refused_in_one_sentence(instructions: Any) -> None:
    with pytest.raises(RegistrationError, match=re.escape("App 'notes': instructions=")) as raised:
        App("notes", instructions=instructions)
    assert len(str(raised.value)) < 250


def test_inspect_shows_instructions_needs_and_what_asks_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(
        "from sepkit import App\n"
        f"app = App('notes', instructions={TEXT!r}, needs=['network:API.example.com'])\n"
        "@app.tool(confirm='Forget it?')\n"
        "async def forget(id: str) -> str:\n"
        "    return id\n"
    )
    command = [sys.executable, "-m", "sepkit", "inspect", "notes:app"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "instructions:\n  Notes are kept with `keep`.\n  Ask before you forget one.\n" in shown
    assert "needs:\n  network:api.example.com\n" in shown
    assert "in the loop, asks the user before it runs\n" in shown
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["instructions"], found["needs"]) == (TEXT, ["network:api.example.com"])
    assert found["tools"][0]["confirm"] == "Forget it?"
