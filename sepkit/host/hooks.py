"""A hook, from the question to what it has come to: each extension that has it is asked, one after another.

What several answers come to is in ``fold``; what a hook may rewrite, in ``rewrites``.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from attrs import evolve

from sepkit.errors import InvalidData, MethodNotFound, SepkitError
from sepkit.host import rewrites
from sepkit.host.extension import Extension
from sepkit.host.fold import Failed, Folded, Outcome, fails_closed, step
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure

CLOSED_TIMEOUT: Final = 60.0
OPEN_TIMEOUT: Final = 5.0
MOST_TIMEOUT: Final = 600.0
"""Seconds that a manifest may give its hooks at most."""
UNDECLARED_TIMEOUT: Final = 2.0
"""Seconds for an extension that declares no hooks, and may have none."""
MOST_ROUNDS: Final = 3
"""How often an extension is asked about one input at most, when others go on changing it."""

# What stays as it is where a patch leaves it out. All else that it leaves out is gone.
_KEPT: Final[dict[str, tuple[str, ...]]] = {"tool_call": ("tool",), "tool_result": ("tool", "arguments")}

_log = logging.getLogger("sepkit.host")


async def run(
    hook: str,
    value: dict[str, Any],
    extensions: Iterable[Extension],
    tools: Mapping[str, tuple[Extension, messages.ToolRegistration]],
) -> Folded:
    """Ask each of ``extensions`` that has this hook what it makes of ``value``, as the ones before have left it.

    What one of them let pass, and a later one changed, the first is asked about again.

    Args:
        hook: Its name.
        value: Its input.
        extensions: In the order in which they are asked.
        tools: The host's, by their full names: whose they are, and what they take.
    """
    extensions = list(extensions)
    chain = _Chain(hook, value, tools, _time_of(hook, extensions))
    await chain.ask(extensions)
    for _ in range(1, MOST_ROUNDS):
        await chain.ask(extensions, again=True)
    if any(map(chain.is_outdated, extensions)):
        chain.give_up()
    for note in chain.folded.notes:
        _log.warning("hook %s: %s", hook, note)
    return chain.folded


class _Chain:
    """One run of a hook over the extensions that have it."""

    def __init__(
        self,
        hook: str,
        value: dict[str, Any],
        tools: Mapping[str, tuple[Extension, messages.ToolRegistration]],
        time: float,
    ) -> None:
        self.folded = Folded(value)
        self._hook = hook
        self._refusal = functools.partial(_refusal, hook, tools)
        self._clock = asyncio.get_running_loop().time
        self._time = time
        self._deadline = self._clock() + time
        self._answered: dict[str, dict[str, Any]] = {}  # the input that each one has let pass

    async def ask(self, extensions: Iterable[Extension], *, again: bool = False) -> None:
        """Ask each that has the hook; ``again``: whose answer was for something else. The first block ends it."""
        for extension in extensions:
            if self.folded.blocked:
                return
            if again and not self.is_outdated(extension):
                continue
            if (how := _has(extension, self._hook)) is None:
                self._answered.pop(extension.name, None)  # its earlier answer was that it has none
                continue
            before = self.folded.value
            outcome = _whole(self._hook, before, await self._ask(extension, how))
            self.folded = step(self._hook, self.folded, extension.name, outcome, self._refusal)
            self._answered.pop(extension.name, None)
            # A gate has let pass what it has made of a call. Hooks that fail open may add something each time.
            if fails_closed(self._hook) or (self.folded.value is before and not isinstance(outcome, Failed)):
                self._answered[extension.name] = self.folded.value

    async def _ask(self, extension: Extension, how: _Has) -> Outcome:
        left = self._deadline - self._clock()
        if left <= 0:
            return Failed(f"there was no time left to ask it: all extensions together have {self._time:g} s")
        own = _own_timeout(extension, self._hook)
        if how == "declared":
            return await ask(extension, self._hook, self.folded.value, min(own, left))
        return await _ask_undeclared(extension, self._hook, self.folded.value, min(own, UNDECLARED_TIMEOUT, left))

    def is_outdated(self, extension: Extension) -> bool:
        """Whether it has let pass something else than what it is now."""
        now = self.folded.value
        return not self.folded.blocked and self._answered.get(extension.name, now) is not now

    def give_up(self) -> None:
        """They do not agree: it does not happen."""
        changes = self.folded.changes
        told = "; ".join(dict.fromkeys(map(str, changes)))
        reason = f"after {MOST_ROUNDS} rounds of questions it is still being changed: {told}"
        self.folded = evolve(self.folded, verdict="failed", reason=reason, by=changes[-1].by)


def default_timeout(hook: str) -> float:
    """Seconds that an extension has to answer, where its manifest does not say otherwise."""
    return CLOSED_TIMEOUT if fails_closed(hook) else OPEN_TIMEOUT


def _own_timeout(extension: Extension, hook: str) -> float:
    return min(extension.lives.manifest.hook_timeout or default_timeout(hook), MOST_TIMEOUT)


def _time_of(hook: str, extensions: Iterable[Extension]) -> float:
    """Seconds for a whole chain: two that need all of their time, or one whose manifest gives it more."""
    return max([2 * default_timeout(hook), *(_own_timeout(one, hook) for one in extensions)])


def _whole(hook: str, before: dict[str, Any], outcome: Outcome) -> Outcome:
    """An outcome whose patch has also what it may leave out."""
    if not isinstance(outcome, messages.ModifyOutcome):
        return outcome
    kept = {name: before[name] for name in _KEPT.get(hook, ()) if name in before and outcome.patch.get(name) is None}
    return evolve(outcome, patch={**outcome.patch, **kept}) if kept else outcome


def _refusal(
    hook: str,
    tools: Mapping[str, tuple[Extension, messages.ToolRegistration]],
    extension: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> str | None:
    """Why what a hook has made of its input is not taken; None where it is."""
    if hook == "tool_call":
        return rewrites.refusal(tools, extension, before, after)
    return rewrites.misshapen(hook, before, after)


_Has = Literal["declared", "perhaps"]


def _has(extension: Extension, hook: str) -> _Has | None:
    """Whether it is asked: one that declares no hooks at all may have them all the same.

    One that has declared the hook and cannot be asked now has failed, and blocks where a failure does.
    """
    contributions, habits, lives = extension.contributions, extension.habits, extension.lives
    if lives.state == "stopped" or lives.epoch == 0:  # of one that never started it is not known what it guards
        return None
    if not contributions.may_intercept(hook):
        return None
    if hook in contributions.registrations.hooks or hook in habits.has:
        return "declared"
    if contributions.declares_hooks or lives.state != "ready" or hook in habits.lacks or habits.gives_no_answers:
        return None
    return "perhaps"


async def _ask_undeclared(extension: Extension, hook: str, value: dict[str, Any], timeout: float) -> Outcome:
    """Ask one that declares no hooks, which may tell whether it has this one."""
    habits = extension.habits
    async with habits.asking:
        how = _has(extension, hook)  # an earlier question may have told
        if how is None:
            return messages.ContinueOutcome()
        if how == "declared":
            return await ask(extension, hook, value)
        outcome = await ask(extension, hook, value, timeout)
        match outcome:
            case Failed():
                habits.silent()
            case messages.ContinueOutcome():
                habits.passed(hook)
            case _:
                habits.acted(hook)
    if habits.gives_no_answers:
        extension.notes.say(
            "it declares no hooks, and has not answered when it was asked for some: it is not asked any more"
        )
    return outcome


async def ask(extension: Extension, hook: str, value: dict[str, Any], timeout: float | None = None) -> Outcome:
    """What one extension makes of ``value``; ``timeout`` seconds instead of what the hook has."""
    lives = extension.lives
    timeout = timeout or _own_timeout(extension, hook)
    try:
        answer = await lives.ask(methods.HOOK, {"hook": hook, "context": lives.context, "input": value}, timeout)
    except MethodNotFound as error:
        if hook not in extension.contributions.registrations.hooks:  # it did not declare it, and has it not
            return messages.ContinueOutcome()
        return Failed(str(error))
    except SepkitError as error:
        return Failed(str(error))
    try:
        outcome: Outcome = structure(answer, messages.HookOutcome)
    except InvalidData as error:
        return Failed(f"its answer is no outcome of a hook: {error}")
    return outcome
