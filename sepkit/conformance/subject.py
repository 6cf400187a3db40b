"""What is known of the extension: what it registers, how each thing in it answered, and how quick it is.

Data only. The survey fills it in; the calls are made elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal

from attrs import define, field, frozen

from sepkit.conformance.lines import Frame
from sepkit.conformance.violations import NotApplicable
from sepkit.wire import methods

MOST: Final = 32
"""How many tools, commands and providers are called, of each."""
SLOW: Final = 0.25
"""Seconds; a call that takes as long can be caught in flight."""
_METHODS: Final = {
    "tools": methods.TOOL_EXECUTE,
    "hooks": methods.HOOK,
    "commands": methods.COMMAND_EXECUTE,
    "providers": methods.PROVIDER_COMPLETE,
}


class Fence(Enum):
    """The method of a request that is answered without any work."""

    PING = "ping"
    UNKNOWN = "conformance/unknown"


class Kind(Enum):
    """How a call can be caught in flight."""

    ASKING = "it asks the host for something, which can be held back"
    SLOW = "it takes its time"
    STREAMING = "it tells of what it has so far"


@frozen
class Target:
    """Something that can be called: a registered name and the method; for a completion, also whether it is streamed."""

    method: str
    name: str
    stream: bool = False


@frozen
class Catch:
    """A target whose calls can be caught in flight."""

    target: Target
    kind: Kind


@frozen
class Asked:
    """A request of the survey and its answer.

    The answer is None if none came in time; ``trouble`` says why, ``suspects`` are the requirements that this may be
    about, as in a ``Violation``, and ``late`` is whether it may still come. ``asks`` is whether it asked the host for
    something, ``updates`` how often it reported its progress.
    """

    target: Target
    request: Frame
    answer: Frame | None
    trouble: str
    suspects: tuple[str, ...]
    late: bool
    asks: bool
    updates: int

    @property
    def sent(self) -> bytes:
        """The line of the request, for the report."""
        return json.dumps(self.request).encode()

    @property
    def done(self) -> bool:
        """Whether it was answered with a result."""
        return self.answer is not None and "result" in self.answer

    @property
    def failed(self) -> bool:
        """Whether it was answered with a result that is an error."""
        result = self.answer.get("result") if self.answer is not None else None
        return isinstance(result, dict) and result.get("is_error") is True


@define
class Subject:
    """What is known of the extension.

    ``greeting`` is the answer to ``initialize``, ``given`` are the user's arguments for tools. ``fence`` is None if it
    answers neither request. ``catches`` has one entry of each method and kind. ``longest`` is how many seconds the
    slowest answer of the survey took.
    """

    greeting: Frame
    given: Mapping[str, Frame] = field(factory=dict)
    fence: Fence | None = Fence.PING
    asked: list[Asked] = field(factory=list)
    catches: list[Catch] = field(factory=list)
    longest: float = 0.0

    def is_silent(self, method: str) -> bool:
        """Whether the survey had no answer to any call of this method, so that a requirement fails in any case."""
        asked = [one for one in self.asked if one.target.method == method]
        return bool(asked) and all(one.answer is None for one in asked)

    @property
    def asking(self) -> str | None:
        """A tool that asks the host for something; None if there is none."""
        return self._caught(Kind.ASKING)

    @property
    def slow(self) -> str | None:
        """A tool that takes its time; None if there is none."""
        return self._caught(Kind.SLOW)

    def _caught(self, kind: Kind) -> str | None:
        tools = (x.target.name for x in self.catches if x.target.method == methods.TOOL_EXECUTE and x.kind is kind)
        return next(tools, None)

    @property
    def registrations(self) -> Frame:
        """All registrations, as they came; none if they are not an object."""
        result = self.greeting.get("result")
        found = result.get("registrations") if isinstance(result, dict) else None
        return found if isinstance(found, dict) else {}

    def named(self, family: str, name: str = "name") -> dict[str, Frame]:
        """The registrations of a family by their names, without those that have none."""
        found = self.registrations.get(family)
        every = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return {one[name]: one for one in every if isinstance(one.get(name), str)}

    def names(self, family: Literal["hooks", "subscriptions", "flags"]) -> list[str]:
        """The registrations of a family that consists of names."""
        found = self.registrations.get(family)
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    @property
    def hooks(self) -> list[str]:
        """The hooks that can be sent."""
        return [name for name in self.names("hooks") if name in methods.HOOKS]

    def some(self, family: str) -> str:
        """A name to call: the first of those that the survey had a result from, or any.

        Raises:
            NotApplicable: It registers none.
        """
        every = self.hooks if family == "hooks" else list(self.named(family))
        if not every:
            raise NotApplicable(f"it registers no {family}")
        method = _METHODS[family]
        liked = list(self.given) if family == "tools" else []
        fine = [one.target.name for one in self.asked if one.target.method == method and one.done and not one.failed]
        quick = [name for name in fine if name not in (self.slow, self.asking)]
        return next(name for name in [*liked, *quick, *fine, *every] if name in every)

    def oauth_providers(self) -> list[str]:
        """The providers that have a login."""
        return [name for name, one in self.named("providers").items() if one.get("oauth") is True]

    def model(self, provider: str) -> str:
        """The first model of a provider."""
        models = self.named("providers").get(provider, {}).get("models")
        first = models[0] if isinstance(models, list) and models else None
        return first["id"] if isinstance(first, dict) and isinstance(first.get("id"), str) else "model"

    def targets(self) -> list[Target]:
        """Everything that can be called, each once."""
        tools, commands, providers = ([*self.named(family)][:MOST] for family in ("tools", "commands", "providers"))
        logins = self.oauth_providers()
        return [
            *(Target(methods.TOOL_EXECUTE, name) for name in tools),
            *(Target(methods.HOOK, name) for name in self.hooks),
            *(Target(methods.COMMAND_EXECUTE, name) for name in commands),
            *(Target(methods.COMMAND_COMPLETE, name) for name in commands),
            *(Target(methods.PROVIDER_COMPLETE, name) for name in providers),
            *(Target(methods.PROVIDER_COMPLETE, name, stream=True) for name in providers),
            *(Target(methods.PROVIDER_OAUTH_LOGIN, name) for name in logins),
            *(Target(methods.PROVIDER_OAUTH_REFRESH, name) for name in logins),
        ]
