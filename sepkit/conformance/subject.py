"""What an extension brings, found out once: its registrations, one call of each thing in them, and how it behaves.

The requests that the topics send are made here, so that each of them asks for something that exists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, Final, Literal

from attrs import define, field, frozen

from sepkit.conformance.arguments import arguments_for
from sepkit.conformance.connection import Connection, Frame, shown, written
from sepkit.conformance.requirements import NotApplicable, Violation, fitting
from sepkit.wire import messages, methods

MOST: Final = 32
"""Tools, hooks, commands and providers that are called, of each."""
_SLOW: Final = 0.25  # seconds from which on a call can be caught in flight

_HOOK_INPUTS: Final[dict[str, Frame]] = {
    "tool_call": {"tool": "bash", "arguments": {"command": "ls"}},
    "user_bash": {"command": "ls"},
    "tool_result": {"tool": "bash", "arguments": {"command": "ls"}, "content": "a\nb", "is_error": False},
    "input": {"text": "Hello"},
    "before_agent_start": {"system_prompt": "Be brief."},
    "context": {"messages": [{"role": "user", "content": "Hello"}]},
    "before_provider_request": {"model": "model", "messages": [{"role": "user", "content": "Hello"}]},
    "message_end": {"message": {"role": "assistant", "content": "Hello"}},
}
_PAYLOADS: Final[dict[str, Frame]] = {
    "bus/event": {"from": "other", "topic": "topic", "payload": {}},
    "widget/key": {"widget_id": "widget", "key": "a"},
    "events_lost": {"lost": 3},
}


@frozen
class Asked:
    """A request of the survey, and its answer; None where it got none, though it may only be ``late``."""

    method: str
    name: str
    request: Frame
    answer: Frame | None
    trouble: str = ""
    late: bool = False
    asks: bool = False  # whether it asked the host for something
    updates: int = 0  # how often it told of its progress

    @property
    def done(self) -> bool:
        """Whether it was answered with a result."""
        return self.answer is not None and "result" in self.answer


class Kind(Enum):
    """How a call can be caught in flight."""

    ASKING = "it asks the host for something, which can be held back"
    SLOW = "it takes its time"
    STREAMING = "it tells of what it has so far"


@frozen
class Catch:
    """What can be caught in flight: a thing's name, and what makes a call of it."""

    method: str
    kind: Kind
    name: str
    call: Callable[[Connection], Frame]


@define
class Subject:
    """What is known of the extension. Of registrations only what can be called is here, however wrong the rest is."""

    greeting: Frame
    given: Mapping[str, Frame] = field(factory=dict)  # arguments of tools, by hand
    fence: Literal["ping", "unknown"] | None = "ping"
    asked: list[Asked] = field(factory=list)
    catches: list[Catch] = field(factory=list)  # one of each method and kind
    longest: float = 0.0  # seconds that a call took which was answered
    unanswered: set[str] = field(factory=set)  # methods that were not answered in time, once

    def limit(self, method: str, seconds: float) -> float:
        """How long to wait for an answer: where one has been waited for in vain, not as long again."""
        return min(seconds, max(seconds / 10, 2 * self.longest)) if method in self.unanswered else seconds

    @property
    def asking(self) -> str | None:
        """A tool that asks the host for something."""
        return self._caught(Kind.ASKING)

    @property
    def slow(self) -> str | None:
        """A tool that takes its time."""
        return self._caught(Kind.SLOW)

    def _caught(self, kind: Kind) -> str | None:
        return next((x.name for x in self.catches if (x.method, x.kind) == (methods.TOOL_EXECUTE, kind)), None)

    @property
    def registrations(self) -> Frame:
        """All of them, as they came."""
        result = self.greeting.get("result")
        found = result.get("registrations") if isinstance(result, dict) else None
        return found if isinstance(found, dict) else {}

    def named(self, family: str, name: str = "name") -> dict[str, Frame]:
        """The registrations of a family, by their names."""
        found = self.registrations.get(family)
        every = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return {one[name]: one for one in every if isinstance(one.get(name), str)}

    def names(self, family: Literal["hooks", "subscriptions", "flags"]) -> list[str]:
        """The registrations of a family that has nothing but names."""
        found = self.registrations.get(family)
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    @property
    def hooks(self) -> list[str]:
        """The hooks that can be sent."""
        return [name for name in self.names("hooks") if name in methods.HOOKS]

    def some(self, family: str) -> str:
        """A name to call: of those that have a result to show, the first, else any.

        Raises:
            NotApplicable: It brings none.
        """
        every = self.hooks if family == "hooks" else list(self.named(family))
        if not every:
            raise NotApplicable(f"it registers no {family}")
        method = {"tools": "tool/execute", "hooks": "hook", "commands": "command/execute"}.get(
            family, "provider/complete"
        )
        liked = list(self.given) if family == "tools" else []
        fine = [one.name for one in self.asked if one.method == method and one.done and not _failed(one.answer)]
        quick = [name for name in fine if name not in (self.slow, self.asking)]
        return next(name for name in [*liked, *quick, *fine, *every] if name in every)

    # -- requests ------------------------------------------------------------------------------------------------------

    def tool_call(self, c: Connection, name: str | None = None, **changes: object) -> Frame:
        """A call of a tool."""
        tool = self.some("tools") if name is None else name
        number = c.new_id()
        arguments = self.given.get(tool)
        if arguments is None:
            arguments = arguments_for(self.named("tools").get(tool, {}).get("parameters"))
        return c.request(
            "tool/execute",
            {"call_id": f"call-{number}", "tool": tool, "arguments": arguments, "context": c.context(), **changes},
            rid=number,
        )

    def hook_call(self, c: Connection, name: str | None = None, **more: object) -> Frame:
        """A hook, with an input as hosts send it."""
        hook = self.some("hooks") if name is None else name
        value = {**_HOOK_INPUTS.get(hook, {}), **more}
        return c.request("hook", {"hook": hook, "context": c.context(), "input": value})

    def command_call(self, c: Connection, name: str | None = None) -> Frame:
        """A command."""
        command = self.some("commands") if name is None else name
        return c.request("command/execute", {"command": command, "context": c.context(), "arguments": {}})

    def completion(self, c: Connection, name: str | None = None) -> Frame:
        """A question for the ways to complete what follows a command."""
        command = self.some("commands") if name is None else name
        return c.request("command/complete", {"command": command, "context": c.context(), "partial": ""})

    def provider_call(self, c: Connection, name: str | None = None, *, stream: bool = False) -> Frame:
        """A completion by a provider's first model."""
        provider = self.some("providers") if name is None else name
        number = c.new_id()
        params = {
            "request_id": f"request-{number}",
            "provider": provider,
            "model": self._model(provider),
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": stream,
            "context": c.context(),
        }
        return c.request("provider/complete", params, rid=number)

    def _model(self, provider: str) -> str:
        models = self.named("providers").get(provider, {}).get("models")
        first = models[0] if isinstance(models, list) and models else None
        return first["id"] if isinstance(first, dict) and isinstance(first.get("id"), str) else "model"

    def oauth(self, c: Connection, name: str, *, refresh: bool) -> Frame:
        """A login, or its refresh."""
        params: Frame = {"provider": name, "context": c.context()}
        if refresh:
            params["refresh_token"] = "refresh-token"
        return c.request(f"provider/oauth_{'refresh' if refresh else 'login'}", params)

    def event(self, c: Connection, name: str, seq: int | None = None) -> Frame:
        """An event's notification."""
        params: Frame = {"event": name, "context": c.context("event"), "payload": _PAYLOADS.get(name, {})}
        if seq is not None:
            params["seq"] = seq
        return {"jsonrpc": "2.0", "method": "event", "params": params}

    def oauth_providers(self) -> list[str]:
        """The providers that one can log in to."""
        return [name for name, one in self.named("providers").items() if one.get("oauth") is True]

    def calls(self) -> list[tuple[str, Callable[[Connection], Frame]]]:
        """What asks once for each thing that it brings, with the thing's name."""
        tools, commands, providers = ([*self.named(family)][:MOST] for family in ("tools", "commands", "providers"))
        asks: list[tuple[str, Callable[..., Frame]]] = [
            *((name, self.tool_call) for name in tools),
            *((name, self.hook_call) for name in self.hooks),
            *((name, self.command_call) for name in commands),
            *((name, self.completion) for name in commands),
            *((name, self.provider_call) for name in providers),
            *((name, partial(self.provider_call, stream=True)) for name in providers),
            *((name, partial(self.oauth, refresh=False)) for name in self.oauth_providers()),
            *((name, partial(self.oauth, refresh=True)) for name in self.oauth_providers()),
        ]
        return [(name, partial(ask, name=name)) for name, ask in asks]


def _failed(answer: Frame | None) -> bool:
    result = answer.get("result") if answer is not None else None
    return isinstance(result, dict) and result.get("is_error") is True


async def find_fence(c: Connection) -> None:
    """Find out what it can be asked, to know that it has read all that was sent before."""
    kinds: tuple[Literal["ping", "unknown"], ...] = ("ping", "unknown")
    for kind in kinds:
        frame = c.request("ping" if kind == "ping" else "conformance/unknown")
        with suppress(Violation):
            c.send(frame)
            await c.answer(frame)
            c.subject.fence = kind
            return
    c.subject.fence = None


async def survey(c: Connection, again: Callable[[], Awaitable[Connection]]) -> None:
    """Ask once for everything that it brings; on new connections from ``again`` where one breaks."""
    subject = c.subject
    # So that the traffic has an error in it, and a letter beyond ASCII, whatever is checked besides.
    with suppress(Violation):
        await c.answer(c.sent(c.request("conformance/unknown", rid="survey é")))
    for name, ask in subject.calls():
        frame, answer, trouble, late = ask(c), None, "", False
        try:
            if c.over:
                await c.aclose()
                c = await again()
                frame = ask(c)
            began, mark = c.now(), len(c.log)
            c.send(frame)
            answer = await c.answer(frame, c.patience.call)
            subject.longest = max(subject.longest, c.now() - began)
        except Violation as violation:
            trouble, late = violation.came or "", not c.over
            c.doom()
        asks = any(not x.sent and x.method is not None and "id" in x.frame for x in c.log[mark:])
        updates = len(c.told("tool/update", call_id=frame["params"].get("call_id", "")))
        subject.asked.append(Asked(frame["method"], name, frame, answer, trouble, late, asks, updates))
        if answer is None:
            continue
        if asks:
            kind = Kind.ASKING
        elif c.told("provider/delta", request_id=frame["params"].get("request_id", "")):
            kind = Kind.STREAMING
        elif c.now() - began >= _SLOW:
            kind = Kind.SLOW
        else:
            continue
        if not any((one.method, one.kind) == (frame["method"], kind) for one in subject.catches):
            subject.catches.append(Catch(frame["method"], kind, name, ask))


# ------------------------------------------------------------------------------------- what several topics ask for
_RESULTS: Final = messages.RESULTS


def judge(method: str, answer: Frame, *, registered: bool = True) -> None:
    """Judge an answer to a request that makes sense: its result fits, or it is an error that a handler can have.

    Raises:
        Violation: Neither.
    """
    if "result" in answer:
        fitting(answer["result"], _RESULTS[method], f"a result of {method}")
    elif registered and error_code(answer) == -32601:
        raise Violation(f"an answer of {method}, which it has registered something for, and not -32601")


def error_code(answer: Frame) -> Any:
    """The code of an error; None where it is none."""
    found = answer.get("error")
    return found.get("code") if isinstance(found, dict) else None


def refuses(answer: Frame, *codes: int) -> bool:
    """Whether it is an error with one of these codes; or one without any, which is another requirement's matter."""
    code = error_code(answer)
    return "result" not in answer and "error" in answer and (type(code) is not int or code in codes)


def expect_error(answer: Frame, *codes: int) -> None:
    """Expect an error with one of these codes.

    Raises:
        Violation: It is another one, or none.
    """
    if not refuses(answer, *codes):
        wanted = " or ".join(map(str, codes))
        raise Violation(f"an error with the code {wanted}", " ".join(shown([written(answer)])))


def expect_once(c: Connection, frame: Frame) -> Frame:
    """Expect that a request has exactly one answer by now; the answer.

    Raises:
        Violation: It has none, or more.
    """
    answers = c.answers(frame["id"])
    if len(answers) != 1:
        raise Violation(f"exactly one answer to {frame['method']} {frame['id']!r}", f"{len(answers) or 'none'} came")
    return answers[0]
