"""How the answers of several extensions to one hook come to one: a pure fold, in the order in which they were loaded.

Nothing here waits or asks. Each extension sees what the one before made of the input; the first block ends it; what
fails blocks ``tool_call`` and ``user_bash``, and nothing else.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from attrs import evolve, field, frozen

from sepkit.wire.messages import BlockOutcome, ContinueOutcome, ModifyOutcome
from sepkit.wire.methods import FAIL_CLOSED_HOOKS

CLOSED_TIMEOUT: Final = 60.0
OPEN_TIMEOUT: Final = 5.0


@frozen
class Failed:
    """No answer that counts: a time-out, a death, an error, or a reply that is no outcome."""

    reason: str


Outcome = ContinueOutcome | BlockOutcome | ModifyOutcome | Failed
Verdict = Literal["allowed", "denied", "failed"]

MayModify = Callable[[str, dict[str, Any], dict[str, Any]], str | None]
"""Extension, input and new input in; why it may not, or None."""


@frozen
class Folded:
    """What a hook has come to.

    ``denied`` and ``failed`` are both blocks: somebody said no, or somebody who might have said no could not be heard.
    """

    value: dict[str, Any]
    """The input as it is now."""
    verdict: Verdict = "allowed"
    reason: str | None = None
    by: str | None = None
    """The extension that blocked it."""
    notes: tuple[str, ...] = field(default=())
    """What did not count, and why: failures that are let pass, changes that are not allowed."""

    @property
    def blocked(self) -> bool:
        """Whether it must not happen."""
        return self.verdict != "allowed"


def fails_closed(hook: str) -> bool:
    """Whether a failure of this hook blocks."""
    return hook in FAIL_CLOSED_HOOKS


def default_timeout(hook: str) -> float:
    """Seconds that an extension has to answer."""
    return CLOSED_TIMEOUT if fails_closed(hook) else OPEN_TIMEOUT


def step(hook: str, so_far: Folded, extension: str, outcome: Outcome, may_modify: MayModify | None = None) -> Folded:
    """What a hook comes to when ``extension`` has answered, too. After a block nothing counts any more."""
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


def owns_the_call(extension: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The guard of ``tool_call``: an extension may rewrite the calls of its own tools, and no others.

    Otherwise any extension could make any call, under the eyes of whoever allowed another one.
    """
    if after.get("tool") != before.get("tool"):
        return f"a tool_call hook may not turn {before.get('tool')!r} into {after.get('tool')!r}"
    if not str(before.get("tool")).startswith(f"{extension}."):
        return f"{before.get('tool')!r} is not a tool of {extension}"
    if not isinstance(after.get("arguments"), dict):
        return "the arguments are no object"
    return None
