"""Which hooks an extension has, where it does not say: each hook is asked once, and its answer tells.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

import asyncio
from typing import Final

MOST_SILENT: Final = 3
"""Questions in a row without an answer, after which none is asked any more."""


class Habits:
    """What one life of an extension that declares no hooks has done when it was asked for some."""

    def __init__(self) -> None:
        self.has: set[str] = set()
        """The hooks that it has blocked or modified something by."""
        self.lacks: set[str] = set()
        """The hooks that it does not know, or let pass."""
        self.asking = asyncio.Lock()
        """One question at a time: the next one may not be needed any more."""
        self._silent = 0

    @property
    def gives_no_answers(self) -> bool:
        """Whether it is not asked any more."""
        return self._silent >= MOST_SILENT

    def silent(self) -> None:
        """It has given no answer that counts."""
        self._silent += 1

    def passed(self, hook: str) -> None:
        """It does not know this hook, or let something pass."""
        self._silent = 0
        self.lacks.add(hook)

    def acted(self, hook: str) -> None:
        """It has blocked or modified something."""
        self._silent = 0
        self.has.add(hook)
