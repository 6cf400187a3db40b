"""What the answers of several extensions to one hook come to: a pure fold. Nothing here waits or asks.

Each extension sees what the one before made of the input. The first block ends it. A failure blocks ``tool_call`` and
``user_bash``, and is only noted for all other hooks.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from attrs import evolve, field, frozen

from sepkit.wire.messages import BlockOutcome, ContinueOutcome, ModifyOutcome
from sepkit.wire.methods import FAIL_CLOSED_HOOKS


@frozen
class Failed:
    """No answer that counts: a time-out, a death, an error, or a reply that is not an outcome."""

    reason: str


Outcome = ContinueOutcome | BlockOutcome | ModifyOutcome | Failed
Verdict = Literal["allowed", "denied", "failed"]

MayModify = Callable[[str, dict[str, Any], dict[str, Any]], str | None]
"""Extension, input and new input in; why it may not, or None."""


@frozen
class Folded:
    """What a hook has come to.

    ``denied`` and ``failed`` are both blocks: an extension said no, or one that might have said no gave no answer.
    """

    value: dict[str, Any]
    """The input as it is now."""
    verdict: Verdict = "allowed"
    reason: str | None = None
    by: str | None = None
    """The extension that blocked it."""
    notes: tuple[str, ...] = field(default=())
    """What did not count, and why: failures that do not block, changes that are not allowed."""

    @property
    def blocked(self) -> bool:
        """Whether it must not happen."""
        return self.verdict != "allowed"


def fails_closed(hook: str) -> bool:
    """Whether a failure of this hook blocks."""
    return hook in FAIL_CLOSED_HOOKS


def step(hook: str, so_far: Folded, extension: str, outcome: Outcome, may_modify: MayModify | None = None) -> Folded:
    """What a hook comes to when ``extension`` has answered, too. After a block no answer counts."""
    if so_far.blocked:
        return so_far
    match outcome:
        case BlockOutcome():
            return evolve(so_far, verdict="denied", reason=outcome.reason, by=extension)
        case Failed():
            if fails_closed(hook):
                return evolve(so_far, verdict="failed", reason=outcome.reason, by=extension)
            return evolve(so_far, notes=(*so_far.notes, f"{extension}: {outcome.reason}"))
        case ModifyOutcome():
            refusal = None if may_modify is None else may_modify(extension, so_far.value, outcome.patch)
            if refusal is not None:
                return evolve(so_far, notes=(*so_far.notes, f"{extension}: its change was not taken: {refusal}"))
            return evolve(so_far, value=outcome.patch)
        case ContinueOutcome():
            return so_far
