"""Text of which not everything is known: strings with marks for what a shell would put in, or act on.

A command is read without being run, so a word may hold what only the shell will know. Each such piece is one character
that no command holds: what comes in with such a character has it replaced first (`unmarked`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Final

ANY: Final = "\U00100001"  # text that is not known, and is not empty
MAYBE: Final = "\U00100002"  # the value of a variable that the command does not set: it may be empty
OPAQUE: Final = "\U00100003"  # text that came out of a decoder, or of another change that is not followed
STAR: Final = "\U00100004"  # * ? [ where they match names of files
ONE: Final = "\U00100005"
SET: Final = "\U00100006"
CUT: Final = "\U00100007"  # where an unquoted value falls apart into words
OPEN: Final = "\U00100008"  # { , } where they may be a brace expansion
COMMA: Final = "\U00100009"
CLOSE: Final = "\U0010000a"
TILDE: Final = "\U0010000b"

MAX_WORDS: Final = 1_024  # that one word may come to
MAX_WORK: Final = 400_000  # characters that are copied for them

HOME: Final = "/home/~"  # stands for the home folder of the one who runs the command

_MAX_PATTERN: Final = 300  # characters

_MARKED: Final = re.compile("[\U00100001-\U0010000b]")
_ACTIVE: Final = {"*": STAR, "?": ONE, "[": SET, "{": OPEN, ",": COMMA, "}": CLOSE, "~": TILDE}
_SPELLED: Final = {mark: char for char, mark in _ACTIVE.items()} | {CUT: " ", ANY: "…", MAYBE: "", OPAQUE: "…"}
_IN_WORD: Final = re.compile(r"(?s)\\(.?)|([*?\[{},~])")
_IN_VALUE: Final = re.compile(r"([*?\[])|\s+")
_SEQUENCE: Final = re.compile(rf"{OPEN}(?:-?\d+\.\.-?\d+(?:\.\.-?\d+)?|([A-Za-z])\.\.[A-Za-z](?:\.\.-?\d+)?){CLOSE}")
_GLOB: Final = frozenset({STAR, ONE, SET})
_UNSURE: Final = (ANY, MAYBE, OPAQUE)


class Unreadable(Exception):
    """What a command does cannot be told; the text says why."""


def names(*lines: str) -> frozenset[str]:
    """The words of some lines."""
    return frozenset(word for line in lines for word in line.split())


def unmarked(text: str) -> str:
    """``text`` without characters that could pass for marks."""
    return _MARKED.sub("\ufffd", text)


def bare(text: str) -> str:
    """A piece of a word outside quotes, its backslashes taken away and its special characters marked."""
    return _IN_WORD.sub(lambda found: _ACTIVE[found[2]] if found[2] else "" if found[1] == "\n" else found[1], text)


def unquoted(value: str) -> str:
    """What a value comes to where it stands without quotes: it falls apart, and its patterns match."""
    return _IN_VALUE.sub(lambda found: _ACTIVE[found[1]] if found[1] else CUT, value)


def spelled(text: str) -> str:
    """``text`` for people, and for a shell that reads it again."""
    return _MARKED.sub(lambda found: _SPELLED[found[0]], text)


def text_of(text: str) -> str:
    """``text`` where its patterns are plain characters; what is not known stays marked."""
    return _MARKED.sub(lambda found: found[0] if found[0] in _UNSURE else _SPELLED[found[0]], text)


def fields(word: str, home: Callable[[str], str]) -> list[str]:
    """The words that a shell makes of one: braces, then the tilde, then spaces of unquoted values."""
    found = []
    for each in _braces(word):
        for field in each.split(CUT):
            if field.startswith(TILDE):
                user, slash, rest = field[1:].partition("/")
                field = home(user) + slash + rest
            if field or CUT not in each:
                found.append(re.sub(f"[{OPEN}{COMMA}{CLOSE}{TILDE}]", lambda one: _SPELLED[one[0]], field))
    return found


def _braces(word: str) -> Iterator[str]:
    if OPEN not in word:
        yield word
        return
    waiting = [_SEQUENCE.sub(lambda found: ONE if found[1] else ANY, word)]
    given = work = 0
    while waiting:
        one = waiting.pop()
        work += len(one)
        found = _first_braces(one)
        if found is None:
            given += 1
            yield one
        else:
            before, options, after = found
            waiting += [before + option + after for option in reversed(options)]
        if given + len(waiting) > MAX_WORDS or work > MAX_WORK:
            raise Unreadable("its braces come to too many words")


def _first_braces(word: str) -> tuple[str, list[str], str] | None:
    """The leftmost braces with a comma between them: what stands before, the choices, and what follows."""
    opened: list[tuple[int, list[int]]] = []
    best: tuple[int, list[int], int] | None = None
    for place, char in enumerate(word):
        if char == OPEN:
            opened.append((place, []))
        elif char == COMMA and opened:
            opened[-1][1].append(place)
        elif char == CLOSE and opened:
            start, commas = opened.pop()
            if commas and (best is None or start < best[0]):
                best = start, commas, place
            if not opened and best:
                break
    if best is None:
        return None
    start, commas, end = best
    edges = [start, *commas, end]
    return word[:start], [word[a + 1 : b] for a, b in itertools.pairwise(edges)], word[end + 1 :]


def is_glob(name: str) -> bool:
    return not _GLOB.isdisjoint(name)


def is_broad(name: str) -> bool:
    """Whether a pattern for names leaves little out: ``*``, ``.*``, ``[a-z]*``, ``.??*``."""
    if not is_glob(name):
        return False
    rest = re.sub(rf"{SET}[^\]]*\]|[{STAR}{ONE}]", "", name)
    return rest.strip(".") == "" and (STAR in name or SET in name)


def matches(name: str, pattern: str) -> bool:
    """Whether the pattern of a word matches ``name``, as a shell does."""
    if not is_glob(pattern):
        return name == pattern
    if name.startswith(".") and not pattern.startswith("."):
        return False
    pattern = re.sub(f"{STAR}+", STAR, pattern)
    if len(pattern) > _MAX_PATTERN:
        return True  # longer than a name can be: nothing says that it does not match
    literal = re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", pattern)
    active = literal.replace(STAR, "*").replace(ONE, "?").replace(SET, "[")
    return fnmatchcase(name, re.sub(r"\[\^", "[!", active))
