"""When a job is due: every so many seconds, or by a cron line in a time zone. Moments are milliseconds since 1970.

The grammar of a line, and what becomes of one when a zone changes its clocks, are those of cronsim, which does as
Debian's cron does. cronsim and zoneinfo are imported with the first cron line.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sepkit.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

SHORTEST: Final = 0.01  # seconds between two times of an `every`, as between two runs of a task
LONGEST: Final = 365 * 24 * 3600  # seconds; more is a mistake of units

_HOUR: Final = 3600 * 1000
_FIELDS: Final = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, or L, the last one"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of the week", "0 to 7, where 0 and 7 are Sunday, or SUN to SAT"),
)
_EXAMPLE: Final = '"0 9 * * 1-5" is nine o\'clock from Monday to Friday'
_LONGEST_LINE: Final = 1_000


def moment(milliseconds: int) -> datetime:
    """A moment as a datetime in UTC."""
    return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)


class Every:
    """Every so many seconds, counted from a first time: what a run takes moves none of the times after it."""

    def __init__(self, seconds: float) -> None:
        given: object = seconds
        if (
            isinstance(given, bool)
            or not isinstance(given, int | float)
            or not (math.isfinite(given) and SHORTEST <= given <= LONGEST)
        ):
            raise RegistrationError(
                f"@app.every({seconds!r:.100}): write the seconds between two runs, from {SHORTEST:g} to {LONGEST}, "
                "as in @app.every(60)"
            )
        self.step: Final = max(1, round(seconds * 1000))
        self.text: Final = f"every {seconds:.10g} s"

    def after(self, now: int) -> int:
        """The first time of a job that begins ``now``."""
        return now + self.step

    def latest(self, due: int, now: int) -> int:
        """The last of the times up to ``now``, of which ``due`` is one."""
        return due + (now - due) // self.step * self.step

    def following(self, due: int, now: int) -> int:
        """The first of the times after ``now``, ``due`` being one of them."""
        return self.latest(due, now) + self.step


class Cron:
    """The times of a cron line in a time zone."""

    def __init__(self, line: str, tz: str) -> None:
        given: object = line
        if not isinstance(given, str):
            raise RegistrationError(f"@app.cron({line!r:.100}): write a cron line; {_EXAMPLE}")
        self._zone = _zone(tz)
        self._line = " ".join(line.split())
        self.text: Final = f"cron {self._line} ({tz})"
        _check(self._line)
        if next(self._times(0), None) is None:
            raise RegistrationError(f"@app.cron({line!r}): no day of any year is like that")

    def after(self, now: int) -> int:
        """The first time after ``now``.

        Raises:
            OverflowError: There is none before the year 10000.
        """
        for time in self._times(now):
            if time > now:
                return time
        raise OverflowError(f"{self.text}: no time after {moment(now)}")

    def latest(self, due: int, now: int) -> int:
        """The last of the times up to ``now``, of which ``due`` is one."""
        span = _HOUR
        while True:  # back by an hour, by two, by four: so each look goes over as few times as there can be
            found = due
            start = max(due, now - span)
            for time in self._times(start):
                if time > now:
                    break
                found = max(found, time)
            if found > start or start == due:
                return found
            span *= 2

    def following(self, due: int, now: int) -> int:
        """The first of the times after ``now``."""
        return self.after(max(due, now))

    def _times(self, start: int) -> Iterator[int]:
        """Its times, from ``start`` on. Where the clock was put back there may be some before ``start`` among them."""
        from cronsim import CronSim

        began = moment(start).astimezone(self._zone)
        try:
            for time in CronSim(self._line, began):
                yield round(time.timestamp()) * 1000
        except (OverflowError, ValueError):  # past the year 9999
            return


Schedule = Every | Cron


def _zone(tz: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo, available_timezones

    given: object = tz
    if isinstance(given, str) and given:
        try:
            return ZoneInfo(given)
        except (KeyError, ValueError, OSError):  # unknown; a path out of the folder; a folder
            pass
    import difflib

    known = available_timezones()
    close = difflib.get_close_matches(str(tz), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else 'write one like "Europe/Stockholm" or "UTC"'
    if not known:
        hint = "this system has no time zones; install the package tzdata"
    raise RegistrationError(f"@app.cron: tz={tz!r:.100}: there is no such time zone; {hint}")


def _check(line: str) -> None:
    """Whether it is a cron line; of one that is none, each field that is wrong."""
    from cronsim import CronSim, CronSimError

    shown = f"@app.cron({line[:200]!r})"
    if line.startswith("@"):
        raise RegistrationError(f"{shown}: write the five fields; {_EXAMPLE}")
    parts = line.split()
    if len(line) > _LONGEST_LINE or len(parts) not in (5, 6):
        names = ", ".join(name for name, _ in _FIELDS)
        raise RegistrationError(
            f"{shown}: a cron line has five fields ({names}), or six with the second before them, and this one has "
            f"{len(parts)}; {_EXAMPLE}"
        )
    start = datetime(2000, 1, 1, tzinfo=UTC)
    fields = _FIELDS if len(parts) == 5 else (("second", "0 to 59"), *_FIELDS)
    wrong = []
    for number, ((name, range_), part) in enumerate(zip(fields, parts, strict=True)):
        alone = ["*"] * len(parts)
        alone[number] = part
        try:
            CronSim(" ".join(alone), start)
        except (CronSimError, ValueError, AssertionError, TypeError):
            wrong.append(f"{name} {part[:50]!r} (write {range_})")
    if wrong:
        faults = "; ".join(wrong)
        raise RegistrationError(f"{shown}: {faults}; or write *, */2, a list 1,2 or a range 1-5 there; {_EXAMPLE}")
    try:
        CronSim(line, start)
    except (CronSimError, ValueError, AssertionError, TypeError):
        raise RegistrationError(f"{shown}: none of its months has such a day") from None
