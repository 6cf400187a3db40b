"""Tracebacks as an author knows them: without the frames that led from sepkit to the author's code."""

from __future__ import annotations

import asyncio
import importlib
import os
from pathlib import Path
from types import TracebackType

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
