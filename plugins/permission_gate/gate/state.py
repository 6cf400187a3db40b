"""What a shell knows while it runs: variables, functions, folders, and what was written to files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import attrs

from .marks import ANY, CUT, HOME, MAYBE, Unreadable

if TYPE_CHECKING:
    from tree_sitter import Node

    from .parser import Script

MAX_VALUES: Final = 512  # that a variable may have, as far as one can tell
MAX_TEXT: Final = 400_000  # characters of a value, or of what a command prints

# What a shell finds in its environment; other names may be unset.
_ENVIRONMENT: Final[dict[str, str]] = {
    "HOME": HOME,
    "USERPROFILE": HOME,
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "SHELL": "/bin/bash",
    "USER": "user",
    "LOGNAME": "user",
    "USERNAME": "user",
    "TMPDIR": "/tmp",
    "TMP": "/tmp",
    "TEMP": "/tmp",
    "IFS": " \t\n",
    "BASH": "/bin/bash",
    "SUDO_USER": "user",
}
_GIVEN: Final = re.compile(
    r"(XDG|GITHUB|RUNNER|CI|CONDA|NVM|JAVA|GO|CARGO|RUSTUP|PYENV|LC|BASH)_\w+|VIRTUAL_ENV|WORKSPACE|GOPATH|GOROOT|HOSTNAME"
    r"|PYTHONPATH|EDITOR|PAGER|TERM|LANG|RANDOM|SECONDS|LINENO|UID|EUID|PPID|SRANDOM|EPOCHSECONDS|OSTYPE|MACHTYPE|PS\d"
)


class Text:
    """Text that is put together when it is asked for: most here-documents only go to a file."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make
        self._made: str | None = None

    def get(self) -> str:
        if self._made is None:
            self._made = self._make()
        return self._made


Output = str | Text


def whole(output: Output | None) -> str:
    """What a command printed, or what another is given to read; not known where there is no telling."""
    if output is None:
        return ANY
    text = output.get() if isinstance(output, Text) else output
    if len(text) > MAX_TEXT:
        raise Unreadable("the texts that it makes are too long")
    return text


@attrs.define
class State:
    """What a shell knows at one point; a subshell has a copy."""

    folders: tuple[str, ...]  # where it may be; "" for the folder in which it starts, if that is not known
    before: tuple[str, ...] = ("",)
    stack: list[tuple[str, ...]] = attrs.Factory(list)
    variables: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    functions: dict[str, tuple[Node, Script]] = attrs.Factory(dict)
    aliases: dict[str, str] = attrs.Factory(dict)
    files: dict[str, Output] = attrs.Factory(dict)  # what was written to them, whichever shell did
    arguments: tuple[str, ...] | None = None  # $1 and on; None where they are not known
    unset_arguments: str = MAYBE  # what stands for them then
    ended: bool = False  # exit, return, break: what follows is not reached

    def copy(self) -> State:
        return attrs.evolve(
            self,
            stack=list(self.stack),
            variables=dict(self.variables),
            functions=dict(self.functions),
            aliases=dict(self.aliases),
        )

    def become(self, ways: Iterable[State]) -> None:
        """Be what any of ``ways`` may have led to, but for those that ended."""
        all_ways = list(ways)
        open_ways = [way for way in all_ways if not way.ended] or all_ways
        self.ended = all(way.ended for way in all_ways)
        self.folders = _union(way.folders for way in open_ways)
        self.before = _union(way.before for way in open_ways)
        self.stack = open_ways[-1].stack
        self.arguments = open_ways[-1].arguments
        for way in open_ways:
            self.functions.update(way.functions)
            self.aliases.update(way.aliases)
        names = dict.fromkeys(name for way in open_ways for name in way.variables)
        self.variables = {
            name: _union(way.variables[name] for way in open_ways if name in way.variables) for name in names
        }

    def look_up(self, name: str) -> tuple[str, ...]:
        """The values that a variable may have."""
        if name in self.variables:
            return self.variables[name]
        if name in ("PWD", "OLDPWD"):
            return tuple(each or ANY for each in (self.folders if name == "PWD" else self.before))
        if name in ("@", "*"):
            return (self.unset_arguments if self.arguments is None else CUT.join(self.arguments),)
        if name == "0":
            return ("bash",)
        if name.isdigit():
            if self.arguments is None:
                return (self.unset_arguments,)
            return (self.arguments[int(name) - 1] if int(name) <= len(self.arguments) else "",)
        if name in _ENVIRONMENT:
            return (_ENVIRONMENT[name],)
        return (ANY if not name.isidentifier() or _GIVEN.fullmatch(name) else MAYBE,)

    def assign(self, name: str, values: Iterable[str], *, add: bool = False) -> None:
        """Set a variable, or add to its value."""
        given = tuple(dict.fromkeys(values))
        if add:
            old = self.variables.get(name, ("",))
            if len(old) * len(given) > 4 * MAX_VALUES:
                raise Unreadable("its variables have too many values")
            given = _union([tuple(one + more for one in old for more in given)])
        if any(len(value) > MAX_TEXT for value in given):
            raise Unreadable("the values of its variables are too long")
        self.variables[name] = _few(given)

    def home(self, user: str) -> str:
        """What ``~user`` comes to."""
        if user in ("+", "-"):
            return (self.folders if user == "+" else self.before)[0] or "."
        return HOME if not user else "/root" if user == "root" else f"/home/{user}"

    def paths(self, word: str) -> list[str]:
        """A path as seen from the root, as far as the folder is known; without doubled slashes and dots."""
        if word.startswith(MAYBE) and (rest := word.lstrip(MAYBE)).startswith("/"):
            return [MAYBE + plain(rest)]
        if word.startswith(("/", ANY, MAYBE)):
            return [plain(word)]
        return [plain(f"{folder}/{word}" if folder else word) for folder in self.folders]

    def go(self, words: Iterable[str]) -> None:
        """Change the folder to one of ``words``."""
        found = [path for word in words for path in self.paths(word)]
        self.before = self.folders
        # A folder with an unknown name in a known place stays in that place; else nothing is known.
        self.folders = _few(tuple(dict.fromkeys(path if path.startswith("/") else ANY for path in found)))


def plain(path: str) -> str:
    """A path without `..`, doubled slashes and ways back to the root."""
    path = re.sub(r"^/+proc/(self|thread-self|\d+)/(root|cwd)(?=/|$)", "/", path)
    return re.sub("^//+", "/", posixpath.normpath(path)) if path else ""


def _union(many: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return _few(tuple(dict.fromkeys(value for values in many for value in values)))


def _few(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > MAX_VALUES:
        raise Unreadable("its variables have too many values")
    return values
