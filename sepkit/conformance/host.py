"""What a plain host gives to an extension, and what it answers: a user who agrees, keys in memory, no programs to run.

Nothing is sent here; ``replies.py`` decides when an answer goes out.
"""

from __future__ import annotations

import itertools
from typing import Any

from sepkit.conformance.lines import Frame
from sepkit.errors import Code

Answer = dict[str, Any]
"""``{"result": …}`` or ``{"error": …}``."""
_tokens = itertools.count(1)


def error(code: int, message: str) -> Answer:
    """An error as an answer."""
    return {"error": {"code": int(code), "message": message}}


class PlainHost:
    """The host of one connection."""

    def __init__(self) -> None:
        self._acting: set[str] = set()  # the tokens of the contexts that allow acts; the rest of a context is opaque
        self._kept: dict[str, Any] = {}

    def context(self, tier: str = "command") -> Frame:
        """A new context. Its token is unique, also among connections."""
        token = f"token-{next(_tokens)}"
        if tier == "command":
            self._acting.add(token)
        return {"token": token, "tier": tier}

    def allows(self, given: object) -> bool:
        """Whether a context allows ``session/*`` and ``exec/run``: this host gave it, and its tier is ``command``."""
        token, tier = (given.get("token"), given.get("tier")) if isinstance(given, dict) else (None, None)
        return isinstance(token, str) and token in self._acting and tier == "command"

    def answer(self, method: str, params: Frame) -> Answer:
        """The answer to a request."""
        try:
            return self._answer(method, params)
        except (KeyError, TypeError, AttributeError):
            return error(Code.INVALID_PARAMS, f"the params of {method} do not fit")

    def _answer(self, method: str, params: Frame) -> Answer:
        family, _, verb = method.partition("/")
        if family in ("session", "exec") and not self.allows(params.get("context")):
            return error(Code.CONTEXT_VIOLATION, "this context was not given, or is of the event tier")
        if method == "exec/run":
            return error(Code.CAPABILITY_DISABLED, "this host runs no programs")
        if method in ("ping", "bus/publish") or family == "session":
            return {"result": {}}
        if method == "tools/set_active":
            return {"result": {"active": list(params["tools"])}}
        if method == "ui/request":
            return {"result": self._user(params)}
        if family == "kv":
            return self._keys(verb, params)
        return error(Code.METHOD_NOT_FOUND, f"there is no method {method!r}")

    def _user(self, params: Frame) -> Frame:
        kind = params["kind"]
        if kind == "select":
            return {"value": params["options"][0]} if params["options"] else {"cancelled": True}
        if kind == "confirm":
            return {"confirmed": True}
        if kind == "input":
            return {"text": params.get("default") or "text"}
        if kind in ("notify", "set_status", "set_widget", "set_title"):
            return {}
        raise KeyError(kind)

    def _keys(self, verb: str, params: Frame) -> Answer:
        if verb == "get":
            return {"result": {"value": self._kept.get(params["key"])}}
        if verb == "set":
            self._kept[params["key"]] = params["value"]
            return {"result": {}}
        if verb == "delete":
            self._kept.pop(params["key"], None)
            return {"result": {}}
        if verb == "list":
            prefix = params.get("prefix") or ""
            return {"result": {"keys": sorted(key for key in self._kept if key.startswith(prefix))}}
        return error(Code.METHOD_NOT_FOUND, f"there is no method kv/{verb}")
