"""Text of a shell → its tree. The parser is loaded when a command is read that needs it."""

from __future__ import annotations

import functools
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from .marks import Unreadable

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MAX_LENGTH: Final = 400_000  # characters
MAX_TIME: Final = 0.5  # seconds of this thread's own; what is written by people needs a tenth, made-up texts minutes

# What the grammar reads in another way than a shell does, and how it is spelled to be read alike.
_TEST: Final = re.compile(r"(?<![^\s;&|({!`])\[(?=\s)")  # `[ -d / ] && x` is taken for one test
_EXTENDED: Final = re.compile(r"(?<=[\w/.*\]])[!@?*+]\([^()\n]*\)")  # `/!(home)`
_NAME: Final = re.compile(r"(?s)(\\.)|\$([A-Za-z_]\w*)")  # `$IFS/` at the end of a word
_HEREDOC: Final = re.compile(r"(<<-?[ \t]*(?:'[^'\n]*'|\"[^\"\n]*\"|\\?[\w.-]+))([^\n]*)")  # what follows on its line
_PART: Final = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|;;|;""")
_NAMES_UP_TO: Final = 20_000  # characters


@functools.cache
def _parser() -> Parser:
    try:
        import tree_sitter
        import tree_sitter_bash
    except ImportError as error:
        raise Unreadable(f"the parser is not installed (pip install tree-sitter tree-sitter-bash): {error}") from None
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _apart(found: re.Match[str]) -> str:
    """A here-document's first line, with a space after the name of its end, and another command behind `&&`."""
    rest = _PART.sub(lambda part: " && " if part[0] == ";" else part[0], found[2].rstrip("; \t\r"))
    return f"{found[1]} {rest}" if rest else found[1]


class Script(NamedTuple):
    """A tree, and the text that its nodes are places of."""

    root: Node
    data: bytes

    def text(self, node: Node) -> str:
        """What a node was written as."""
        return self.between(node.start_byte, node.end_byte)

    def between(self, start: int, end: int) -> str:
        """What stands between two places."""
        return self.data[start:end].decode("utf-8", "replace")


def parse(text: str) -> Script:
    """The tree of ``text``; there may be errors in it.

    Raises:
        Unreadable: It is too long, or takes too long.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"it has more than {MAX_LENGTH:,} characters")
    parser = _parser()
    if "<<" in text:
        text = _HEREDOC.sub(_apart, text)
    text = text.replace("\r\n", "\n")
    if "[" in text:
        text = _TEST.sub(r"\\[", text)
    if "(" in text:
        text = _EXTENDED.sub("*", text)
    if "$" in text and len(text) < _NAMES_UP_TO:
        text = _NAME.sub(lambda found: found[1] or f"${{{found[2]}}}", text)
    if (len(text) - len(text.rstrip("\\"))) % 2:
        text += "\\"  # a backslash at the very end stands for itself
    data = text.encode("utf-8", "replace")
    end = time.thread_time() + MAX_TIME
    try:
        tree = parser.parse(
            lambda offset, _point: data[offset : offset + 65_536],
            progress_callback=lambda _offset, _has_error: time.thread_time() > end,  # true: give up
        )
    except ValueError:
        parser.reset()
        raise Unreadable("it takes too long to be read") from None
    return Script(tree.root_node, data)
