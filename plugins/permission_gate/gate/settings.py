"""The settings, which are flags: their defaults, and what the host has set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from .rules import RULES

ANSWERS: Final = ("ask", "block", "pass")

# Names are compared in small letters, without `_` and `-`.
ARGUMENTS: Final = (
    "cmd", "cmdline", "cmdstring", "commandstring", "script", "shellscript", "bashscript", "scripttext",
    "scriptcontent",    "shell", "bash", "sh", "exec", "execute", "run", "argv", "oneliner", "powershell", "pwsh",
)  # fmt: skip
FOLDERS: Final = (
    "cwd", "dir", "folder", "directory", "workdir", "workingdir", "workingdirectory", "currentdirectory", "currentdir",
    "chdir", "workingfolder", "path", "basedir", "basepath", "root", "rootdir", "pwd", "location", "workspace",
)  # fmt: skip


@attrs.frozen
class Settings:
    """What is looked at, and what must not run."""

    arguments: tuple[str, ...] = ARGUMENTS
    folders: tuple[str, ...] = FOLDERS
    pass_tools: tuple[str, ...] = ()
    rules: tuple[str, ...] = RULES
    protect: tuple[str, ...] = ()
    unreadable: str = "ask"


_Check = Callable[[Any], bool]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


FLAGS: Final[dict[str, tuple[Any, str, _Check]]] = {
    "arguments": (
        list(ARGUMENTS),
        "Names of arguments that hold a command, beside each with `command` or `cmd` in its name.",
        _texts,
    ),
    "folders": (list(FOLDERS), "Names of arguments that hold the folder in which a command runs.", _texts),
    "pass_tools": ([], "Tools that are not looked at; a pattern such as `notes.*` is taken, too.", _texts),
    "rules": (
        list(RULES),
        f"The rules that are on: {', '.join(RULES)}.",
        lambda value: _texts(value) and set(value) <= set(RULES),
    ),
    "protect": (
        [],
        "More places from which nothing may be removed: `/data`, `~/photos`.",
        lambda value: _texts(value) and all(one.startswith(("/", "~")) for one in value),
    ),
    "unreadable": (
        "ask",
        "What becomes of a command that cannot be read: `ask` (a block where no person can be asked), `block`, `pass`.",
        lambda value: value in ANSWERS,
    ),
}


def settings_of(flags: Mapping[str, Any], wrong: Callable[[str], None]) -> Settings:
    """What the host has set; ``wrong`` is told of each value that cannot be used, and the default holds for it."""
    found: dict[str, Any] = {}
    for name, (default, _, check) in FLAGS.items():
        value = flags.get(name, default)
        if not check(value):
            wrong(f"the flag {name} cannot be {value!r:.200}; {default!r:.200} holds")
            value = default
        found[name] = tuple(value) if isinstance(value, list) else value
    found["arguments"] = tuple(map(simple, found["arguments"]))
    found["folders"] = tuple(map(simple, found["folders"]))
    return Settings(**found)


def simple(name: str) -> str:
    """A name as it is compared: ``workingDirectory`` and ``working_directory`` are one."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
