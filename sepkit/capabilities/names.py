"""What names an extension may use: as the APIs of models take them, and as a reader can tell them from others.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

import re
from typing import Final

from sepkit.terminal import one_line

RULE: Final = "1 to 128 letters, digits, '_', '.' and '-'"
"""What a name is, in words."""
PLAIN_RULE: Final = "a short text in one line, in which nothing is invisible"

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_LONGEST: Final = 256


def is_name(text: str) -> bool:
    """Whether it is the name of a tool, a command, a provider, a widget or a task."""
    return _NAME.fullmatch(text) is not None


def is_plain(text: str) -> bool:
    """Whether it is a short text that looks like what it is.

    For what has a form of its own: chords, ids of models and tasks, names of events.
    """
    return 0 < len(text) <= _LONGEST and bool(text.strip()) and one_line(text) == text


def quoted(text: str) -> str:
    """A name that is refused, so that it can be told: short, and in ASCII."""
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")
