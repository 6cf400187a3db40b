"""When an extension that has died is started again: pure, and without a clock.

Source: docs/protocol.md, section 2.
"""

from __future__ import annotations

from typing import Final

DELAYS: Final = (1.0, 5.0, 25.0)
"""Seconds before the first, the second and the third start after a death."""

HEALTHY_AFTER: Final = 60.0
"""Seconds of life after which the count begins anew."""


class Restarts:
    """How often an extension has died since it was last healthy.

    Args:
        delays: Seconds before each restart; after as many deaths it has failed.
        healthy_after: Seconds of life that make it healthy.
    """

    def __init__(self, delays: tuple[float, ...] = DELAYS, healthy_after: float = HEALTHY_AFTER) -> None:
        self._delays = delays
        self._healthy_after = healthy_after
        self.count = 0

    def after_death(self, uptime: float) -> float | None:
        """Seconds until it is started again after a life of ``uptime`` seconds; None: it has failed."""
        if uptime >= self._healthy_after:
            self.count = 0
        if self.count >= len(self._delays):
            return None
        self.count += 1
        return self._delays[self.count - 1]

    def reset(self) -> None:
        """It was started by hand: the past is forgotten."""
        self.count = 0
