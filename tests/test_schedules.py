"""When jobs are due, against a table that knows nothing of cronsim: each step of a year, in six zones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from sepkit import App
from sepkit.errors import RegistrationError
from sepkit.tasks.schedule import Cron, Every, moment

SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
STEP: Final = 1 if SOAK else 15  # minutes; all lines below are due at a quarter
ZONES: Final = (
    "UTC", "Europe/Stockholm", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns",
)  # fmt: skip
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
END: Final = datetime(2027, 1, 1, tzinfo=UTC)

Match = Callable[[datetime], bool]

LINES: Final[dict[str, tuple[bool, Match]]] = {
    # Whether the hour is a fixed one, for which Debian's cron makes up; and which times of the wall it means.
    "0 * * * *": (False, lambda t: t.minute == 0),
    "30 2 * * *": (True, lambda t: (t.hour, t.minute) == (2, 30)),
    "0 9 * * 1-5": (True, lambda t: (t.hour, t.minute) == (9, 0) and t.isoweekday() <= 5),
    "15 1,2,3 * * *": (True, lambda t: t.hour in (1, 2, 3) and t.minute == 15),
    "45 23 L * *": (True, lambda t: (t.hour, t.minute) == (23, 45) and (t + timedelta(days=1)).day == 1),
}


def expected(zone: str, begin: datetime = BEGIN, end: datetime = END) -> dict[str, list[datetime]]:
    """The runs of each line, found by going through the year: what the wall shows at each step, and what it leaves out.

    A fixed time that is shown twice runs the first time; one that is left out runs with the first step after the gap.
    """
    tz, step = ZoneInfo(zone), timedelta(minutes=STEP)
    found: dict[str, set[datetime]] = {line: set() for line in LINES}
    now = begin - timedelta(hours=6)
    before = now.astimezone(tz).replace(tzinfo=None)
    while now < end:
        local = now.astimezone(tz)
        wall, again = local.replace(tzinfo=None, fold=0), local.fold == 1
        skipped = []
        if wall - before > step:
            skipped = [before + step * n for n in range(1, (wall - before) // step)]
        for line, (is_fixed, match) in LINES.items():
            if match(wall) and not (is_fixed and again):
                found[line].add(now)
            if is_fixed and any(map(match, skipped)):
                found[line].add(now)
        before, now = wall, now + step
    return {line: sorted(time for time in times if begin < time < end) for line, times in found.items()}


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_cron_lines_is_due_when_a_table_made_by_hand_says(zone: str) -> None:
    """Also over the changes of the clock, of which one zone's is half an hour."""
    table = expected(zone)
    for line, times in table.items():
        cron = Cron(line, zone)
        got, now = [], round(BEGIN.timestamp() * 1000)
        while moment(now := cron.after(now)) < END:
            got.append(moment(now))
        assert got == times, line
    assert len(table["0 * * * *"]) == pytest.approx(365 * 24, abs=2)
    assert len(table["30 2 * * *"]) == 365


def test_the_changes_of_the_clock_are_as_debians_cron_has_them() -> None:
    """Read off a calendar: in Stockholm 02:00 became 03:00 on 29 March 2026, and 03:00 became 02:00 on 25 October."""

    def runs(line: str, day: datetime) -> list[str]:
        cron, found, now = Cron(line, "Europe/Stockholm"), [], round(day.timestamp() * 1000) - 1
        while moment(now := cron.after(now)) < day + timedelta(hours=6):
            found.append(f"{moment(now):%H:%M}")
        return found

    spring, autumn = datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)
    assert runs("30 2 * * *", spring) == ["01:00"]  # at once after the gap: 03:00 in summer time
    assert runs("30 2 * * *", autumn) == ["00:30"]  # the first of the two
    assert runs("0 2,3 * * *", spring) == ["01:00"]  # both at the same moment: once
    assert runs("0 * * * *", spring) == ["23:00", "00:00", "01:00", "02:00", "03:00", "04:00"]
    assert runs("0 * * * *", autumn) == ["22:00", "23:00", "00:00", "01:00", "02:00", "03:00"]
    assert runs("*/30 2 * * *", spring) == []  # every half hour of an hour that is not there
    assert runs("*/30 2 * * *", autumn) == ["00:00", "00:30", "01:00", "01:30"]


@given(
    st.sampled_from(["* * * * *", "*/7 * * * 1-5", "30 2 * * *", "0 0 29 2 *", "15 1,2,3 * * *", "0 12 * 6 0#2"]),
    st.sampled_from([*ZONES, "America/Santiago", "Africa/Casablanca"]),
    st.integers(0, 2_000_000_000_000),
    st.integers(0, 86_400_000),
)
@settings(max_examples=500 if SOAK else 30)
def test_the_last_of_the_times_that_went_by_is_one_of_them_and_none_comes_after_it(
    line: str, zone: str, start: int, later: int
) -> None:
    """Found without going over all of them, and never later than now."""
    cron = Cron(line, zone)
    due = cron.after(start)
    now = due + later
    last = cron.latest(due, now)
    assert due <= last <= now
    assert cron.following(due, now) > now
    time, passed = due, due
    while (time := cron.after(time)) <= now:
        passed = time
    assert last == passed


def test_a_line_that_was_due_every_minute_of_ten_years_is_made_up_for_at_once() -> None:
    """A computer that was off for years does not go through millions of times. Counted, not timed."""
    cron = Cron("* * * * *", "Europe/Stockholm")
    due, now = cron.after(0), 315_360_000_000
    assert cron.latest(due, now) == now // 60_000 * 60_000


@given(st.floats(0.01, 1e6), st.integers(0, 10**13), st.integers(0, 10**12))
def test_every_keeps_its_phase(seconds: float, due: int, late: int) -> None:
    """Times lie on one grid, whatever the runs take."""
    every = Every(seconds)
    now = due + late
    last = every.latest(due, now)
    assert last <= now < last + every.step
    assert (last - due) % every.step == 0
    assert every.following(due, now) == last + every.step


@pytest.mark.parametrize("seconds", [0, -1, 0.001, float("nan"), float("inf"), 1e9, True, "60", None, timedelta(1)])
def test_every_refuses_what_is_no_interval_and_says_what_to_write(seconds: float) -> None:
    """``every(0)`` would be a busy loop."""
    with pytest.raises(RegistrationError, match=r"@app\.every\(.*write the seconds between .*@app\.every\(60\)"):
        App("a").every(seconds)


def test_a_cron_line_with_six_mistakes_names_them_all() -> None:
    """Each field, what may stand there, and a line that is right."""
    with pytest.raises(RegistrationError) as refused:
        App("a").cron("60 61 25 32 13 9")
    said = str(refused.value)
    for word in ("second '60'", "minute '61'", "hour '25'", "month '32'", "month '13'", "day of the week '9'"):
        assert word in said
    assert "0 to 59" in said
    assert "0 9 * * 1-5" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 9 * *", "has 4"),
        ("", "has 0"),
        ("0 9 * * * * *", "has 7"),
        ("@daily", "write the five fields"),
        ("*/0 * * * *", "minute '*/0'"),
        ("5-1 * * * *", "minute '5-1'"),
        ("0 0 30 2 *", "none of its months has such a day"),
        ("0 0 31 4,6,9,11 *", "none of its months"),
        ("0 9 * * MONDAY", "day of the week 'MONDAY'"),
        ("-1 * * * *", "minute '-1'"),
        ("1" * 5000 + " * * * *", "minute"),
        (None, "write a cron line"),
        (5, "write a cron line"),
    ],
)
def test_what_is_no_cron_line_is_refused_where_it_is_written(line: str, said: str) -> None:
    """With what is wrong of it, in a bounded message."""
    with pytest.raises(RegistrationError) as refused:
        App("a").cron(line)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("Europe/Stockolm", "did you mean 'Europe/Stockholm'"),
        ("Mars/Olympus", "there is no such time zone"),
        ("../../etc/passwd", "there is no such time zone"),
        ("/etc/localtime", "there is no such time zone"),
        ("Europe", "there is no such time zone"),
        ("a\0b", "there is no such time zone"),
        ("", "there is no such time zone"),
        (None, "there is no such time zone"),
        (3600, "there is no such time zone"),
    ],
)
def test_a_zone_that_does_not_exist_is_refused_where_it_is_written(zone: str, said: str) -> None:
    """A name that leads out of the folder of zones, too."""
    with pytest.raises(RegistrationError, match=r"@app\.cron: tz=") as refused:
        App("a").cron("0 9 * * *", tz=zone)
    assert said in str(refused.value)


def test_an_app_without_jobs_imports_nothing_for_them() -> None:
    """Neither the engine nor cronsim nor SQLite; an app with cron jobs imports cronsim."""
    script = (
        "import sys, sepkit.faces.runner; from sepkit import App; from sepkit.serving.served import Served\n"
        "app = App('a'); Served(app)\n"
        "print([name for name in sys.modules if 'cronsim' in name or 'zoneinfo' in name or 'sqlite' in name "
        "or name in ('sepkit.scheduling', 'sepkit.serving.jobs', 'sepkit.tasks.schedule')])\n"
        "app.cron('0 9 * * *'); print('cronsim' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
