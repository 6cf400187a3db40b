"""The frames that the checks send, made for what the extension has. Making them sends nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

from sepkit import __version__
from sepkit.conformance.arguments import arguments_for
from sepkit.conformance.host import PlainHost
from sepkit.conformance.lines import Frame
from sepkit.conformance.subject import Fence, Subject, Target
from sepkit.errors import sayable_path
from sepkit.wire import methods

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


def notification(method: str, params: object = None) -> Frame:
    """A notification, without params where None are given."""
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}


def cancel(rid: object) -> Frame:
    """The notification that cancels a request."""
    return notification(methods.CANCEL, {"id": rid})


def initialize_params(**changes: object) -> Frame:
    """The params of ``initialize`` from a host with an example of everything."""
    return {
        "protocol_version": 1,
        "host": {"name": "sepkit-conformance", "version": __version__},
        "workspace": {"root": sayable_path(Path.cwd()), "trusted": True},
        "session": {"id": "conformance"},
        "mode": "tui",
        "ui_capabilities": ["select", "confirm", "input", "notify", "set_status", "set_widget", "set_title"],
        "flags": {},
        "capabilities_enabled": {"exec": False},
        **changes,
    }


class Calls:
    """The requests and events of one connection.

    Without a name, a call is made of a thing that is likely to answer with a result; if there is none of the kind, that
    raises ``NotApplicable``.

    Args:
        subject: What the extension has.
        host: Gives the contexts.
    """

    def __init__(self, subject: Subject, host: PlainHost) -> None:
        self._subject = subject
        self._host = host
        self._numbers = itertools.count(1001)

    def request(self, method: str, params: object = None, *, rid: object = None, **more: object) -> Frame:
        """A request, by default with a new id and empty params."""
        number = next(self._numbers) if rid is None else rid
        return {"jsonrpc": "2.0", "id": number, "method": method, "params": {} if params is None else params, **more}

    def fence(self, rid: object = None) -> Frame:
        """A request that is answered without any work: its answer tells that all before it has been read."""
        return self.request((self._subject.fence or Fence.PING).value, rid=rid)

    def initialize(self, **changes: object) -> Frame:
        """The handshake."""
        return self.request(methods.INITIALIZE, initialize_params(**changes))

    def tool(self, name: str | None = None, **changes: object) -> Frame:
        """A call of a tool."""
        tool = self._subject.some("tools") if name is None else name
        number = next(self._numbers)
        arguments = self._subject.given.get(tool)
        if arguments is None:
            arguments = arguments_for(self._subject.named("tools").get(tool, {}).get("parameters"))
        params = {"call_id": f"call-{number}", "tool": tool, "arguments": arguments, "context": self._host.context()}
        return self.request(methods.TOOL_EXECUTE, {**params, **changes}, rid=number)

    def hook(self, name: str | None = None, **more: object) -> Frame:
        """A hook, with an input as hosts send it and ``more``."""
        hook = self._subject.some("hooks") if name is None else name
        value = {**_HOOK_INPUTS.get(hook, {}), **more}
        return self.request(methods.HOOK, {"hook": hook, "context": self._host.context(), "input": value})

    def command(self, name: str | None = None) -> Frame:
        """A command without arguments."""
        command = self._subject.some("commands") if name is None else name
        params = {"command": command, "context": self._host.context(), "arguments": {}}
        return self.request(methods.COMMAND_EXECUTE, params)

    def completion(self, name: str | None = None) -> Frame:
        """The completion of a command's arguments."""
        command = self._subject.some("commands") if name is None else name
        params = {"command": command, "context": self._host.context(), "partial": ""}
        return self.request(methods.COMMAND_COMPLETE, params)

    def provider(self, name: str | None = None, *, stream: bool = False) -> Frame:
        """A completion by a provider's first model."""
        provider = self._subject.some("providers") if name is None else name
        number = next(self._numbers)
        params = {
            "request_id": f"request-{number}",
            "provider": provider,
            "model": self._subject.model(provider),
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": stream,
            "context": self._host.context(),
        }
        return self.request(methods.PROVIDER_COMPLETE, params, rid=number)

    def event(self, name: str, seq: int | None = None) -> Frame:
        """An event."""
        params: Frame = {"event": name, "context": self._host.context("event"), "payload": _PAYLOADS.get(name, {})}
        if seq is not None:
            params["seq"] = seq
        return notification(methods.EVENT, params)

    def of(self, target: Target) -> Frame:
        """The call of a target."""
        match target.method:
            case methods.TOOL_EXECUTE:
                return self.tool(target.name)
            case methods.HOOK:
                return self.hook(target.name)
            case methods.COMMAND_EXECUTE:
                return self.command(target.name)
            case methods.COMMAND_COMPLETE:
                return self.completion(target.name)
            case methods.PROVIDER_COMPLETE:
                return self.provider(target.name, stream=target.stream)
        # A login or its refresh.
        params: Frame = {"provider": target.name, "context": self._host.context()}
        if target.method == methods.PROVIDER_OAUTH_REFRESH:
            params["refresh_token"] = "refresh-token"
        return self.request(target.method, params)
