"""The program around the test host: it answers as the test's author has written down, and keeps what it was asked.

Source: docs/protocol.md, section 4.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from sepkit.capabilities.delegate import Delegate
from sepkit.contexts.fetching import Response
from sepkit.errors import InternalError, NotTrusted, NoUI, RpcError
from sepkit.testing.seen import Fetched, Seen
from sepkit.wire import messages, methods

UiAnswer = str | bool | None
"""What was chosen, confirmed or typed; None where it was dismissed."""
UiScript = (
    Mapping[str, UiAnswer | Sequence[UiAnswer]] | Callable[[messages.UiRequest], UiAnswer | Awaitable[UiAnswer]] | None
)
"""How ``ui/request`` is answered: answers by kind, or a function of the request."""
ExecAnswer = messages.ExecRunResult | str
"""How a command ended, or what it printed before it ended with 0."""
ExecScript = (
    Mapping[str, ExecAnswer | Sequence[ExecAnswer]]
    | Callable[[messages.ExecRunParams], ExecAnswer | Awaitable[ExecAnswer]]
    | None
)
"""How ``exec/run`` is answered: answers by command, or a function of the request."""

FetchAnswer = Response | str | bytes | Mapping[str, Any] | AsyncIterator[str | bytes] | Exception
"""What a server answers: a Response; with 200, a text, bytes, a dict as JSON, or chunks; or why there is no answer."""
FetchScript = (
    Mapping[str, FetchAnswer | Sequence[FetchAnswer]] | Callable[[Fetched], FetchAnswer | Awaitable[FetchAnswer]] | None
)
"""How servers answer: answers by URL, with the method before it or without; or a function of the request."""

_ASKING: Final[dict[str, tuple[str, type]]] = {
    "select": ("value", str),
    "confirm": ("confirmed", bool),
    "input": ("text", str),
}
_SHOWING: Final = ("notify", "set_status", "set_widget", "set_title")


class ScriptedDelegate(Delegate):
    """Answers from a script.

    Args:
        seen: Where it keeps the requests.
        token: Of the contexts that this host gives out.
        ui: How ``ui/request`` is answered; None where the host has no user.
        exec: How ``exec/run`` is answered; None where all of it is denied.
        session_state: What ``session/state`` answers.
        on_fault: Told what must fail the test: what a script raised, or that it has no answer left.
    """

    # All kinds come here: a request is kept even if it cannot be shown. What can be shown is `shown`.
    ui_kinds = get_args(methods.UiKind)

    def __init__(
        self,
        seen: Seen,
        *,
        token: str,
        ui: UiScript,
        exec: ExecScript,  # noqa: A002  (so named on the wire)
        session_state: Mapping[str, Any] | None,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._seen = seen
        self._token = token
        self._ui = ui
        self._exec = exec
        self._session_state = session_state
        self._on_fault = on_fault
        self._scripts: dict[tuple[str, str], Iterator[Any]] = {}  # the lists of answers, by what they answer

    @property
    def shown(self) -> list[str]:
        """The kinds of ``ui/request`` that can be shown; told with the handshake."""
        if self._ui is None:
            return []
        asking = [kind for kind in _ASKING if callable(self._ui) or kind in self._ui]
        return [*asking, *_SHOWING]

    # -- scripts -------------------------------------------------------------------------------------------------------

    async def _scripted(self, script: Callable[[Any], Any], asked: object) -> Any:
        """What a function of the test's author makes of a request. What it raises unforeseen fails the test."""
        try:
            answer = script(asked)
            return await answer if inspect.isawaitable(answer) else answer
        except RpcError:
            raise
        except Exception as error:
            self._on_fault(error)
            raise InternalError(f"the test's {getattr(script, '__name__', 'function')} failed") from None

    def _next(self, option: str, name: str, answers: Any) -> Any:
        """The next of the answers to ``name``."""
        if isinstance(answers, str | bytes) or not isinstance(answers, Sequence):
            return answers
        left = self._scripts.setdefault((option, name), iter(answers))
        for answer in left:
            return answer
        raise self._unforeseen(f"{option}={{{name!r}: [...]}} has {len(answers)} answers, and was asked for one more")

    def _unforeseen(self, problem: str) -> RpcError:
        self._on_fault(AssertionError(problem))
        return InternalError(problem)

    @property
    def following(self) -> Callable[[str, str, Any], Any]:
        """Gives the next answer of a script, where it has several."""
        return self._next

    @property
    def unforeseen(self) -> Callable[[str], RpcError]:
        """Tells that the test must fail."""
        return self._unforeseen

    # -- what the services ask -----------------------------------------------------------------------------------------

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        """Answer as the user in the script does."""
        self._seen.ui_requests.append(request)
        script, kind = self._ui, request.kind
        if script is None or kind not in self.shown:
            raise NoUI(f"nobody is there to whom {kind!r} could be shown")
        if callable(script):
            answer = await self._scripted(script, request)
        else:
            answer = self._next("ui", kind, script.get(kind))
        if kind not in _ASKING:
            return messages.UiResult()
        if answer is None:
            return messages.UiResult(cancelled=True)
        field, expected = _ASKING[kind]
        if type(answer) is not expected:
            raise self._unforeseen(f"ui answers {kind!r} with {answer!r}; expected {expected.__name__} or None")
        if isinstance(request, messages.SelectRequest) and answer not in request.options:
            raise self._unforeseen(f"ui answers 'select' with {answer!r}, which is none of {request.options}")
        result: dict[str, Any] = {field: answer}
        return messages.UiResult(**result)

    async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
        """End the command as the script says, or deny it."""
        self._seen.exec_calls.append(request)
        script, line = self._exec, " ".join([request.command, *request.args])
        if script is None:
            raise NotTrusted(f"may not run {line!r}; TestHost(exec=...) says what may")
        if callable(script):
            answer = await self._scripted(script, request)
        else:
            name = line if line in script else request.command
            if name not in script:
                raise NotTrusted(f"may not run {line!r}; TestHost(exec=...) allows {', '.join(script) or 'nothing'}")
            answer = self._next("exec", name, script[name])
        if isinstance(answer, str):
            answer = messages.ExecRunResult(stdout=answer, stderr="", exit_code=0)
        if not isinstance(answer, messages.ExecRunResult):
            raise self._unforeseen(f"exec answers {line!r} with {answer!r}; expected an ExecRunResult or a str")
        return answer

    async def send_message(self, extension: str, request: messages.SessionSendMessageParams) -> None:
        """Keep it."""
        self._seen.session_calls.append(request)

    async def send_user_message(self, extension: str, request: messages.SessionSendUserMessageParams) -> None:
        """Keep it."""
        self._seen.session_calls.append(request)

    async def append_entry(self, extension: str, request: messages.SessionAppendEntryParams) -> None:
        """Keep it."""
        self._seen.session_calls.append(request)

    async def set_model(self, extension: str, request: messages.SessionSetModelParams) -> None:
        """Keep it."""
        self._seen.session_calls.append(request)

    async def session_state(self, extension: str) -> dict[str, Any]:
        """The state in the script."""
        # The services let only this context pass.
        context = messages.Context(token=self._token, tier="command")
        self._seen.session_calls.append(messages.SessionStateParams(context))
        return dict(self._session_state or {})
