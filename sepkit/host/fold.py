"""What the answers of several extensions to one hook come to: a pure fold. Nothing here waits or asks.

Each extension sees what the one before made of the input. The first block ends it. A failure blocks ``tool_call`` and
``user_bash``, and is only noted for all other hooks. A change that is not taken is a failure, but for ``tool_call``:
there the call goes on as it was.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import orjson
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

_MOST_TOLD: Final = 10  # fields that one change is told by


@frozen
class Change:
    """What an extension has made another of an input."""

    by: str
    """The extension."""
    fields: tuple[str, ...]
    """What is not as before: ``arguments.command``, for example."""

    def __str__(self) -> str:
        return f"{self.by} changed {', '.join(self.fields)}"


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
    changes: tuple[Change, ...] = field(default=())
    """Who has changed what, one after another."""

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
            patch = outcome.patch
            if _same(patch, so_far.value):
                return so_far
            refusal = None if may_modify is None else may_modify(extension, so_far.value, patch)
            if refusal is None:
                change = Change(extension, _changed(so_far.value, patch))
                return evolve(so_far, value=patch, changes=(*so_far.changes, change))
            refusal = f"its change was not taken: {refusal}"
            if hook != "tool_call":
                return step(hook, so_far, extension, Failed(refusal))
            return evolve(so_far, notes=(*so_far.notes, f"{extension}: {refusal}"))
        case ContinueOutcome():
            return so_far


def _changed(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """The fields that differ; of an object in one of them, those that differ in it."""
    found: list[str] = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}.{inner}" for inner in {**old, **new} if not _same(old.get(inner), new.get(inner))]
        elif not _same(old, new) or (name in before) != (name in after):
            found.append(name)
    return (*found[:_MOST_TOLD], "…") if len(found) > _MOST_TOLD else tuple(found)


def _same(one: object, other: object) -> bool:
    """Whether they are the same JSON. To Python ``1`` and ``True`` are equal."""
    return one == other and (one is other or _json(one) == _json(other))


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
