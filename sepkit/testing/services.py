"""What the host offers to the extension, and what the extension made of it: answers from a script, and records.

No connection and no life here (``host.py``): the routes are handed to a peer.

Source: docs/protocol.md, sections 3 to 5 and 7 to 9; docs/tasks.md, "On the wire".
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import attrs

from sepkit.errors import CapabilityDisabled, ContextViolation, InternalError, InvalidData, NotTrusted, NoUI, RpcError
from sepkit.peer import NotificationHandler, RequestHandler
from sepkit.serving.calls import checked
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure, unstructure

T = TypeVar("T")

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
SessionCall = (
    messages.SessionSendMessageParams
    | messages.SessionSendUserMessageParams
    | messages.SessionAppendEntryParams
    | messages.SessionSetModelParams
    | messages.SessionStateParams
)

_ASKING: Final[dict[str, tuple[str, type]]] = {
    "select": ("value", str),
    "confirm": ("confirmed", bool),
    "input": ("text", str),
}
_SHOWING: Final = ("notify", "set_status", "set_widget", "set_title")


class Seen:
    """What the extension did, so far."""

    def __init__(self, kv: Mapping[str, Any]) -> None:
        self.kv: dict[str, Any] = dict(kv)
        """The key-value store, by key."""
        self.ui_requests: list[messages.UiRequest] = []
        """What it wanted to be shown, or asked the user."""
        self.session_calls: list[SessionCall] = []
        """What it asked of the session; the type of a record says which method it was."""
        self.exec_calls: list[messages.ExecRunParams] = []
        """The commands that it wanted to be run, those that were denied included."""
        self.bus: list[messages.BusPublishParams] = []
        """What it published."""
        self.logs: list[messages.LogParams] = []
        """What it logged."""
        self.task_updates: list[messages.TaskHealth] = []
        """How its background tasks were, each time it told."""
        self.active_tools: list[str] = []
        """The tools that are active since it last asked for some; none before that."""
        self.registrations: messages.Registrations = messages.Registrations()
        """What it brings: of the handshake, with each ``registry/update`` merged in by name."""


class Services:
    """The routes of a host.

    Args:
        seen: Where all of it is kept.
        token: Of the contexts that this host gives out.
        capabilities: The groups of methods that are switched off (False).
        ui: How ``ui/request`` is answered; None where nobody is there.
        exec: How ``exec/run`` is answered; None where all of it is denied.
        session_state: What ``session/state`` answers.
        allowed_tools: The tools that may be active; None where all may.
        on_fault: Told what must fail the test: what a script raised, or that it has no answer left.
    """

    def __init__(
        self,
        seen: Seen,
        *,
        token: str,
        capabilities: Mapping[str, bool],
        ui: UiScript,
        exec: ExecScript,  # noqa: A002  (so named on the wire)
        session_state: Mapping[str, Any] | None,
        allowed_tools: Sequence[str] | None,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._seen = seen
        self._token = token
        self._capabilities = capabilities
        self._ui = ui
        self._exec = exec
        self._session_state = session_state
        self._allowed_tools = allowed_tools
        self._on_fault = on_fault
        self._scripts: dict[tuple[str, str], Iterator[Any]] = {}  # the lists of answers, by what they answer

    @property
    def ui_capabilities(self) -> list[str]:
        """The kinds of ``ui/request`` that can be shown."""
        if self._ui is None:
            return []
        asking = [kind for kind in _ASKING if callable(self._ui) or kind in self._ui]
        return [*asking, *_SHOWING]

    def routes(self) -> dict[str, RequestHandler]:
        """The handler of each method that the extension may ask."""
        handlers: dict[str, Callable[[Any], object]] = {
            methods.PING: lambda _: {},
            methods.UI_REQUEST: self._ui_request,
            methods.KV_GET: lambda asked: {"value": self._seen.kv.get(asked.key)},
            methods.KV_SET: self._kv_set,
            methods.KV_DELETE: self._kv_delete,
            methods.KV_LIST: self._kv_list,
            methods.EXEC_RUN: self._exec_run,
            methods.BUS_PUBLISH: self._published,
            methods.TOOLS_SET_ACTIVE: self._set_active,
            methods.SESSION_SEND_MESSAGE: self._session_call,
            methods.SESSION_SEND_USER_MESSAGE: self._session_call,
            methods.SESSION_APPEND_ENTRY: self._session_call,
            methods.SESSION_SET_MODEL: self._session_call,
            methods.SESSION_STATE: self._session_state_asked,
        }
        return {method: self._route(method, handler) for method, handler in handlers.items()}

    def notifications(self) -> dict[str, NotificationHandler]:
        """The handler of each notification that belongs to no call."""
        return {
            methods.LOG: self._into(self._seen.logs, messages.LogParams),
            methods.BUS_PUBLISH: self._into(self._seen.bus, messages.BusPublishParams),
            methods.TASK_UPDATE: self._into(self._seen.task_updates, messages.TaskHealth),
            methods.REGISTRY_UPDATE: self._registry_update,
        }

    def _route(self, method: str, handler: Callable[[Any], object]) -> RequestHandler:
        group, record = methods.GROUP_OF.get(method), messages.PARAMS[method]

        async def route(params: dict[str, Any]) -> object:
            if group is not None and self._capabilities.get(group) is False:
                raise CapabilityDisabled(f"{method}: {group!r} is switched off for this extension")
            asked = checked(params, record)
            context = getattr(asked, "context", None)
            if context is not None:
                self._check(method, context)
            answer = handler(asked)
            return await answer if inspect.isawaitable(answer) else answer

        return route

    def _check(self, method: str, context: messages.Context) -> None:
        if context.token != self._token:
            raise ContextViolation(f"{method}: the context is none of this host's; use the one that the call came with")
        if context.tier != "command":
            raise ContextViolation(f"{method} needs a context of the command tier; what observes an event may not act")

    @staticmethod
    def _into(seen: list[T], record: type[T]) -> NotificationHandler:
        def take(params: dict[str, Any]) -> None:
            try:
                seen.append(structure(params, record))
            except InvalidData:
                return  # told as a violation, where it came in

        return take

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
        if isinstance(answers, str) or not isinstance(answers, Sequence):
            return answers
        left = self._scripts.setdefault((option, name), iter(answers))
        for answer in left:
            return answer
        raise self._unforeseen(f"{option}={{{name!r}: [...]}} has {len(answers)} answers, and was asked for one more")

    def _unforeseen(self, problem: str) -> RpcError:
        self._on_fault(AssertionError(problem))
        return InternalError(problem)

    # -- ui ------------------------------------------------------------------------------------------------------------

    async def _ui_request(self, asked: messages.UiRequest) -> object:
        self._seen.ui_requests.append(asked)
        script, kind = self._ui, asked.kind
        if script is None or kind not in self.ui_capabilities:
            raise NoUI(f"nobody is there to whom {kind!r} could be shown")
        if callable(script):
            answer = await self._scripted(script, asked)
        else:
            answer = self._next("ui", kind, script.get(kind))
        if kind not in _ASKING:
            return {}
        if answer is None:
            return {"cancelled": True}
        field, expected = _ASKING[kind]
        if type(answer) is not expected:
            raise self._unforeseen(f"ui answers {kind!r} with {answer!r}; expected {expected.__name__} or None")
        if isinstance(asked, messages.SelectRequest) and answer not in asked.options:
            raise self._unforeseen(f"ui answers 'select' with {answer!r}, which is none of {asked.options}")
        return {field: answer}

    # -- exec ----------------------------------------------------------------------------------------------------------

    async def _exec_run(self, asked: messages.ExecRunParams) -> object:
        self._seen.exec_calls.append(asked)
        script, line = self._exec, " ".join([asked.command, *asked.args])
        if script is None:
            raise NotTrusted(f"may not run {line!r}; TestHost(exec=...) says what may")
        if callable(script):
            answer = await self._scripted(script, asked)
        else:
            name = line if line in script else asked.command
            if name not in script:
                raise NotTrusted(f"may not run {line!r}; TestHost(exec=...) allows {', '.join(script) or 'nothing'}")
            answer = self._next("exec", name, script[name])
        if isinstance(answer, str):
            answer = messages.ExecRunResult(stdout=answer, stderr="", exit_code=0)
        if not isinstance(answer, messages.ExecRunResult):
            raise self._unforeseen(f"exec answers {line!r} with {answer!r}; expected an ExecRunResult or a str")
        return unstructure(answer)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _kv_set(self, asked: messages.KvSetParams) -> object:
        self._seen.kv[asked.key] = asked.value
        return {}

    def _kv_delete(self, asked: messages.KvDeleteParams) -> object:
        self._seen.kv.pop(asked.key, None)
        return {}

    def _kv_list(self, asked: messages.KvListParams) -> object:
        return {"keys": sorted(key for key in self._seen.kv if key.startswith(asked.prefix or ""))}

    def _published(self, asked: messages.BusPublishParams) -> object:
        self._seen.bus.append(asked)
        return {}

    def _set_active(self, asked: messages.SetActiveParams) -> object:
        allowed = self._allowed_tools
        self._seen.active_tools[:] = [tool for tool in asked.tools if allowed is None or tool in allowed]
        return {"active": list(self._seen.active_tools)}

    def _session_call(self, asked: SessionCall) -> object:
        self._seen.session_calls.append(asked)
        return {}

    def _session_state_asked(self, asked: messages.SessionStateParams) -> object:
        self._seen.session_calls.append(asked)
        return {"state": dict(self._session_state or {})}

    def _registry_update(self, params: dict[str, Any]) -> None:
        try:
            update: messages.RegistryUpdateParams = structure(params, messages.RegistryUpdateParams)
        except InvalidData:
            return  # told as a violation, where it came in
        self._seen.registrations = merged(self._seen.registrations, update)


def merged(known: messages.Registrations, update: messages.RegistryUpdateParams) -> messages.Registrations:
    """The registrations after an update: merged by name, the last wins and keeps the place of the first.

    Source: docs/protocol.md, section 4, ``registry/update``.
    """
    kinds: tuple[Literal["tools", "commands", "flags", "subscriptions", "providers"], ...]
    kinds = ("tools", "commands", "flags", "subscriptions", "providers")
    changes: dict[str, Any] = {}
    for kind in kinds:
        by_name = {getattr(one, "name", one): one for one in [*getattr(known, kind), *getattr(update, kind)]}
        changes[kind] = list(by_name.values())
    return attrs.evolve(known, **changes)
