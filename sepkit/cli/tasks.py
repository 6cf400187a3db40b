"""How ``call`` and ``inspect`` show background tasks: one line for what a task is set to do, one for how it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sepkit.terminal import wrapped
from sepkit.wire import messages


def policy_line(policy: Mapping[str, Any], *, per_user: bool, autostart: bool) -> str:
    """When a task starts, and when again; durations in the policy are seconds."""
    most = policy["max_restarts"]
    limit = "" if not most else ", at most once" if most == 1 else f", at most {most} times"
    start = "per user, started on demand" if per_user else "starts by itself" if autostart else "on demand"
    if policy["type"] == "never":
        return f"{start}; restart never"
    return f"{start}; restart {policy['type']}{limit}, after {policy['initial_delay']:g} to {policy['max_delay']:g} s"


def registration_line(task: messages.TaskRegistration) -> str:
    """The same, of what the wire says of a task or a job."""
    if task.schedule is not None:
        return task.schedule
    policy = task.restart_policy
    in_seconds = {
        "type": policy.type,
        "max_restarts": policy.max_restarts,
        "initial_delay": policy.initial_delay_ms / 1000,
        "max_delay": policy.max_delay_ms / 1000,
    }
    return policy_line(in_seconds, per_user=task.per_user, autostart=task.autostart)


def state_line(task: messages.TaskHealth, now: datetime) -> str:
    """How a started task is: its state, its restarts, and what it last reported, with the age of that."""
    parts = [task.status, f"{task.restart_count} restart{'' if task.restart_count == 1 else 's'}"]
    if task.last_health_status is not None:
        parts.append(f"said {task.last_health_status!r}{_age(task.last_health_time, now)}")
    if task.error is not None:
        parts.append(_quoted(task.error))
    whose = "" if task.user_id is None else f" for {_quoted(task.user_id)}"
    name = "" if task.name == task.task_id else f" ({_quoted(task.name)})"
    return f"{_quoted(task.task_id)}{name}{whose}: {', '.join(parts)}"


def lines(
    registered: Sequence[messages.TaskRegistration],
    started: Sequence[messages.TaskHealth],
    now: datetime,
    width: int | None = None,
) -> Iterator[str]:
    """Each task with its policy, and below all of them what has been started, as it was ``now``."""
    for task in registered:
        yield from wrapped(f"{task.name}  {registration_line(task)}", width, first="  ", more="      ")
    for health in started:
        yield from wrapped(state_line(health, now), width, first="  ", more="      ")


def _quoted(text: str) -> str:
    """A name in one line; in quotes where it holds what cannot be printed."""
    return text if text.isprintable() else repr(text)


def _age(moment: str | None, now: datetime) -> str:
    if moment is None:
        return ""
    try:
        seconds = max(0.0, (now - datetime.fromisoformat(moment)).total_seconds())
    except (ValueError, TypeError):  # another SDK's idea of a moment
        return ""
    if seconds < 60:
        return f" {seconds:.1f} s ago"
    minutes = seconds / 60
    return f" {minutes:.0f} min ago" if minutes < 60 else f" {minutes / 60:.0f} h ago"
