"""The command line. A verb's module, and what it needs, is imported when the verb is called.

Human text goes to stderr, data to stdout. ``verbs`` has the words of all verbs, which click reads; ``serving`` is what
``run`` does, and understands a plain ``run``, as hosts spawn it, without click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Final, TypeVar

from sepkit.cli import output
from sepkit.errors import LoadError

T = TypeVar("T")


class ExitCode(IntEnum):
    """What a verb exits with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_MODULE = 3
    NO_ATTRIBUTE = 4
    NOT_AN_APP = 5
    IMPORT_FAILED = 6
    BAD_REGISTRATION = 7
    LIFESPAN_ENDED = 8
    BAD_SETTINGS = 78  # as sysexits.h has it: EX_CONFIG
    INTERRUPTED = 130


_BY_KIND: Final = {
    "usage": ExitCode.USAGE,
    "module": ExitCode.NO_MODULE,
    "attribute": ExitCode.NO_ATTRIBUTE,
    "not-an-app": ExitCode.NOT_AN_APP,
    "import": ExitCode.IMPORT_FAILED,
    "registration": ExitCode.BAD_REGISTRATION,
}


def guarded(verb: Callable[[], T]) -> T:
    """Do what a verb does. What keeps it from its input or output is said, and ends the process."""
    try:
        os.getcwd()
    except OSError:
        output.complain("the current folder is not there any more; change to one that is")
        sys.exit(ExitCode.USAGE)
    try:
        done = verb()
        output.flush()
    except BrokenPipeError:  # the reader has read enough: click ends without a word
        raise
    except OSError as error:
        output.complain(f"the output cannot be written: {error.strerror or error}")
        # What is still in the buffer would fail a second time when the interpreter exits.
        if (stream := output.stdout()) is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(ExitCode.FAILED)
    return done


def fail_to_load(error: LoadError) -> ExitCode:
    """Say on stderr why there is no App; the exit code for it."""
    if error.kind == "import" and error.__cause__ is not None:
        from sepkit.loader import user_traceback

        output.tell(user_traceback(error.__cause__).rstrip("\n"))
    output.complain(str(error))
    return _BY_KIND[error.kind]
