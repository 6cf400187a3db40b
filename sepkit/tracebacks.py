"""Tracebacks as an author knows them, without the frames that led from sepkit to the author's code; and their ids.

An exception's text is taken once, and cut: it may be 50 MB, and each copy of that holds up the loop.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Final

from sepkit.errors import ConnectionClosed, InternalError
from sepkit.ownlog import OwnLog

_log = OwnLog("sepkit")

# Folders with their separator, so that `sepkit-plugins/` beside `sepkit/` is the author's.
_OURS = (
    str(Path(__file__).parent) + os.sep,
    str(Path(importlib.__file__).parent) + os.sep,
    "<frozen importlib",
    "<attrs generated",
)
_LOOPS = (str(Path(asyncio.__file__).parent) + os.sep, "uvloop/")


def is_foreign(filename: str) -> bool:
    """Whether a frame's file is neither sepkit's nor the import system's."""
    return not filename.startswith(_OURS)


def authors_part(error: BaseException) -> TracebackType | None:
    """The traceback of ``error`` from the author's first frame on; all of it where there is none."""
    found = error.__traceback__
    while found is not None:
        filename = found.tb_frame.f_code.co_filename
        if is_foreign(filename) and not filename.startswith(_LOOPS):
            break
        found = found.tb_next
    return found or error.__traceback__


_LONGEST: Final = 20_000  # characters of an exception's text in a traceback
_LONGEST_LINE: Final = 2_000
_MOST_LEAVES: Final = 15
_MOST_NOTES: Final = 20


class Told:
    """What is said of an exception, with its traceback from the author's first frame on; of a group, what is in it.

    Attributes:
        line: Its type, and its text. Of a group: the types of its leaves, and their texts.
    """

    def __init__(self, error: BaseException) -> None:
        leaves = list(islice(_leaves(error), _MOST_LEAVES + 1))
        self._more = ["and more"] if len(leaves) > _MOST_LEAVES else []
        self._leaves = [_traceback(leaf) for leaf in leaves[:_MOST_LEAVES]]
        self._group = error if isinstance(error, BaseExceptionGroup) else None
        types = dict.fromkeys(type(leaf).__name__ for leaf in leaves[:_MOST_LEAVES])
        texts = [text for leaf in self._leaves if (text := _text(leaf))] + self._more
        self.line = cut(", ".join(types) + (": " if texts else "") + "; ".join(texts), _LONGEST_LINE)

    def traceback(self) -> str:
        """The traceback; of a group, where it was raised, and the tracebacks of its leaves."""
        parts = ["".join(leaf.format()) for leaf in self._leaves] + self._more
        if self._group is not None:
            trace = "".join(traceback.format_tb(authors_part(self._group)))
            parts.insert(0, f"{type(self._group).__name__} with the exceptions below:\n{trace}")
        return "\n".join(parts).rstrip("\n")


def formatted(error: BaseException, trace: TracebackType | None) -> str:
    """The traceback of an exception as Python prints it, but for texts that are too long."""
    return "".join(_traceback(error, trace).format()).rstrip("\n")


def cut(text: str, most: int) -> str:
    """``text``, of which at most ``most`` characters are left, and how many are missing."""
    missing = len(text) - most
    return text if missing <= 0 else f"{text[:most]}… ({missing} more characters)"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    left = [error]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            left.extend(reversed(one.exceptions))
        else:
            yield one


def _traceback(error: BaseException, trace: TracebackType | None = None) -> traceback.TracebackException:
    """Python's own record, which has asked each exception for its text once."""
    whole = traceback.TracebackException(type(error), error, trace or authors_part(error), lookup_lines=False)
    left = [whole]
    while left:
        one = left.pop()
        one._str = cut(one._str, _LONGEST)  # type: ignore[attr-defined]
        if notes := getattr(one, "__notes__", None):
            one.__notes__ = [cut(str(note), _LONGEST) for note in notes[:_MOST_NOTES]]
        left += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other is not None]
    return whole


def _text(whole: traceback.TracebackException) -> str:
    text: str = whole._str  # type: ignore[attr-defined]
    return "" if text == "<exception str() failed>" else cut(text, _LONGEST_LINE)


def unexpected(error: BaseException, what: str) -> InternalError:
    """The error that crosses for an exception nobody foresaw: a fixed text and an id.

    The exception itself may hold a secret, and stays on this side: its traceback is logged under the same id.
    """
    correlation = os.urandom(4).hex()
    if isinstance(error, ConnectionClosed):  # what becomes of every question to a host that has gone: nothing to trace
        _log.warning("%s [%s]: %s", what, correlation, error, sure=True)
    else:
        _log.error("%s [%s]", what, correlation, exc_info=(type(error), error, authors_part(error)))
    return InternalError(f"{what} unexpectedly; its log names it {correlation}", data={"correlation_id": correlation})
