"""``app.schedule``: jobs for one moment, and what is to come. What serves the app keeps and runs them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Callable, Generator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from sepkit.contexts.backend import StoredJob
from sepkit.contexts.link import current_user
from sepkit.errors import EncodeError, JobRefused, RegistrationError, sayable
from sepkit.handlers import Fn, JobSpec
from sepkit.router import closest
from sepkit.tasks.schedule import moment
from sepkit.userids import user_fault
from sepkit.wire.writing import to_json

MOST_BYTES: Final = 64 * 1024
"""Of a payload, as JSON."""

_LONGEST_ID: Final = 200


class Job:
    """A job that will run. ``await job`` waits until it is stored, and so outlives the process.

    Attributes:
        id: Its id.
        name: Of its function.
        when: When it runs next, in UTC; None where it is running for the last time.
        payload: What it was scheduled with.
        user_id: For whom it runs; None for no user.
    """

    def __init__(self, stored: StoredJob, payload: Any, written: concurrent.futures.Future[None] | None = None) -> None:
        self.id = stored.id
        self.name = stored.name
        self.when = None if stored.due is None else moment(stored.due)
        self.payload = payload
        self.user_id = stored.user
        self._written = written

    def __await__(self) -> Generator[Any, None, Job]:
        if self._written is not None:
            # A caller that is cancelled while it waits does not cancel the write.
            yield from asyncio.shield(asyncio.wrap_future(self._written)).__await__()
        return self

    def __repr__(self) -> str:
        return f"Job(id={self.id!r}, name={self.name!r}, when={self.when!s})"


class Jobs(Protocol):
    """What ``app.schedule`` needs of whatever serves the app."""

    def now(self) -> int:
        """Milliseconds since 1970."""

    def put(self, job: StoredJob) -> concurrent.futures.Future[None]:
        """Keep a job; from any thread."""

    async def cancel(self, id: str) -> bool:  # noqa: A002
        """Have a job not run any more."""

    async def coming(self) -> list[Job]:
        """What is to come."""


class Schedule:
    """Jobs for one moment: ``at``, ``cancel``; and ``list``, which has those that repeat, too.

    Args:
        specs: The app's jobs, by name.
        jobs: Finds what serves the app.
    """

    def __init__(self, specs: Mapping[str, JobSpec], jobs: Callable[[], Jobs]) -> None:
        self._specs = specs
        self._jobs = jobs

    def at(
        self,
        when: datetime | timedelta,
        fn: Fn | str,
        *,
        payload: Any = None,
        user_id: str | None = None,
        id: str | None = None,  # noqa: A002  (so named in the API)
    ) -> Job:
        """Have a job run once. It returns at once; ``await`` what it returns to know that it is stored.

        Args:
            when: A datetime with a time zone, or a timedelta from now. What is past runs at once.
            fn: A function under ``@app.job``, ``@app.every`` or ``@app.cron``, or the name of one: it is found again by
                that after a restart.
            payload: Anything that has a form in JSON, at most 64 KiB of it: ``ctx.payload``.
            user_id: For whom; by default the user of the call that is running.
            id: Names the job; by default one is made. One that has not begun under the same id is replaced.

        Raises:
            RegistrationError: ``fn`` is not a job, or the app is not served.
            JobRefused: The time, the payload, the user's id or the id makes no sense. Awaited, also: there are 10,000
                jobs already.
        """
        spec = self._spec(fn)
        what = f"app.schedule.at({spec.name})"
        jobs = self._jobs()
        now = jobs.now()
        due = _due(what, when, now)
        try:
            given = to_json(payload, "payload")
            text = _written(given)
        except EncodeError as error:
            raise JobRefused(f"{what}: {error}") from None
        if len(text.encode()) > MOST_BYTES:
            raise JobRefused(f"{what}: the payload has {len(text.encode())} bytes as JSON, and {MOST_BYTES} may have")
        if user_id is None:
            user_id = current_user()
        elif fault := user_fault(user_id):
            raise JobRefused(f"{what}: user_id {fault}")
        if id is None:
            id = os.urandom(8).hex()  # noqa: A001
        else:
            _check_text(what, "id", id, _LONGEST_ID)
            self._check_not_repeating(what, id)
        stored = StoredJob(id=id, name=spec.name, schedule="", due=due, payload=text, user=user_id, since=now)
        return Job(stored, given, jobs.put(stored))

    async def cancel(self, id: str) -> bool:  # noqa: A002  (so named in the API)
        """Have a job not run; whether it would have. A run that has begun goes on.

        Raises:
            JobRefused: It is a job that repeats; that is in the code.
        """
        self._check_not_repeating("app.schedule.cancel", id)
        return await self._jobs().cancel(id)

    async def list(self) -> list[Job]:
        """What is to come, the next one first; jobs that repeat have their name as their id."""
        return await self._jobs().coming()

    def _spec(self, fn: Fn | str) -> JobSpec:
        found = self._specs.get(fn) if isinstance(fn, str) else None
        if found is None:
            found = next((spec for spec in self._specs.values() if spec.fn is fn or spec.fn == fn), None)
        if found is None:
            shown = fn if isinstance(fn, str) else getattr(fn, "__name__", repr(fn))
            hint = closest(shown, self._specs)
            raise RegistrationError(
                f"app.schedule.at: {shown!r:.100} is not a job, and could not be found again after a restart; write "
                f"@app.job above the function{hint}"
            )
        return found

    def _check_not_repeating(self, what: str, id_: str) -> None:
        spec = self._specs.get(id_)
        if spec is not None and spec.schedule is not None:
            raise JobRefused(f"{what}: {id_!r} is the job that repeats ({spec.text}); it goes by its decorator alone")


def _due(what: str, when: object, now: int) -> int:
    if isinstance(when, timedelta):
        try:
            due = now + round(when / timedelta(milliseconds=1))
            moment(due)
        except (OverflowError, ValueError, OSError):
            raise JobRefused(f"{what}: {when!r} from now is past the year 9999") from None
        return due
    if not isinstance(when, datetime):
        raise JobRefused(
            f"{what}: when={when!r:.100}: write a datetime with a time zone, as in datetime.now(UTC) + "
            "timedelta(hours=1), or a timedelta from now"
        )
    if when.tzinfo is None or when.utcoffset() is None:
        raise JobRefused(
            f"{what}: {when.isoformat()} has no time zone; write datetime(…, tzinfo=UTC) or tzinfo=ZoneInfo(…)"
        )
    return round((when - moment(0)) / timedelta(milliseconds=1))


def _written(given: object) -> str:
    import orjson

    return orjson.dumps(given).decode()


def _check_text(what: str, name: str, text: object, most: int) -> None:
    if not isinstance(text, str) or not text.strip() or sayable(text) != text or len(text) > most:
        raise JobRefused(f"{what}: {name}={text!r:.100}: write a text of 1 to {most} characters")
