"""What a plain host answers to an extension: a user who agrees, keys in memory, no programs to run.

Answers only; how they travel, and whether they are held back for a while, is the connection's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepkit.errors import Code

Answer = dict[str, Any]
"""``{"result": …}`` or ``{"error": …}``."""


def error(code: int, message: str) -> Answer:
    """An answer that refuses."""
    return {"error": {"code": int(code), "message": message}}


class PlainHost:
    """One host for one connection.

    Args:
        allows: Whether a context is one that this host gave, of the tier that acts.
    """

    def __init__(self, allows: Callable[[object], bool]) -> None:
        self._allows = allows
        self._kept: dict[str, Any] = {}

    def answer(self, method: str, params: dict[str, Any]) -> Answer:
        """The answer to a request."""
        try:
            return self._answer(method, params)
        except (KeyError, TypeError, AttributeError):
            return error(Code.INVALID_PARAMS, f"the params of {method} do not fit")

    def _answer(self, method: str, params: dict[str, Any]) -> Answer:
        family, _, verb = method.partition("/")
        if family in ("session", "exec") and not self._allows(params.get("context")):
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

    def _user(self, params: dict[str, Any]) -> dict[str, Any]:
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

    def _keys(self, verb: str, params: dict[str, Any]) -> Answer:
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
