"""What must fail the test although no call of the test's raised it."""

from __future__ import annotations


class Faults:
    """Faults, kept until a moment at which they can be raised."""

    def __init__(self) -> None:
        self._faults: list[BaseException] = []

    def found(self, fault: BaseException) -> None:
        """Keep one."""
        self._faults.append(fault)

    def tell(self, error: BaseException | None) -> None:
        """Raise the first of them, once; if the test itself raised ``error``, they are only noted on it."""
        faults, self._faults = self._faults, []
        if error is None and faults:
            error, faults = faults[0], faults[1:]
            for fault in faults:
                error.add_note(f"And besides: {fault}")
            raise error
        if error is not None:
            for fault in faults:
                error.add_note(f"The TestHost adds: {fault}")
