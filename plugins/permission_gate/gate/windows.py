"""Commands of PowerShell and of cmd, read in a simple way: words, quotes, and what stands between two commands."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final

from .marks import Unreadable

_REMOVES: Final = frozenset({"remove-item", "ri", "rm", "rmdir", "rd", "del", "erase", "clear-content", "clc"})
_DISKS: Final = frozenset(
    {"format", "format.com", "format-volume", "clear-disk", "initialize-disk", "remove-partition", "reset-physicaldisk"}
)
_OTHERS: Final = frozenset(
    {"diskpart", "cipher", "vssadmin", "wbadmin", "takeown", "icacls", "reg", "get-childitem", "gci"}
)
_RUNS: Final = frozenset(
    {"invoke-expression", "iex", "start-process", "saps", "invoke-command", "icm", "&", "start", "call"}
)
# Words of a shell of Unix, too: there they are read by the rules for those.
_SHARED: Final = frozenset({"rm", "rmdir", "&", "call", "start"})

_TOKEN: Final = re.compile(r"""\s*(?:([;|&\n{}()]+)|((?:"[^"]*"|'[^']*'|[^\s;|&{}()"'])+)|(["']))""")
_NAMED: Final = "(systemroot|windir|userprofile|systemdrive|programfiles|homepath|homedrive)"
_ROOT: Final = re.compile(
    rf"(?i)(?:[a-z]:|\\\\\?\\[a-z]:|/|~|\$home|\$env:{_NAMED}|%{_NAMED}%)"
    r"(?:[\\/]+(windows|users|program files|program files \(x86\)|programdata|system32|windows[\\/]+system32"
    r"|users[\\/]+[^\\/*]+))?(?:[\\/]+(\*(\.\*)?)?)*"
)
LOOKS_IT: Final = re.compile(r"(?i)\b[a-z]:|[$%]\{?(env|user|system)|\s-rec|\s/s\b")  # beside `rm` and `rmdir`
_MAX_COMMANDS: Final = 5_000


def is_command(low: str) -> bool:
    """Whether a program of this name, in small letters, is one of Windows alone."""
    return low in (_REMOVES | _DISKS | _OTHERS | _RUNS) - _SHARED


def script_of(words: Sequence[str]) -> str:
    """The script that ``powershell`` is given.

    Raises:
        Unreadable: It is encoded, and not as it should be.
    """
    for place, word in enumerate(words):
        low = word.lower()
        if len(low) > 1 and low.startswith(("-e", "/e")) and "-encodedcommand".startswith(low.replace("/", "-")):
            try:
                return base64.b64decode("".join(words[place + 1 : place + 2])).decode("utf-16-le")
            except ValueError:
                raise Unreadable("its encoded command cannot be decoded") from None
        if len(low) > 1 and low[0] in "-/" and "command".startswith(low[1:]):
            return " ".join(words[place + 1 :])
    return " ".join(word for word in words[1:] if not word.startswith("-") or place_of_text(words, word))


def place_of_text(words: Sequence[str], word: str) -> bool:
    """Whether a word stands behind one that is no option, and so belongs to a script."""
    return any(not one.startswith("-") for one in words[1 : words.index(word)])


def danger(text: str, depth: int = 0) -> str | None:
    """Why a script of Windows must not run; None where nothing speaks against it."""
    if depth > 4:
        return None
    before: list[str] = []  # words of the command whose output comes through a pipe
    for number, (words, piped) in enumerate(_commands(text)):
        if number > _MAX_COMMANDS:
            return "it has too many commands to be read"
        if not words:
            continue
        if reason := _danger(words, before if piped else [], depth):
            return reason
        before = words if not piped else [*before, *words]
    return None


def _commands(text: str) -> list[tuple[list[str], bool]]:
    found: list[tuple[list[str], bool]] = []
    words: list[str] = []
    piped = False
    text = re.sub(r"(?i)\$\{(env:)?(\w+)\}", r"$\1\2", text)  # `${env:HOME}` and `$env:HOME` are one
    for token in _TOKEN.finditer(text.replace("`\n", " ").replace("^\n", "").replace("\n", " \n ") + " ;"):
        operator = token[1] or ("\n" if "\n" in token[0].strip(" \t") else "")
        if "\n" in token[0] and not token[1]:
            found.append((words, piped))
            words, piped = [], False
        if operator and token[1]:
            found.append((words, piped))
            words, piped = [], token[1].strip() == "|" or (not words and piped)
        elif token[2]:
            words.append(re.sub("[\"'`^]", "", token[2]))
    return [*found, (words, piped)]


def _danger(words: Sequence[str], before: Sequence[str], depth: int) -> str | None:
    name = words[0].lower().rpartition("\\")[2].removesuffix(".exe")
    rest = list(words[1:])
    low = [word.lower() for word in rest]
    if name in _RUNS or name in ("powershell", "pwsh", "cmd"):
        inner = [
            word
            for word in rest
            if not re.fullmatch(r"(?i)[-/](c|k|command|scriptblock|filepath|argumentlist|verb|noprofile)", word)
        ]
        return danger(" ".join(inner), depth + 1)
    if name in _REMOVES:
        recursive = any(
            (len(word) > 1 and "-recurse".startswith(word)) or word.startswith("/s") or word in ("-rf", "-fr", "-r")
            for word in low
        )
        if recursive or (before and any("-recurse".startswith(word.lower()) and len(word) > 2 for word in before)):
            targets = [part for word in [*rest, *before] for part in word.split(",")]
            for target in targets:
                if not re.fullmatch(r"/[a-zA-Z]", target) and _ROOT.fullmatch(target.strip()):
                    return f"{words[0]} of {target} destroys the system or the data of its users"
        elif name in ("del", "erase", "remove-item"):
            for target in rest:
                if _ROOT.fullmatch(target) and target.endswith("*"):
                    return f"{words[0]} of {target} destroys the system or the data of its users"
    if name in ("format", "format.com"):
        if any(re.fullmatch(r"[a-z]:\\?", word) for word in low):
            return f"{' '.join(words[:2])} makes a file system anew"
    elif name in _DISKS:
        return f"{words[0]} destroys what is on a disk"
    if name == "diskpart" and rest:
        return "diskpart changes disks"
    if name == "cipher" and any(word.startswith("/w") for word in low):
        return "cipher /w overwrites what is free on a disk"
    if name in ("vssadmin", "wbadmin") and "delete" in low:
        return f"{name} delete destroys backups"
    if (
        name == "reg"
        and low[:1] == ["delete"]
        and any(re.fullmatch(r"(hklm|hkey_local_machine)(\\(software|system))?", one) for one in low)
    ):
        return "reg delete destroys the system's registry"
    return None
