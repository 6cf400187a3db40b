"""``ctx.ui.confirm``, ``input``, ``select``, ``form`` and ``open_url`` by MCP's forms, in both eras.

A legacy client is sent a request in the middle of the call. A modern one gets no requests: the call is answered with
what is asked, and the client calls again with the answers. The handler does not run twice. Its coroutine stays where it
waits, under a handle that the client sends back, and goes on from there.

Source: docs/mcp.md, "Questions".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple

import orjson

from sepkit.concurrency.cancelling import cancel
from sepkit.errors import InternalError, InvalidParams
from sepkit.ownlog import OwnLog

PATIENCE: Final = 600.0  # seconds for which a call stays suspended
MOST_OF_ONE: Final = 64  # suspended calls of one principal
MOST: Final = 1024  # suspended calls of this process
MOST_BYTES: Final = 64 * 1024 * 1024  # of the arguments of suspended calls, together
_MOST_GIVEN: Final = 64  # answers that come before their questions
_LONGEST_GIVEN: Final = 64 * 1024  # bytes of one of them
_MOST_ROUNDS: Final = 10  # wrong answers to one question

_log = OwnLog("sepkit")
_WRONG: Final = object()


class Form:
    """One question, and what its answer means: a form, mostly of one field, or a page to be opened.

    Args:
        params: The params of ``ui/request``; its kind is confirm, input, select, form or open_url.
        is_modern: Whether it is for a client without a handshake.
    """

    def __init__(self, params: dict[str, Any], *, is_modern: bool = False) -> None:
        self._kind = params["kind"]
        self._options: list[str] | None = None
        self.is_empty = False
        """Whether there is nothing to choose from: no client can show that."""
        self.params: dict[str, Any]
        if self._kind == "form":
            self.params = {"message": params["message"], "requestedSchema": params["schema"]}
            return
        if self._kind == "open_url":
            self.params = {"mode": "url", "message": params["message"], "url": params["url"]}
            if not is_modern:
                self.params["elicitationId"] = os.urandom(16).hex()
            return
        field: dict[str, Any]
        if self._kind == "confirm":
            field = {"type": "boolean"}
        elif self._kind == "select":
            field = {"type": "string", "enum": list(dict.fromkeys(params["options"]))}
        else:
            field = {"type": "string"}
            if params.get("default") is not None:
                field["default"] = params["default"]
        self._options = field.get("enum")
        self.is_empty = self._options == []
        self.params = {
            "message": params["prompt"],
            "requestedSchema": {"type": "object", "properties": {"value": field}, "required": ["value"]},
        }

    def read(self, answer: object) -> Any:
        """The result of ``ui/request`` for a client's answer; ``_WRONG`` where it does not fit the form."""
        if type(answer) is not dict:
            return _WRONG
        action, content = answer.get("action"), answer.get("content")
        if action in ("decline", "cancel"):
            return {"cancelled": True}
        if action != "accept":
            return _WRONG
        if self._kind == "open_url":
            return {}
        if self._kind == "form" and content is not None:
            return {"content": content} if type(content) is dict else _WRONG
        if content is None or content == {}:  # some clients send none at all
            return {"confirmed": True} if self._kind == "confirm" else {"cancelled": True}
        value = content.get("value") if type(content) is dict else None
        if self._kind == "confirm":
            return {"confirmed": value} if type(value) is bool else _WRONG
        if type(value) is not str:
            return _WRONG
        if self._kind == "select":
            return {"value": value} if value in (self._options or ()) else _WRONG
        return {"text": value}


async def ask_at_once(form: Form, request: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> Any:
    """Ask a legacy client, and again while its answer does not fit.

    Raises:
        RpcError: The client answered with an error.
        InternalError: None of its answers fitted.
    """
    for _ in range(_MOST_ROUNDS):
        result = form.read(await request("elicitation/create", form.params))
        if result is not _WRONG:
            return result
    raise InternalError(f"the client has answered {_MOST_ROUNDS} times with what does not fit the form")


class Questions:
    """What one call has asked and not been told yet. It outlives the requests that carry the call.

    Args:
        given: Answers that came with the call, before it has asked.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        # They may be kept for as long as the call is suspended. What is dropped here is asked.
        self._given = {
            key: given[key] for key in list(given)[:_MOST_GIVEN] if len(orjson.dumps(given[key])) <= _LONGEST_GIVEN
        }
        self._open: dict[str, tuple[Form, asyncio.Future[Any]]] = {}
        self._asked = 0
        self._rounds = 0
        self._waker: asyncio.Future[None] | None = None

    async def ask(self, form: Form, key: str | None = None) -> Any:
        """Ask, and wait for the answer; meanwhile the call is suspended."""
        self._asked += 1
        name = key or f"q{self._asked}"
        if name in self._open:
            raise InternalError(f"the question {name!r} is being asked already")
        if name in self._given and (result := form.read(self._given.pop(name))) is not _WRONG:
            return result
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[name] = form, answer
        self._wake()
        try:
            return await answer
        finally:
            self._open.pop(name, None)

    @property
    def requests(self) -> dict[str, Any]:
        """What the client is to ask now."""
        return {
            key: {"method": "elicitation/create", "params": form.params}
            for key, (form, answer) in self._open.items()
            if not answer.done()
        }

    def take(self, responses: dict[str, Any]) -> None:
        """Take the client's answers; what does not fit is asked again, what was never asked is ignored."""
        self._rounds += 1
        for key, (form, answer) in list(self._open.items()):
            if key not in responses or answer.done():
                continue
            result = form.read(responses[key])
            if result is not _WRONG:
                answer.set_result(result)
            elif self._rounds >= _MOST_ROUNDS:
                answer.set_exception(InternalError("none of the client's answers fits the form"))

    async def changed(self, task: asyncio.Task[Any]) -> None:
        """Wait until something has been asked, or the call has ended."""
        self._waker = asyncio.get_running_loop().create_future()
        task.add_done_callback(self._wake)
        try:
            if not task.done():
                await self._waker
            await asyncio.sleep(0)  # what is asked at once goes out together
        finally:
            task.remove_done_callback(self._wake)
            self._waker = None

    def _wake(self, task: object = None) -> None:
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)


class Bound(NamedTuple):
    """What a suspended call is bound to: a handle alone does not make it go on."""

    call: bytes
    """A digest of what is called."""
    principal: str | None
    """Whose it is; None where there are no users."""
    size: int
    """Bytes of its arguments."""


class SuspendedCall:
    """A call whose client has been asked something, or is about to be.

    Args:
        task: Runs it.
        questions: What it has asked.
        move: Has the call speak under another request from now on; with None, under no request.
        bound: What it is bound to.
    """

    __slots__ = ("bound", "move", "questions", "task", "timer")

    def __init__(
        self,
        task: asyncio.Task[dict[str, Any]],
        questions: Questions,
        move: Callable[[Any], None],
        bound: Bound,
    ) -> None:
        self.task = task
        self.questions = questions
        self.move = move
        self.bound = bound
        self.timer: asyncio.TimerHandle | None = None


class SuspendedCalls:
    """The calls of a process whose clients have been asked something."""

    def __init__(self) -> None:
        self._waiting: dict[str, SuspendedCall] = {}  # by handle, oldest first
        self._ending: set[asyncio.Task[Any]] = set()
        self._size = 0  # bytes of their arguments

    def __len__(self) -> int:
        return len(self._waiting)

    async def begin(
        self,
        work: Coroutine[Any, Any, dict[str, Any]],
        questions: Questions,
        move: Callable[[Any], None],
        bound: Bound,
        asked: Callable[[dict[str, Any], str], dict[str, Any]],
    ) -> dict[str, Any]:
        """Run a call until it has ended or asks something.

        Args:
            work: The call.
            questions: What it asks by.
            move: As of :class:`SuspendedCall`.
            bound: What it is bound to.
            asked: Makes the result that asks, of the requests and the handle.
        """
        task = asyncio.get_running_loop().create_task(work, name="sepkit mcp call")
        return await self._drive(SuspendedCall(task, questions, move, bound), asked)

    async def go_on(
        self,
        state: str,
        responses: dict[str, Any],
        request: object,
        bound: Bound,
        asked: Callable[[dict[str, Any], str], dict[str, Any]],
    ) -> dict[str, Any]:
        """Have a suspended call go on with the client's answers.

        Raises:
            InvalidParams: There is no such call, or it is another one's.
        """
        call = self._waiting.get(state)
        if call is None or call.bound != bound:
            # The same text for all: a guess is not told how near it was.
            raise InvalidParams("requestState: unknown, expired, or of another call; call again without it")
        self._take(state)
        call.move(request)
        call.questions.take(responses)
        return await self._drive(call, asked)

    async def _drive(
        self, call: SuspendedCall, asked: Callable[[dict[str, Any], str], dict[str, Any]]
    ) -> dict[str, Any]:
        try:
            # An answer that came now is taken by the call in the next turns of the loop.
            await asyncio.sleep(0)
            while not call.task.done():
                if requests := call.questions.requests:
                    return asked(requests, self._suspend(call))
                await call.questions.changed(call.task)
        except asyncio.CancelledError:
            await self._end(call)
            raise
        return call.task.result()

    def _suspend(self, call: SuspendedCall) -> str:
        call.move(None)
        own = [handle for handle, one in self._waiting.items() if one.bound.principal == call.bound.principal]
        if len(own) >= MOST_OF_ONE:
            self._forget(own[0], f"more than {MOST_OF_ONE} calls wait for an answer; the oldest is cancelled")
        elif len(self._waiting) >= MOST:
            self._forget(next(iter(self._waiting)), f"more than {MOST} calls wait for an answer")
        while self._waiting and self._size + call.bound.size > MOST_BYTES:
            self._forget(
                next(iter(self._waiting)), f"the arguments of those that wait have more than {MOST_BYTES} bytes"
            )
        self._size += call.bound.size
        handle = os.urandom(16).hex()  # `secrets` would import hashlib
        self._waiting[handle] = call
        loop = asyncio.get_running_loop()
        call.timer = loop.call_later(PATIENCE, self._forget, handle, f"no answer within {PATIENCE:g} s")
        return handle

    def _forget(self, handle: str, why: str) -> None:
        _log.warning("a call that has asked its user something is cancelled: %s", why)
        self._cancel(self._take(handle))

    def _take(self, handle: str) -> SuspendedCall:
        call = self._waiting.pop(handle)
        self._size -= call.bound.size
        if call.timer is not None:
            call.timer.cancel()
        return call

    def _cancel(self, call: SuspendedCall) -> None:
        cancel(call.task)
        self._ending.add(call.task)
        call.task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # the call has logged it

    async def _end(self, call: SuspendedCall) -> None:
        """Cancel a call, and wait until it has ended."""
        self._cancel(call)
        await asyncio.wait([call.task])

    def cancel_all(self) -> None:
        """No client comes back any more: cancel what is suspended."""
        for handle in list(self._waiting):
            self._cancel(self._take(handle))

    async def wait_idle(self, seconds: float) -> None:
        """Wait until what was cancelled has ended, at most ``seconds``."""
        if self._ending:
            await asyncio.wait(list(self._ending), timeout=seconds)


def bound(method: str, name: str, arguments: dict[str, Any], principal: str | None) -> Bound:
    """What a call is bound to: the method, the name, the arguments, and whose it is."""
    from hashlib import blake2b  # only where a call may ask

    said = orjson.dumps([method, name, arguments], option=orjson.OPT_SORT_KEYS)
    return Bound(blake2b(said, digest_size=32).digest(), principal, len(said))
