"""Blocks shell commands that destroy what cannot be brought back.

The patterns are few and meant to be read; a gate that nobody understands is switched off. It looks at what the agent's
own shell tools are about to run (``tool_call``) and at what the user types (``user_bash``).
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from sepkit import App, Block, HookContext, ToolCall, UserBash

app = App("permission-gate", version="0.1.0")

SHELL_TOOLS: Final = frozenset({"bash", "shell", "sh", "run_command", "execute"})
_ARGUMENTS: Final = ("command", "cmd", "script")
_ROOTS: Final = re.compile(
    r"/|/\*|~/?|~/\*|\$HOME/?|\$\{HOME\}/?|/(bin|boot|dev|etc|home|lib|lib64|opt|root|sbin|srv|usr|var)(/\*?)?"
)
_DEVICE: Final = re.compile(r"/dev/(sd|nvme|vd|hd|mmcblk|disk)\w*")
_FORK_BOMB: Final = re.compile(r":\s*\(\s*\)\s*\{.*:\s*\|\s*:.*\}")
_SEPARATORS: Final = re.compile(r"&&|\|\||[;&|\n()]")
_WRAPPERS: Final = frozenset({"sudo", "doas", "env", "nohup", "time", "exec", "command", "nice", "xargs"})


def danger(command: str) -> str | None:
    """Why ``command`` must not run; None where nothing speaks against it."""
    if _FORK_BOMB.search(command):
        return "it is a fork bomb"
    for part in _SEPARATORS.split(command):
        try:
            words = shlex.split(part, comments=False)
        except ValueError:  # quotes that a separator cut apart: look at the bare words
            words = part.replace('"', " ").replace("'", " ").split()
        if reason := _danger_of_words(words):
            return reason
    return None


def _danger_of_words(words: list[str]) -> str | None:
    while words and (words[0].rsplit("/", 1)[-1] in _WRAPPERS or "=" in words[0] or words[0].startswith("-")):
        words = words[1:]
    if not words:
        return None
    program = words[0].rsplit("/", 1)[-1]
    arguments = words[1:]
    options = "".join(word.lstrip("-") for word in arguments if word.startswith("-") and not word.startswith("--"))
    targets = [word for word in arguments if not word.startswith("-")]
    if program in ("sh", "bash", "zsh", "dash") and "c" in options and targets:
        return danger(targets[0])
    recursive = "r" in options.lower() or "--recursive" in arguments
    if program == "rm" and recursive and (hit := next((t for t in targets if _ROOTS.fullmatch(t)), None)):
        return f"rm -r of {hit} destroys the system or the home folder"
    if program in ("chmod", "chown") and recursive and "/" in targets:
        return f"{program} -R of / breaks the system"
    if program.startswith("mkfs") or program in ("wipefs", "shred"):
        return f"{program} destroys a file system"
    if program == "dd" and (hit := next((t for t in targets if t.startswith("of=") and _DEVICE.match(t[3:])), None)):
        return f"dd overwrites the device {hit[3:]}"
    for word in words:
        if (match := re.match(r"\d?>{1,2}(.*)", word)) and _DEVICE.match(match.group(1)):
            return f"it overwrites the device {match.group(1)}"
    return None


@app.hook("tool_call")
async def gate_tools(call: ToolCall, ctx: HookContext) -> Block | None:
    if call.tool.rsplit(".", 1)[-1] not in SHELL_TOOLS:
        return None
    for name in _ARGUMENTS:
        command = call.arguments.get(name)
        if isinstance(command, list):
            command = shlex.join(str(word) for word in command)
        if isinstance(command, str) and (reason := danger(command)):
            ctx.log.warning("blocked %s: %s", call.tool, reason)
            return Block(f"{command!r} is blocked: {reason}")
    return None


@app.hook("user_bash")
async def gate_user(typed: UserBash) -> Block | None:
    reason = danger(typed.command)
    return Block(f"{typed.command!r} is blocked: {reason}") if reason else None
