"""The two ways in which a check does not pass: a requirement is not met, or there is nothing to check.

Not the verdict: the runner makes that.
"""

from __future__ import annotations

from sepkit.errors import SepkitError


class Violation(SepkitError):
    """A requirement is not met.

    Args:
        expected: What should have come.
        came: What came instead. By default the report shows the lines that came during the check.
        sent: The line that caused it. By default the report shows the lines that were sent during the check.
        suspects: Ids of the requirements that the fault may really be about. If one of them fails, this one is not
            counted as well: one fault fails one requirement.
    """

    def __init__(
        self, expected: str, came: str | None = None, *, sent: bytes | None = None, suspects: tuple[str, ...] = ()
    ) -> None:
        super().__init__(expected if came is None else f"expected {expected}; {came}")
        self.expected = expected
        self.came = came
        self.sent = sent
        self.suspects = suspects


class NotApplicable(SepkitError):
    """There is nothing to check: the extension does not have what the requirement is about."""
