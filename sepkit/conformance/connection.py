"""A conversation with one process of the extension: frames are sent, and their answers waited for.

The parts are elsewhere: the pipes in ``child.py``, the lines in ``record.py``, the host's answers in ``replies.py``. No
frame is checked here, except for which answer belongs to which request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sepkit.conformance.calls import Calls
from sepkit.conformance.child import Child
from sepkit.conformance.expectations import kind
from sepkit.conformance.host import PlainHost
from sepkit.conformance.lines import Frame, Line, shortened, written
from sepkit.conformance.patience import Patience
from sepkit.conformance.record import ABOUT_IDS, Record
from sepkit.conformance.replies import Replies
from sepkit.conformance.subject import Subject
from sepkit.conformance.violations import NotApplicable, Violation


class Connection:
    """A running extension.

    ``doomed`` is set when it must not be used for another check: an answer is missing that may still come. ``apart`` is
    whether observations do not see it: see :attr:`Requirement.apart`.

    Args:
        command: What to start.
        subject: What is known of the extension.
        patience: How long to wait.
        cwd: Where it starts.

    Raises:
        SpawnError: It could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        subject: Subject,
        *,
        patience: Patience,
        cwd: Path | str | None = None,
        apart: bool = False,
    ) -> None:
        self.subject = subject
        self.apart = apart
        self.patience = patience
        self.record = Record()
        self.host = PlainHost()
        self.calls = Calls(subject, self.host)
        self.replies = Replies(self.host, self.send)
        self.doomed = False
        self._waiting: bytearray | None = None  # what is to be sent, while a frame is sent in pieces
        self._waiter: asyncio.Future[None] | None = None
        self.child = Child(command, cwd, received=self._take, flushed=self._wake)

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, *frames: Frame) -> None:
        """Send frames, all in one write."""
        self.send_raw(b"".join(written(frame) + b"\n" for frame in frames))

    def send_raw(self, data: bytes) -> None:
        """Send whole lines, which need not be frames."""
        for line in data.removesuffix(b"\n").split(b"\n"):
            self.record.sent(line)
        if self._waiting is not None:
            self._waiting += data
        else:
            self.child.write(data)

    async def send_in_pieces(self, frame: Frame, pieces: Iterable[bytes]) -> None:
        """Send a frame in pieces, each in a write of its own. What the host answers meanwhile comes after it."""
        self._waiting = bytearray()
        try:
            self.record.sent(written(frame))
            for piece in pieces:
                self.child.write(piece)
                await self.flushed()
                await asyncio.sleep(0.01)
        finally:
            waiting, self._waiting = self._waiting, None
            self.child.write(bytes(waiting))

    # -- receiving -----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        for line in self.record.take(data):
            self._react(line)
        if self.record.flooded:
            self.child.stop_reading()
        if self.child.ended:
            for line in self.record.end():
                self._react(line)
        self._wake()

    def _react(self, line: Line) -> None:
        if line.method is not None and "id" in line.frame:
            self.replies.asked(line.frame)

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``condition`` holds; whether it does, at the latest after ``seconds`` or at the end of stdout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and not self.child.ended:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        return condition()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ask(self, frame: Frame, seconds: float | None = None) -> Frame:
        """Send a request; its answer, a result or an error. See :meth:`answer`."""
        self.send(frame)
        return await self.answer(frame, seconds)

    async def answer(self, frame: Frame, seconds: float | None = None) -> Frame:
        """The answer to a request that was sent. By default its method decides how long to wait.

        Raises:
            Violation: None came in time, or one under an id that only looks like it.
        """
        rid, method = frame["id"], frame["method"]
        limit = self.patience.of(method) if seconds is None else seconds
        if self.subject.is_silent(method):
            limit /= 10
        elif seconds is None:
            limit = max(limit, 2 * self.subject.longest)
        await self.until(lambda: bool(self.record.answers(rid) or self.record.lookalikes(rid)), limit)
        if found := self.record.answers(rid):
            return found[0]
        wanted = f"an answer to {method} with the id {json.dumps(rid)}"
        if alike := self.record.lookalikes(rid):
            raise Violation(wanted, f"one with the id {json.dumps(alike[0]['id'])}", suspects=ABOUT_IDS)
        raise Violation(wanted, await self._silence(limit), suspects=self.record.suspects(method))

    @property
    def refusal(self) -> float:
        """How long to wait for the answer to a request that is to be refused, but may be worked on all the same."""
        return max(self.patience.answer, 2 * self.subject.longest)

    async def same_answer(self, plain: Callable[[], Frame], odd: Callable[[], Frame]) -> None:
        """Expect that an unusual request is answered like the plain one: both with a result, or with the same error.

        Raises:
            Violation: The answers differ, each time.
            NotApplicable: They differ, but so do two answers to the same request: it may do what it does only once.
        """
        first = [kind(await self.ask(make())) for make in (plain, odd)]
        if first[0] == first[1]:
            return
        answer = await self.ask(plain())
        other = await self.ask(odd())
        if [kind(answer), kind(other)] != first:
            raise NotApplicable("its answers to the same request vary")
        raise Violation(f"the same kind of answer as this: {shortened(written(answer))}", shortened(written(other)))

    async def answered(self, frame: Frame, seconds: float) -> bool:
        """Wait until a request that was sent has an answer; whether it has one, at the latest after ``seconds``."""
        return await self.until(lambda: bool(self.record.answers(frame["id"])), seconds)

    async def flushed(self) -> None:
        """Wait until it has taken every byte that was sent, or has ended."""
        await self.until(lambda: self.child.has_taken_all, self.patience.answer)

    async def alive(self, seconds: float | None = None) -> None:
        """Wait until it has read all that was sent to it so far; by default for as long as a ping may take.

        Raises:
            Violation: It has ended, or answers nothing any more.
        """
        if self.subject.fence is None:  # it answers nothing, so only its end can be noticed
            await asyncio.sleep(0.3 * self.patience.factor)
            if self.over:
                raise Violation("that it lives on", await self._silence(0))
            return
        frame, limit = self.calls.fence(), self.patience.answer if seconds is None else seconds
        self.send(frame)
        if not await self.answered(frame, limit):
            wanted = f"that it lives on, and answers {frame['method']}"
            raise Violation(wanted, await self._silence(limit), suspects=self.record.suspects(frame["method"]))

    async def settle(self) -> None:
        """Wait until it has read everything, and a little longer: time enough to send what it must not send."""
        await self.alive()
        await asyncio.sleep(0.02)
        await self.alive()

    async def _silence(self, seconds: float) -> str:
        """Why nothing comes: it has ended, or it took too long."""
        record = self.record
        if record.flooded:
            return f"a flood: it wrote {record.taken} bytes in {len(record.lines)} lines, and is not read from any more"
        if self.child.ended:
            code = await self.child.exit(0.5)  # its stdout ends a little before it does
            how = "closed its stdout" if code is None else f"ended with exit code {code}"
            return f"the process {how}"
        return f"nothing within {seconds:g} s"

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it cannot be used any more: nothing more comes, or it is doomed."""
        return self.child.ended or self.doomed

    @property
    def ended_by_itself(self) -> bool:
        """Whether its stdout ended before it was killed, and was read to its end."""
        return self.child.ended_by_itself and not self.record.flooded
