"""A hook, from the question to what it has come to: each extension that has it is asked, one after another.

What several answers come to is in ``fold``; what a hook may rewrite, in ``rewrites``.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sepkit.errors import InvalidData, MethodNotFound, SepkitError
from sepkit.host import rewrites
from sepkit.host.extension import Extension
from sepkit.host.fold import Failed, Folded, Outcome, fails_closed, step
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure

CLOSED_TIMEOUT: Final = 60.0
OPEN_TIMEOUT: Final = 5.0

_log = logging.getLogger("sepkit.host")


async def run(
    hook: str,
    value: dict[str, Any],
    extensions: Iterable[Extension],
    tools: Mapping[str, tuple[Extension, messages.ToolRegistration]],
) -> Folded:
    """Ask each of ``extensions`` that has this hook what it makes of ``value``, as the ones before have left it.

    Args:
        hook: Its name.
        value: Its input.
        extensions: In the order in which they are asked.
        tools: The host's, by their full names: whose they are, and what they take.
    """
    folded = Folded(value)
    may_modify = functools.partial(rewrites.refusal, tools) if hook == "tool_call" else None
    for extension in extensions:
        if not _may_have(extension, hook):
            continue
        outcome = await ask(extension, hook, folded.value)
        folded = step(hook, folded, extension.name, outcome, may_modify)
        if folded.blocked:
            break
    for note in folded.notes:
        _log.warning("hook %s: %s", hook, note)
    return folded


def default_timeout(hook: str) -> float:
    """Seconds that an extension has to answer, where its manifest does not say otherwise."""
    return CLOSED_TIMEOUT if fails_closed(hook) else OPEN_TIMEOUT


def _may_have(extension: Extension, hook: str) -> bool:
    """Whether it is asked: one that declares no hooks at all may have them all the same.

    One that has declared the hook and cannot be asked now has failed, and blocks where a failure does.
    """
    declared, lives = extension.contributions.registrations.hooks, extension.lives
    if lives.state == "stopped" or lives.epoch == 0:  # of one that never started it is not known what it guards
        return False
    return hook in declared if declared else lives.state == "ready"


async def ask(extension: Extension, hook: str, value: dict[str, Any], timeout: float | None = None) -> Outcome:
    """What one extension makes of ``value``; ``timeout`` seconds instead of what the hook has."""
    lives = extension.lives
    timeout = timeout or lives.manifest.hook_timeout or default_timeout(hook)
    try:
        answer = await lives.ask(methods.HOOK, {"hook": hook, "context": lives.context, "input": value}, timeout)
    except MethodNotFound as error:
        if not extension.contributions.registrations.hooks:  # it declared none, and has none
            return messages.ContinueOutcome()
        return Failed(str(error))
    except SepkitError as error:
        return Failed(str(error))
    try:
        outcome: Outcome = structure(answer, messages.HookOutcome)
    except InvalidData as error:
        return Failed(f"its answer is no outcome of a hook: {error}")
    return outcome
