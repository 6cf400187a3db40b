"""Whether one command may run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from . import windows
from .calls import Command
from .marks import ANY, Unreadable, bare, fields, unmarked
from .parser import MAX_LENGTH
from .programs import Programs
from .reader import Reader
from .rules import Dangerous, Rules
from .state import State

MAX_WORDS: Final = 20_000  # of a command that comes as a list

# Without one of these in it no command is dangerous; most have none, and need not be read.
_TELLING: Final = re.compile(
    r"(?i)rm|dd|find|ch(mod|own|grp|attr|con)|mkfs|mke2fs|mkswap|newfs|wipe|shred|blkdiscard|tee|cp|mv|/dev/|\)\s*\{|\bfunction\b|rsync|truncate"
    r"|unlink|rimraf|parted|fdisk|gdisk|cryptsetup|hdparm|nvme|mdadm|badblocks|diskutil|zip|tar|del|erase|format|rd\b|ri\b|item|disk|cipher"
    r"|vssadmin|wbadmin|reg|remove|eval|base64|/(etc|proc|boot)|setfacl|trash|scrub|[$`\\]|[*?\]]\s|sh\b|fork|source|alias|zerofree"
    r"|rescue|lvr|vgr|zpool|zfs|fallocate|vgremove|install|ln\b|clear|[{]|iex|invoke|part(image|clone)|encoded|-e"
)


class Verdict(Exception):
    """A command must not run, or cannot be read."""

    def __init__(self, reason: str, *, readable: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.readable = readable


def decide(command: Command, rules: Rules, workspace: str) -> Verdict | None:
    """Why a command must not run; None where nothing speaks against it."""
    try:
        doubts = _look(command, rules, workspace)
    except Dangerous as danger:
        return Verdict(str(danger))
    except Unreadable as error:
        doubts = [str(error)]
    except RecursionError:
        doubts = ["it is nested too deeply"]
    return Verdict(f"it cannot be read: {doubts[0]}", readable=False) if doubts and rules.is_on("unreadable") else None


def _tells(text: str) -> bool:
    """Whether a command may be dangerous at all."""
    return bool(_TELLING.search(text) or _TELLING.search(re.sub(r"\\\n|['\"\\]", "", text)))


def _look(command: Command, rules: Rules, workspace: str) -> list[str]:
    if len(command.text) + sum(map(len, command.words)) + len(command.given or "") > MAX_LENGTH:
        raise Unreadable(f"it has more than {MAX_LENGTH:,} characters")
    if len(command.words) > MAX_WORDS:
        raise Unreadable(f"it has more than {MAX_WORDS:,} words")
    text = unmarked(command.text).replace("\0", "")
    if not command.words and not command.folder and not _tells(text):
        return []
    if command.kind == "windows":
        if reason := windows.danger(text):
            rules.refuse("windows", reason)
        return []
    programs = Programs(rules)
    reader = Reader(programs.launch, rules.redirected, rules.bomb)
    state = start(command.folder, workspace, command.environment)
    given = None if command.given is None else unmarked(command.given)
    if command.kind == "code":
        if not command.words:
            programs.look_at_code(reader, text, state)
    elif command.words:
        words = [
            field for word in command.words for field in fields(bare(_escaped(unmarked(word))), state.home) or [""]
        ]
        programs.launch(reader, words, state, given)
    else:
        reader.read(text, state, given)
        for trap in reader.at_the_end:
            reader.read(trap, state)
    return reader.doubts


def _escaped(word: str) -> str:
    """A word of a list: its braces and backslashes are plain, but a pattern or a tilde may still reach a shell."""
    return re.sub(r"([{},\\])", r"\\\1", word)


def start(folder: str, workspace: str, environment: Mapping[str, str]) -> State:
    """What is known when a command begins."""
    state = State(folders=("" if workspace in ("", "/") else unmarked(workspace),))
    for name, value in environment.items():
        if name.isidentifier():
            state.assign(name, [unmarked(value)])
    if folder:
        state.go(fields(bare(unmarked(folder)), state.home) if not folder.startswith("$") else [_from_variable(folder)])
    return state


def _from_variable(folder: str) -> str:
    found = re.fullmatch(r"\$\{?HOME\}?(/.*)?", folder)
    return f"/home/~{found[1] or ''}" if found else ANY
