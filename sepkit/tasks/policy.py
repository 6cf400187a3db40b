"""What a task is and when it runs again: frozen records and pure decisions. Nothing here waits, or knows a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypedDict, get_args

from sepkit.errors import RegistrationError
from sepkit.records import Record, declared, field, record
from sepkit.wire.methods import RestartType

Next = Literal["restart", "stopped", "failed", "exhausted"]

MIN_DELAY: Final = 0.01
"""Seconds between two runs at the least, whatever the policy and the dice say: a delay of 0 is never a busy loop."""

_HEALTHY_AFTER: Final = 60.0
_LONGEST: Final = 365 * 24 * 3600  # seconds; a longer duration is a mistake of units
_STEEPEST: Final = 1000  # a multiplier that is larger is one, too
_MAX_EXPONENT: Final = 1_000_000


def _fail(owner: object, attribute: Any, expected: str, value: object) -> RegistrationError:
    return RegistrationError(f"{type(owner).__name__}: {attribute.name} must be {expected}, not {value!r}")


def _number(low: float, high: float, what: str) -> Callable[[object, Any, object], None]:
    def check(owner: object, attribute: Any, value: object) -> None:
        # NaN compares false with everything, so that the range refuses it as well.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _fail(owner, attribute, f"{what} from {low:g} to {high:.10g}", value)

    return check


def _or_none(check: Callable[[object, Any, object], None]) -> Callable[[object, Any, object], None]:
    def check_given(owner: object, attribute: Any, value: object) -> None:
        if value is not None:
            check(owner, attribute, value)

    return check_given


_seconds = _number(0, _LONGEST, "a number of seconds")
_timeout = _number(MIN_DELAY, _LONGEST, "a number of seconds")


def _restart_type(owner: object, attribute: Any, value: object) -> None:
    if value not in get_args(RestartType):
        raise _fail(owner, attribute, 'one of "always", "on-failure" and "never"', value)


def _count(owner: object, attribute: Any, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _fail(owner, attribute, "a whole number from 0 on (0: no limit)", value)


@record
class RestartPolicy(Record):
    """When a task that ended runs again, and after what delay. Durations are seconds.

    Args:
        type: ``"always"``, ``"on-failure"`` (a clean return ends the task) or ``"never"``.
        max_restarts: So many restarts in a row, then the task is ``failed``. 0: no limit.
        initial_delay: The delay before the first restart. 0 is as good as :data:`MIN_DELAY`.
        max_delay: No delay is longer.
        multiplier: Each delay is so many times the one before. At least 1: a back-off does not shrink.
        jitter: The part of the delay that is random: 0 exact, 1 full.
        reset_after: A run that lasted so long was healthy: restarts are counted, and delays grow, from zero again.
            None: 60 seconds, or twice the last delay where that is longer.

    Raises:
        RegistrationError: A field is out of its range. Its name is in the message.
    """

    type: RestartType = field(default="always", validator=_restart_type)
    max_restarts: int = field(default=0, validator=_count)
    initial_delay: float = field(default=1.0, validator=_seconds)
    max_delay: float = field(default=60.0, validator=_seconds)
    multiplier: float = field(default=2.0, validator=_number(1, _STEEPEST, "a number"))
    jitter: float = field(default=0.5, validator=_number(0, 1, "a number"))
    reset_after: float | None = field(default=None, validator=_or_none(_seconds))

    def delay(self, n: int, random: Callable[[], float]) -> float:
        """Seconds to wait before the ``n``-th restart, counted from 0. ``random`` gives numbers in [0, 1)."""
        if self.initial_delay == 0:
            return MIN_DELAY
        try:  # of integers, the power would be exact, and take seconds
            full = min(self.initial_delay * float(self.multiplier) ** min(n, _MAX_EXPONENT), self.max_delay)
        except OverflowError:
            full = self.max_delay
        if self.jitter:
            full *= 1 - self.jitter * random()
        return max(full, MIN_DELAY)

    def healthy_after(self, last_delay: float) -> float:
        """Seconds that a run must last to be healthy, when it began after ``last_delay``."""
        return max(_HEALTHY_AFTER, 2 * last_delay) if self.reset_after is None else self.reset_after

    def after_run(self, *, failed: bool, restarts: int) -> Next:
        """What follows a run that ended by itself, after so many ``restarts`` since the last healthy one."""
        if self.type == "never" or (self.type == "on-failure" and not failed):
            return "failed" if failed else "stopped"
        return "exhausted" if 0 < self.max_restarts <= restarts else "restart"


def _name(owner: TaskSpec, attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _fail(owner, attribute, "a string that is not empty", value)
    # "a:b" for user "c" and "a" for user "b:c" would share one default id.
    if owner.per_user and ":" in value:
        raise _fail(owner, attribute, "free of colons for a per-user task", value)


def _callable(owner: object, attribute: Any, value: Any) -> None:
    if not callable(value):
        raise _fail(owner, attribute, "callable", value)


def _policy(owner: object, attribute: Any, value: object) -> None:
    if not isinstance(value, RestartPolicy):
        raise _fail(owner, attribute, "a RestartPolicy", value)


@record
class TaskSpec(Record):
    """A registered task. Durations are seconds.

    Args:
        name: Unique in the extension.
        fn: What to run; how, is the business of whoever launches it.
        policy: When to run it again.
        stop_grace: How long a run that was asked to stop has before it is cancelled.
        heartbeat_timeout: A run that reports no health for so long is cancelled and counts as failed. None: never.
        per_user: Each start is for one user, and says for whom.
        autostart: Start it with the extension. Per-user tasks never do.
        description: One line for people.
        context: The parameter of ``fn`` that takes the context; None where it takes none.

    Raises:
        RegistrationError: A field is out of its range. Its name is in the message.
    """

    per_user: bool = field(default=False, kw_only=True)  # first: the check of the name reads it
    name: str = field(validator=_name)
    fn: Callable[..., Any] = field(validator=_callable)
    policy: RestartPolicy = field(factory=RestartPolicy, validator=_policy)
    stop_grace: float = field(default=5.0, validator=_seconds)
    heartbeat_timeout: float | None = field(default=None, validator=_or_none(_timeout))
    autostart: bool = True
    description: str = ""
    context: str | None = None


class TaskOptions(TypedDict, total=False):
    """The options of ``@app.task``. What is left out is as :class:`RestartPolicy` and :class:`TaskSpec` have it."""

    name: str | None
    restart: RestartType
    max_restarts: int
    initial_delay: float
    max_delay: float
    multiplier: float
    jitter: float
    reset_after: float | None
    stop_grace: float
    heartbeat_timeout: float | None
    per_user: bool
    autostart: bool


_OF_POLICY: Final = frozenset(field.name for field in declared(RestartPolicy) or ()) - {"type"}


def task_spec(
    fn: Callable[..., Any], name: str, options: TaskOptions, *, context: str | None, description: str
) -> TaskSpec:
    """The record of a task with these options.

    Raises:
        RegistrationError: A number is out of its range. Its name is in the message.
        TypeError: An option is not known.
    """
    given: dict[str, Any] = {key: value for key, value in options.items() if key != "name"}
    if unknown := given.keys() - TaskOptions.__annotations__.keys():
        raise TypeError(f"@app.task has no option {min(unknown)!r}; it has {', '.join(TaskOptions.__annotations__)}")
    policy: dict[str, Any] = {key: given.pop(key) for key in list(given) if key in _OF_POLICY}
    if "restart" in given:
        policy["type"] = given.pop("restart")
    if given.get("per_user"):
        given["autostart"] = False  # it has no user to start for
    return TaskSpec(name=name, fn=fn, context=context, description=description, policy=RestartPolicy(**policy), **given)
