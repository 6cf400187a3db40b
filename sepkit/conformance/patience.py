"""How long a check waits before something counts as not done. Numbers only; the waiting is done by the connection."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from sepkit.wire import methods

# What is answered by code of the extension's author.
_CALLS: Final = {
    methods.TOOL_EXECUTE,
    methods.HOOK,
    methods.COMMAND_EXECUTE,
    methods.COMMAND_COMPLETE,
    methods.PROVIDER_COMPLETE,
    methods.PROVIDER_OAUTH_LOGIN,
    methods.PROVIDER_OAUTH_REFRESH,
}
_LONG_CALLS: Final = {methods.TOOL_EXECUTE, methods.COMMAND_EXECUTE, methods.PROVIDER_COMPLETE}


@frozen
class Patience:
    """The time limits, in seconds; all of them are multiplied by ``factor``."""

    factor: float = 1.0

    @property
    def handshake(self) -> float:
        """For the response to ``initialize``. Source: docs/protocol.md, section 2."""
        return 10.0 * self.factor

    @property
    def end(self) -> float:
        """For the response to ``shutdown`` and for the exit. Source: docs/protocol.md, section 2."""
        return 5.0 * self.factor

    @property
    def answer(self) -> float:
        """For what runs no code of the extension's author: a ping, a refusal."""
        return 5.0 * self.factor

    @property
    def events(self) -> float:
        """For the handlers of many events."""
        return 60.0 * self.factor

    @property
    def moment(self) -> float:
        """For what nothing is concluded from if it does not come."""
        return 1.0 * self.factor

    @property
    def call(self) -> float:
        """For a tool, a hook, a command, a completion, unless it has taken longer before."""
        return 20.0 * self.factor

    def host(self, method: str) -> float:
        """How long the reference hosts wait for the response to a call. Source: docs/protocol.md, section 3."""
        return 120.0 * self.factor if method in _LONG_CALLS else self.call

    def of(self, method: str) -> float:
        """For the response to a request of this method."""
        if method == methods.INITIALIZE:
            return self.handshake
        if method == methods.SHUTDOWN:
            return self.end
        return self.call if method in _CALLS else self.answer
