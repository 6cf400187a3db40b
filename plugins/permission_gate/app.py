"""Blocks shell commands that destroy what cannot be brought back.

The rules are few and meant to be read; a gate that nobody understands is switched off. It looks at what the agent's own
shell tools are about to run (``tool_call``) and at what the user types (``user_bash``). Where a shell would read a
command in a way that this does not, it errs on the side of the block.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import Final

from sepkit import App, Block, HookContext, ToolCall, UserBash

app = App("permission-gate", version="0.1.0")

SHELL_TOOLS: Final = frozenset({"bash", "sh", "shell", "terminal", "exec", "execute", "execute_command", "run_command"})
_ARGUMENTS: Final = ("command", "cmd", "script")

# What a path comes to, once `..`, doubled slashes and the names of the home folder are out of the way.
_SYSTEM: Final = re.compile(r"/(\.?\*)?|/(bin|boot|dev|etc|lib|lib32|lib64|proc|root|sbin|sys|usr|var)(/\.?\*)?")
_DATA: Final = re.compile(r"(~\w*|/(home|opt|srv|mnt|media|Users)|/(home|Users)/[^/]+)(/\.?\*)?")
_DEVICE: Final = re.compile(r"/dev/(sd|hd|vd|xvd|nvme|mmcblk|md|dm-|mapper/|r?disk)\w*")
_FORK_BOMB: Final = re.compile(r"(?<![\w:])([\w:]{1,64})\s*\(\s*\)\s*\{[^}]{0,200}?\1\s*\|\s*\1\s*&")

# Without one of these in it no command is dangerous; most have none, and need not be read.
_TELLING: Final = re.compile(r"rm|dd|find|ch(mod|own|grp)|mkfs|wipefs|shred|blkdiscard|tee|cp|mv|/dev/|\)\s*\{")

_OPERATORS: Final = "();<>|&`\n"
_REDIRECTION: Final = re.compile(r"&?>{1,2}[|&]?|<{1,3}&?|<>")
_SUBSTITUTION: Final = re.compile(r"(?s)\$\((.*)\)|`(.*)`")
_SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "ksh", "su"})
# What runs the command that follows it, and what stands before one in a script.
_RUNNERS: Final = frozenset({"sudo", "doas", "env", "nohup", "time", "timeout", "nice", "ionice", "setsid", "xargs"})
_KEYWORDS: Final = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{"})
_WRAPPERS: Final = _RUNNERS | _KEYWORDS | {"exec", "command", "builtin"}
_FILTERS: Final = frozenset({"-name", "-iname", "-path", "-ipath", "-regex", "-user", "-newer", "-mtime", "-maxdepth"})
_MAX_LENGTH: Final = 400_000
_MAX_DEPTH: Final = 8
_MAX_PREFIX: Final = 20  # words of `sudo`, its options and the like before the program


def danger(command: str, depth: int = 0) -> str | None:
    """Why ``command`` must not run; None where nothing speaks against it."""
    if len(command) > _MAX_LENGTH or depth > _MAX_DEPTH:
        return "it is too long, or nested too deeply, to be read"
    command = command.replace("\\\n", "")
    if not _TELLING.search(re.sub("['\"\\\\]", "", command)):
        return None
    if _FORK_BOMB.search(command):
        return "it is a fork bomb"
    words: list[str] = []
    redirected = False
    for token in [*_tokens(command), "\n"]:
        if set(token) <= set(_OPERATORS):
            redirected = token.rstrip("|&").endswith(">")
            if not _REDIRECTION.fullmatch(token):
                if reason := _danger_of_words(words, depth):
                    return reason
                words = []
            continue
        # In single quotes a shell would leave a substitution alone, but the quotes are gone here.
        for inner in _SUBSTITUTION.findall(token):
            if reason := danger("".join(inner), depth + 1):
                return reason
        if not redirected:
            words.append(token)
        elif _DEVICE.match(token):
            return f"it overwrites the device {token}"
        redirected = False
    return None


def _tokens(command: str) -> list[str]:
    """The words of a command without their quotes, and the operators between them."""
    for text in (command, re.sub(r"['\"\\]", " ", command)):  # the second: bare words
        lexer = shlex.shlex(text, posix=True, punctuation_chars=_OPERATORS)
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
        try:
            return list(lexer)
        except ValueError:  # a quote without its end, in a here-document, say
            continue
    return []


def _danger_of_words(words: list[str], depth: int) -> str | None:
    wrapped = False
    for number, word in enumerate(words[:_MAX_PREFIX]):
        program = word.rsplit("/", 1)[-1]
        if reason := _danger_of_program(program, words[number + 1 :], depth):
            return reason
        if program in _WRAPPERS:
            wrapped = True  # options, their values and assignments may follow: any word may be the program
        elif not wrapped and "=" not in word:
            return None
    return None


def _danger_of_program(program: str, arguments: list[str], depth: int) -> str | None:
    options = {word for word in arguments if word.startswith("-") and word != "-"}
    letters = {letter for word in options if not word.startswith("--") for letter in word[1:]}
    targets = [word for word in arguments if word not in options]
    paths = map(_plain, targets)
    if program in _SHELLS and "c" in letters:
        return next((reason for target in targets if (reason := danger(target, depth + 1))), None)
    if program == "eval":
        return danger(" ".join(arguments), depth + 1)
    recursive = "R" in letters or any(len(word) > 2 and "--recursive".startswith(word) for word in options)
    if program == "rm" and (recursive or "r" in letters):
        hit = next((path for path in paths if _SYSTEM.fullmatch(path) or _DATA.fullmatch(path)), None)
        return hit and f"rm -r of {hit} destroys the system or the data of its users"
    if program in ("chmod", "chown", "chgrp") and recursive:
        hit = next((path for path in paths if _SYSTEM.fullmatch(path)), None)
        return hit and f"{program} -R of {hit} breaks the system"
    if program == "find" and ("-delete" in options or "rm" in targets) and not options & set(_FILTERS):
        hit = next((path for path in paths if _SYSTEM.fullmatch(path) or _DATA.fullmatch(path)), None)
        return hit and f"find deletes {hit}"
    written = [word.removeprefix("of=") for word in targets] if program == "dd" else []
    if program.startswith("mkfs") or program in ("wipefs", "shred", "blkdiscard", "tee"):
        written = targets
    elif program in ("cp", "mv"):
        written = targets[-1:]
    hit = next((word for word in written if _DEVICE.match(word)), None)
    return hit and f"{program} overwrites the device {hit}"


def _plain(path: str) -> str:
    path = re.sub(r"^(\$HOME|\$\{HOME\})(?=/|$)", "~", path)
    return posixpath.normpath(re.sub("/+", "/", path)) if path else ""


@app.hook("tool_call")
async def gate_tools(call: ToolCall, ctx: HookContext) -> Block | None:
    if call.tool.rsplit(".", 1)[-1].lower() not in SHELL_TOOLS:
        return None
    for name in _ARGUMENTS:
        command = call.arguments.get(name)
        if isinstance(command, list):
            command = shlex.join(map(str, command))
        if isinstance(command, str) and isinstance(more := call.arguments.get("args"), list):
            command = f"{command} {shlex.join(map(str, more))}"
        if isinstance(command, str) and (reason := danger(command)):
            ctx.log.warning("blocked %s: %s", call.tool, reason)
            return _block(command, reason)
    return None


@app.hook("user_bash")
async def gate_user(typed: UserBash) -> Block | None:
    reason = danger(typed.command)
    return _block(typed.command, reason) if reason else None


def _block(command: str, reason: str) -> Block:
    # Cut short: some hosts take no line over 64 KiB.
    return Block(f"{command[:1000]!r}{'…' * (len(command) > 1000)} is blocked: {reason}")
