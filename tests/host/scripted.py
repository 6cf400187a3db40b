"""Extensions that answer as they are told to, in processes of their own, for the tests of the host."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sepkit.host import Delegate, Host, KvStore, Manifest
from sepkit.host.manifest import GROUPS, Capabilities, Run

CHILD: Final = Path(__file__).with_name("children") / "scripted.py"
PATIENCE: Final = 20.0


def scripted(
    name: str,
    *,
    hooks: dict[str, Any] | None = None,
    answers: dict[str, Any] | None = None,
    declared: bool = True,
    grants: dict[str, Any] | None = None,
    hook_timeout: float | None = None,
    frames: dict[str, Any] | None = None,
    **registrations: Any,
) -> Manifest:
    """An extension of this name.

    Args:
        name: Its name.
        hooks: What it answers to which hook.
        answers: What it answers to which method.
        declared: Whether it declares its hooks.
        grants: What its manifest grants but for all groups.
        hook_timeout: Of its manifest.
        frames: Which its tool ``do`` writes where it is given their names, and which no host needs to be able to send.
        registrations: What else it registers.
    """
    if hooks is not None and declared:
        registrations.setdefault("hooks", list(hooks))
    said = {"registrations": registrations, "hooks": hooks or {}, "answers": answers or {}, "frames": frames or {}}
    run = Run(sys.executable, ["-S", str(CHILD), json.dumps(said)])
    capabilities = Capabilities(**{**dict.fromkeys(GROUPS, True), **(grants or {})})
    return Manifest(name, "1", CHILD.parent, run, capabilities=capabilities, hook_timeout=hook_timeout)


def host(delegate: Delegate | None = None, **options: Any) -> Host:
    return Host("test", "1", store=KvStore(), delegate=delegate, **options)


async def load(host: Host, *manifests: Manifest) -> None:
    for problem in await host.load(manifests):
        raise problem.error


async def seen(host: Host, name: str, method: str) -> list[Any]:
    """The params of each request and notification of this method that has reached an extension."""
    result = await asyncio.wait_for(host.call_tool(f"{name}.seen"), PATIENCE)
    assert isinstance(result.details, list)
    return [params for found, params in result.details if found == method]


async def do(host: Host, name: str, *frames: dict[str, Any] | str, answers: int = 0, **more: Any) -> list[Any]:
    """Have an extension write frames; what it is answered to them."""
    arguments = {"send": list(frames), "answers": answers, **more}
    result = await asyncio.wait_for(host.call_tool(f"{name}.do", arguments), PATIENCE)
    assert isinstance(result.details, list)
    return result.details


def show_widget(widget_id: str, rid: str = "w") -> dict[str, Any]:
    """The frame that shows a widget."""
    block = {"kind": "widget", "widget_id": widget_id, "body": {"kind": "markdown", "text": "x"}, "keybindings": []}
    return {"id": rid, "method": "ui/request", "params": {"kind": "set_widget", "widget": block}}


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


def status(host: Host, name: str) -> Any:
    return next(one for one in host.status() if one.name == name)
