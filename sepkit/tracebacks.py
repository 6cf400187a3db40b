"""Tracebacks as an author knows them, without the frames that led from sepkit to the author's code; and their ids."""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path
from types import TracebackType

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
