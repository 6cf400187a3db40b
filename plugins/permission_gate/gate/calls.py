"""Which commands a tool call holds: in which arguments, in which folder they run, and what they are given to read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import attrs

from .marks import Unreadable, names
from .settings import Settings, simple

MAX_PARTS: Final = 10_000  # values in the arguments of one call that are looked at
MAX_DEPTH: Final = 32

_SHELL_TOOL: Final = re.compile(
    r"(ba|z|da|k|fi|power|nu)?sh(ell)?|terminal|console|exec(ute)?|pwsh|cmd|commands?|tmux|ssh|tty|repl"
)
_OTHER_LANGUAGE: Final = re.compile(
    r"(i?python|py)\d*|node(js)?|js|javascript|typescript|ts|ruby|perl|php|sql|jupyter|notebook|lua|r"
)
_WINDOWS_TOOL: Final = frozenset({"powershell", "pwsh", "cmd", "batch"})
# In a call of a shell these hold what it runs, too.
_OF_SHELLS: Final = names(
    "input code text keys stdin line lines body source value content query statement data payload"
)
_GIVEN: Final = frozenset({"stdin", "input", "standardinput", "stdinput", "inputtext"})
_MORE: Final = frozenset(
    {"args", "arguments", "argv", "params", "parameters", "arg", "options", "cmdargs", "commandargs"}
)
_PROGRAMS: Final = frozenset(
    {"program", "executable", "binary", "exe", "bin", "interpreter", "process", "file", "filename", "path"}
)
_LANGUAGES: Final = frozenset({"language", "lang", "interpreter", "shell", "type", "kind", "runtime", "kernel"})
_ENVIRONMENT: Final = frozenset({"env", "environment", "envvars", "environmentvariables"})
_CODE: Final = frozenset({"code", "source", "program", "snippet"})
_SHELL_NAMES: Final = re.compile(r"(?:/\S*/)?(?:ba|z|da|k|a|fi)?sh(?:ell)?(?:script)?|console|terminal|shell-session")
_WINDOWS_NAMES: Final = re.compile(r"(?i)powershell(\.exe)?|pwsh(\.exe)?|cmd(\.exe)?|batch|bat|ps1|dos")


@attrs.frozen
class Command:
    """One command of a call."""

    text: str = ""
    words: tuple[str, ...] = ()  # in place of a text: what is run without a shell
    kind: str = "shell"  # or "windows", "code"
    folder: str = ""
    environment: Mapping[str, str] = attrs.Factory(dict)
    given: str | None = None

    @property
    def shown(self) -> str:
        """The command for people."""
        return self.text or shlex.join(self.words)


def commands_of(tool: str, arguments: Mapping[str, Any], settings: Settings) -> Iterator[Command]:
    """The commands in a call.

    Raises:
        Unreadable: It has too many values, or they are nested too deeply.
    """
    name = tool.lower()
    if any(fnmatchcase(tool, pattern) or tool == pattern for pattern in settings.pass_tools):
        return
    words = [word for word in re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", tool).lower()) if word]
    call = _Call(
        settings,
        foreign=any(_OTHER_LANGUAGE.fullmatch(word) for word in words),
        windows=bool(_WINDOWS_TOOL & set(words)) or "powershell" in name,
    )
    yield from call.look(arguments, "", {}, shell=any(_SHELL_TOOL.fullmatch(word) for word in words))


class _Call:
    def __init__(self, settings: Settings, *, windows: bool, foreign: bool) -> None:
        self._foreign = foreign
        self._settings = settings
        self._windows = windows
        self._parts = 0

    def _is_command(self, name: str) -> bool:
        if "command" in name or name.startswith("cmd") or name.endswith("cmd") or name in self._settings.arguments:
            return name not in _MORE and not name.endswith(("id", "name", "type", "description", "timeout", "index"))
        return False

    def look(
        self,
        arguments: Mapping[str, Any],
        folder: str,
        environment: Mapping[str, str],
        depth: int = 0,
        *,
        shell: bool = False,
    ) -> Iterator[Command]:
        """The commands in one object, and in those within it."""
        if depth > MAX_DEPTH:
            raise Unreadable("its arguments are nested too deeply")
        named = {simple(str(key)): value for key, value in arguments.items()}
        folder = next(
            (named[key] for key in self._settings.folders if isinstance(named.get(key), str) and named[key]), folder
        )
        folder = folder.removeprefix("file://")
        for key in _ENVIRONMENT & named.keys():
            if isinstance(named[key], Mapping):
                environment = {**environment, **{str(one): str(value) for one, value in named[key].items()}}
        language = next((named[key] for key in _LANGUAGES if isinstance(named.get(key), str)), "")
        spoken = bool(_SHELL_NAMES.fullmatch(language.lower()))
        foreign = self._foreign or bool(_OTHER_LANGUAGE.fullmatch(language.lower()))
        windows = bool(_WINDOWS_NAMES.fullmatch(language)) or (self._windows and not foreign)
        given = next((named[key] for key in _GIVEN if isinstance(named.get(key), str)), None)
        more = next((named[key] for key in _MORE if key in named and isinstance(named[key], str | list)), None)
        has_command = any(self._is_command(key) and named[key] for key in named)
        program = next((key for key in _PROGRAMS if isinstance(named.get(key), str)), "") if more is not None else ""

        for key, value in named.items():
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise Unreadable("its arguments have too many values")
            is_command = self._is_command(key)
            if not is_command and not has_command:
                is_command = key == program or (key in _MORE and not program and (shell or key == "argv"))
            if not is_command and key in _OF_SHELLS:
                is_command = (shell or windows) and not (has_command and key in _GIVEN)
            code = key in _CODE and not spoken
            if key in _CODE:
                is_command = spoken or windows or (is_command and not foreign)
            for command in self._commands(value, more if key not in _MORE else None, plural=key.endswith("s")):
                if code and command.text:
                    yield attrs.evolve(command, kind="code")
                if is_command and windows and command.text:
                    yield attrs.evolve(command, kind="windows", folder=folder)
                if is_command:
                    yield attrs.evolve(command, folder=folder, environment=environment, given=given)
            yield from self._within(value, folder, environment, depth, shell or self._is_command(key))

    def _within(
        self, value: Any, folder: str, environment: Mapping[str, str], depth: int, shell: bool
    ) -> Iterator[Command]:
        waiting = [(value, depth)]
        while waiting:
            one, deep = waiting.pop()
            if deep > MAX_DEPTH:
                raise Unreadable("its arguments are nested too deeply")
            if isinstance(one, Mapping):
                yield from self.look(one, folder, environment, deep + 1, shell=shell)
            elif isinstance(one, list):
                self._parts += len(one)
                if self._parts > MAX_PARTS and not all(isinstance(each, str) for each in one):
                    raise Unreadable("its arguments have too many values")
                waiting += [(each, deep + 1) for each in one if isinstance(each, list | Mapping)]

    @staticmethod
    def _commands(value: Any, more: Any, *, plural: bool) -> Iterator[Command]:
        if isinstance(value, str):
            if isinstance(more, list):
                # The words may reach a shell, or the program itself.
                yield Command(words=(*_split(value), *map(str, more)))
                if not more or re.search(r"[;&|<>$`(\n]", value):
                    yield Command(text=f"{value} {shlex.join(map(str, more))}".strip())
            else:
                yield Command(text=f"{value} {more}" if isinstance(more, str) and more else value)
        elif isinstance(value, list) and value:
            texts = [str(one) for one in value if isinstance(one, str | int | float)]
            if not texts:
                return
            if (
                len(texts) == 1
                or re.search(r"\s", texts[0].strip())
                or (plural and any(re.search(r"\s", one) for one in texts))
            ):
                yield Command(text="\n".join(texts))
            extra = (
                [str(one) for one in more] if isinstance(more, list) else more.split() if isinstance(more, str) else []
            )
            yield Command(words=(*texts, *extra))


def _split(text: str) -> Sequence[str]:
    try:
        return shlex.split(text) or [text]
    except ValueError:
        return text.split()
