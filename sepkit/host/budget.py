"""What one extension may cost its host: bytes that wait, work in the loop, lines that are told.

Past its budget an extension waits (its pipe is not read for a moment), what it sends is shed and counted, or it is
refused; what it does wrong again and again is said once, and then counted. None of it stops another extension. Work is
not rationed while the others are silent.

Source: docs/hosting.md, "What an extension may cost".
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from sys import getsizeof
from typing import Any, Final

import orjson

from sepkit.capabilities.registrations import bounded
from sepkit.errors import FrameError, InternalError, InvalidParams, RpcError
from sepkit.host.kept import Kept
from sepkit.peer import NotificationHandler, RequestHandler
from sepkit.wire.messages import Record

PAUSE_BYTES: Final = 4 * 1024 * 1024
"""Bytes that wait for an answer or a reader, above which an extension is not read for a moment."""
MOST_BYTES: Final = 8 * 1024 * 1024
"""Bytes that wait at most; more is refused. One thing alone may be as large as a frame."""
MOST_LINES: Final = 1000
"""Lines of stderr, and records of the log, that are told in a second. Of more, only the number."""
MOST_LINE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of them that are told in a second."""

LONG: Final = 65_536
"""Bytes of a line above which it is taken by itself, and costs also where the host has asked for it."""

_MOST_ITEMS: Final = 100_000  # of a list in a request: all of them are looked at in one turn of the loop
_SHARE: Final = 0.08  # of the loop's time, for all extensions together that use more of it, while others are active
_BURST: Final = 0.02  # seconds of work that may come at once
_MOST_DEBT: Final = 0.5  # seconds of work for which an extension waits afterwards
_ACTIVE: Final = 0.25  # seconds for which an extension counts as active after it was heard
_MOMENT: Final = 1.0  # seconds without a release, after which an extension is read again although too much waits
_POLL: Final = 0.01
_REQUEST: Final = 50e-6  # seconds of work that a request costs after its first step
_LONGEST_TEXT: Final = 5_000  # characters of an extension's text in a log line or an error; a death has 20 lines of 200

_MEMBER: Final = 64  # bytes that a value takes besides its text, where it stands in an array or an object
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})

_log = logging.getLogger("sepkit.host")


def weight_of(value: object) -> int:
    """About how many bytes of memory plain data or a record takes: rather too many than too few."""
    if isinstance(value, Record):
        value = vars(value)
    if type(value) is dict:
        return _MEMBER * (1 + len(value)) + sum(map(_weight_of_part, value.values()))
    return _weight_of_part(value)


def _weight_of_part(value: object) -> int:
    if type(value) in _SCALARS:
        return getsizeof(value)
    # Its JSON tells how many values there are, in a fortieth of the time that it takes to look at each.
    try:
        data = orjson.dumps(value, default=vars)
    except TypeError:  # too deep
        return MOST_BYTES
    values = data.count(b",") + data.count(b"{") + data.count(b"[")
    return len(data) + _MEMBER * values


def short(text: object) -> str:
    """A text of an extension's, as it goes into a log line."""
    said = str(text)
    return said if len(said) <= _LONGEST_TEXT else f"{said[:_LONGEST_TEXT]}… ({len(said) - _LONGEST_TEXT:,} more)"


class Neighbours:
    """The extensions of one host, as far as their work is concerned: one waits only while another is active."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Budget] = weakref.WeakSet()

    def join(self, budget: Budget) -> None:
        """Count one in."""
        self._all.add(budget)

    def share(self, budget: Budget, now: float) -> float | None:
        """The part of the loop's time that one may use; None while no other one is active."""
        others = [other for other in self._all if other is not budget]
        if not any(now - other.heard_at < _ACTIVE for other in others):
            return None
        return _SHARE / (1 + sum(other.is_in_debt(now) for other in others))


class Telling:
    """How many lines are told in a second, and how many more there were."""

    def __init__(self) -> None:
        self._second = 0.0
        self._lines = self._bytes = self._untold = 0

    def begin(self, now: float) -> int:
        """Begin another second, if it is time; the number of lines that were not told in the last one."""
        if now - self._second < 1:
            return 0
        self._second, self._lines, self._bytes = now, 0, 0
        return self.take_untold()

    def take_untold(self) -> int:
        """How many lines were not told since this was asked last."""
        untold, self._untold = self._untold, 0
        return untold

    @property
    def full(self) -> bool:
        """Whether nothing more is told in this second."""
        return self._lines >= MOST_LINES or self._bytes >= MOST_LINE_BYTES

    def admits(self, size: int) -> bool:
        """Whether a line of so many bytes is told."""
        if self.full or self._bytes + size > MOST_LINE_BYTES:
            self._untold += 1
            return False
        self._lines += 1
        self._bytes += size
        return True

    def skip(self, lines: int) -> None:
        """So many lines are not told."""
        self._untold += lines


class Budget:
    """What one extension may cost, over all its lives.

    Args:
        name: The extension's.
        neighbours: The extensions of the same host.
    """

    def __init__(self, name: str, neighbours: Neighbours) -> None:
        self.name = name
        self.heard_at = 0.0
        """When it was last heard, by ``time.perf_counter``."""
        self.counts: Counter[str] = Counter()
        """What was shed, refused, or said only once, by what it was."""
        self.lines: Sequence[bytes | FrameError] = ()
        """The lines that are being taken: what waits keeps the id of its line, too."""
        self.waited = 0.0
        """Seconds for which its pipe was not read."""
        self.log = Telling()
        self.stderr = Telling()
        self._neighbours = neighbours
        self.registered = 0
        """Bytes of what it has registered."""
        self._looked_at: Sequence[bytes | FrameError] = ()
        self._longest = 0  # of them
        self._waiting = 0
        self._patient_until = 0.0
        self._debt = -_BURST
        self._share = _SHARE
        self._paid_at = 0.0
        self._said: Counter[str] = Counter()  # since the last summary
        self._kept: dict[str, Kept[Any, Any]] = {}
        neighbours.join(self)

    # -- bytes ---------------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Bytes that the host holds for it: what waits, and what is remembered of it."""
        return self._waiting + self.registered + sum(kept.bytes for kept in self._kept.values())

    def hold(self, weight: int) -> bool:
        """So much waits from now on, for an answer or a reader. Whether there was room for it."""
        if self._waiting and self._waiting + weight > MOST_BYTES:
            return False
        self._waiting += weight
        self._patient_until = time.perf_counter() + _MOMENT
        return True

    def release(self, weight: int) -> None:
        """So much does not wait any more."""
        self._waiting -= weight
        if self._waiting > PAUSE_BYTES:
            self._patient_until = time.perf_counter() + _MOMENT

    def table(self, what: str, most: int, most_bytes: int, shed: Callable[[], None] | None = None) -> Kept[Any, Any]:
        """A table of what is remembered of it; an earlier one of this name is forgotten. What is shed is counted."""

        def count() -> None:
            self.counts[f"shed {what}"] += 1
            if shed is not None:
                shed()

        kept = self._kept[what] = Kept[Any, Any](most, most_bytes, weight_of, count)
        return kept

    def bounded(self, said: Any) -> Any:
        """Registrations as they came, with as many entries as are taken."""
        said, cut = bounded(said)
        for kind, count in cut.items():
            self.over(kind, count)
        return said

    def over(self, kind: str, count: int = 1) -> None:
        """So many registrations of a kind were not taken."""
        what = f"too many {kind}"
        self.complain(what, "it has too many %s, or too large ones; the others are not taken", kind)
        self.counts[what] += count - 1

    # -- work ----------------------------------------------------------------------------------------------------------

    def charge(self, seconds: float) -> None:
        """It has had so much work done in the loop."""
        now = time.perf_counter()
        self._debt = max(-_BURST, self._debt - (now - self._paid_at) * self._share) + seconds
        self._debt = min(self._debt, _MOST_DEBT)
        self._paid_at = now

    def is_in_debt(self, now: float) -> bool:
        """Whether it has used more than its share."""
        return self._debt - (now - self._paid_at) * self._share > 0

    def delay(self) -> float:
        """Seconds until it may be read again; 0 where it may be at once."""
        now = time.perf_counter()
        if self._waiting > PAUSE_BYTES and now < self._patient_until:
            return _POLL
        if not self.is_in_debt(now):
            return 0.0
        share = self._neighbours.share(self, now)
        if share is None:  # it is in no one's way
            self._debt, self._paid_at = 0.0, now
            return 0.0
        self._share = share
        return max(0.001, min(_POLL, self._debt / share))

    # -- lines ---------------------------------------------------------------------------------------------------------

    def complain(self, what: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log what goes wrong with it: each kind of thing once, with ``error``'s traceback. What repeats is counted."""
        self.counts[what] += 1
        self._said[what] += 1
        if self._said[what] == 1:
            level = logging.WARNING if error is None else logging.ERROR
            _log.log(level, f"%s: {message}", self.name, *map(short, args), exc_info=error)

    def sum_up(self) -> None:
        """Log how often that was which has been said only once."""
        said, self._said = self._said, Counter()
        for what, count in said.items():
            if count > 1:
                _log.warning("%s: %s: %s times more", self.name, what, f"{count - 1:,}")

    def inform(self, tell: Callable[..., None], *said: object) -> None:
        """Tell the program around the host. No extension may live or die by an error of its delegate."""
        try:
            tell(self.name, *said)
        except Exception as error:
            name = getattr(tell, "__name__", "its method")
            self.complain(f"the delegate's {name} failed", f"the host's delegate failed in {name}", error=error)

    def _weight_in_lines(self) -> int:
        """What the line that is being taken weighs, if it is a long one: those are taken one by one."""
        lines = self.lines
        if lines is not self._looked_at:
            self._looked_at = lines
            self._longest = max((len(line) for line in lines if type(line) is bytes), default=0)
        if self._longest <= LONG:
            return 0
        line = lines[0]
        assert type(line) is bytes
        return len(line) + _MEMBER * (line.count(b",") + line.count(b"{") + line.count(b"["))

    # -- handlers ------------------------------------------------------------------------------------------------------

    def admitted(self, method: str, handler: RequestHandler) -> RequestHandler:
        """``handler``, as far as there is room for what waits."""

        async def handle(params: dict[str, Any]) -> object:
            for name, value in params.items():
                if type(value) is list and len(value) > _MOST_ITEMS:
                    raise InvalidParams(f"{method}: over {_MOST_ITEMS:,} {name[:100]}")
            weight = self._weight_in_lines() or weight_of(params) + self._longest
            if not self.hold(weight):
                self.counts["refused requests"] += 1
                raise InternalError(f"{method}: too much waits for an answer", data={"reason": "overloaded"})
            self.charge(_REQUEST)
            try:
                return await handler(params)
            except RpcError as error:
                error.message = short(error.message)  # an answer that is not read is held
                raise
            except Exception as error:
                self.counts[f"{method} failed"] += 1
                self._said[f"{method} failed"] += 1
                if self._said[f"{method} failed"] > 1:
                    raise InternalError(f"{method} failed again; see the host's log") from error
                raise
            finally:
                self.release(weight)

        return handle

    def guarded(self, method: str, handler: NotificationHandler) -> NotificationHandler:
        """``handler``, whose errors are said once."""

        def handle(params: dict[str, Any]) -> None:
            try:
                handler(params)
            except Exception as error:
                self.complain(f"{method} failed", f"its {method} could not be handled", error=error)

        return handle
