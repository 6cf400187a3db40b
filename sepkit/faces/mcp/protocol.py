"""MCP's words: revisions, keys of ``_meta``, codes of errors. And what a client says of itself, with each request.

*Legacy* are the four revisions with a handshake; *modern* is the one without, whose requests say all of it themselves.

Source: docs/mcp.md, "Two eras".
"""

from __future__ import annotations

from typing import Any, Final

from sepkit.errors import InvalidParams, RpcError
from sepkit.peer import Cancelling

LEGACY: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""The revisions with a handshake, oldest first."""
NEWEST_LEGACY: Final = LEGACY[-1]
BATCHING: Final = "2025-03-26"
"""The only revision in which a line may hold an array."""
MODERN: Final = "2026-07-28"
STRUCTURED: Final = frozenset({"2025-06-18", "2025-11-25", MODERN})
"""The revisions with structured results, and forms."""
PAGES: Final = frozenset({"2025-11-25", MODERN})
"""The revisions in which a client may be asked to open a page."""
SINCE: Final = {"annotations": "2025-03-26", "title": "2025-06-18", "outputSchema": "2025-06-18", "icons": "2025-11-25"}
"""Members of what is listed, and the first revision that knows them."""
BLOCKS_SINCE: Final = {"audio": "2025-03-26", "resource_link": "2025-06-18"}
"""Types of content, and the first revision that knows them; all revisions know the others."""

_PREFIX: Final = "io.modelcontextprotocol/"
VERSION: Final = _PREFIX + "protocolVersion"
CAPABILITIES: Final = _PREFIX + "clientCapabilities"
CLIENT: Final = _PREFIX + "clientInfo"
LOG_LEVEL: Final = _PREFIX + "logLevel"
SERVER: Final = _PREFIX + "serverInfo"
SUBSCRIPTION: Final = _PREFIX + "subscriptionId"
DETAILS: Final = "sepkit/details"

UNSUPPORTED_VERSION: Final = -32022
RESOURCE_NOT_FOUND: Final = -32002

CANCELLING: Final = Cancelling(
    "notifications/cancelled", "requestId", answered=False, spared=frozenset({"initialize", "server/discover"})
)

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Client:
    """What a client has said of itself: in its handshake, or in a modern request.

    Attributes:
        version: The revision that is spoken.
        is_modern: Whether that is the one without a handshake.
        capabilities: What the client can do.
        info: Its name and version; empty where it did not say.
        shows_forms: Whether it can ask its user with a form.
        opens_pages: Whether it can ask its user to open a page.
    """

    __slots__ = ("capabilities", "info", "is_modern", "opens_pages", "shows_forms", "version")

    def __init__(self, version: str, capabilities: dict[str, Any], info: dict[str, Any]) -> None:
        self.version = version
        self.is_modern = version == MODERN
        self.capabilities = capabilities
        self.info = info
        elicitation = capabilities.get("elicitation")
        self.shows_forms = (
            type(elicitation) is dict and (not elicitation or "form" in elicitation) and version in STRUCTURED
        )
        self.opens_pages = type(elicitation) is dict and "url" in elicitation and version in PAGES


def greeted(params: dict[str, Any]) -> Client:
    """The client of an ``initialize``, in the revision that is spoken from now on.

    Raises:
        InvalidParams: The params do not fit.
    """
    asked = need(params, "protocolVersion", str)
    capabilities = need(params, "capabilities", dict)
    info = _implementation(need(params, "clientInfo", dict), "clientInfo")
    return Client(asked if asked in LEGACY else NEWEST_LEGACY, capabilities, info)


def modern_client(meta: dict[str, Any]) -> Client:
    """The client of a request whose ``_meta`` names a revision.

    Raises:
        InvalidParams: What it says of itself does not fit.
        RpcError: -32022, another revision.
    """
    version = need(meta, VERSION, str, "_meta.")
    if version != MODERN:
        raise RpcError(
            f"this server speaks {MODERN} without a handshake, and {', '.join(LEGACY)} after initialize",
            data={"supported": [MODERN], "requested": version},
            code=UNSUPPORTED_VERSION,
        )
    capabilities = need(meta, CAPABILITIES, dict, "_meta.")
    info = meta.get(CLIENT)
    return Client(version, capabilities, {} if info is None else _implementation(info, f"_meta.{CLIENT}"))


def _implementation(info: object, where: str) -> dict[str, Any]:
    if type(info) is not dict or type(info.get("name")) is not str or type(info.get("version")) is not str:
        raise InvalidParams(f"{where}: expected an object with name and version, both strings")
    return info


_WORDS: Final = {str: "a string", dict: "an object", list: "an array", int: "an integer", bool: "true or false"}


def need(params: dict[str, Any], name: str, kind: type, where: str = "") -> Any:
    """A member that must be there.

    Raises:
        InvalidParams: It is not, or of another type.
    """
    value = params.get(name)
    if type(value) is not kind:
        raise InvalidParams(f"{where}{name}: expected {_WORDS[kind]}, got {_said(value)}")
    return value


def may(params: dict[str, Any], name: str, kind: type, where: str = "") -> Any:
    """A member that may be missing; null is absent.

    Raises:
        InvalidParams: It is of another type.
    """
    return None if params.get(name) is None else need(params, name, kind, where)


def _said(value: object) -> str:
    if value is None:
        return "nothing"
    return _WORDS.get(type(value), "a number")


def meta_of(params: dict[str, Any]) -> dict[str, Any]:
    """A request's ``_meta``; empty where it has none.

    Raises:
        InvalidParams: It is not an object.
    """
    meta = params.get("_meta")
    if type(meta) is dict:
        return meta
    if meta is None:
        return {}
    raise InvalidParams(f"_meta: expected an object, got {_said(meta)}")


def progress_token(meta: dict[str, Any]) -> str | int | None:
    """The token under which a request wants to be told of progress.

    Raises:
        InvalidParams: It is neither a string nor an integer.
    """
    token = meta.get("progressToken")
    if token is None or type(token) is str or type(token) is int:
        return token
    raise InvalidParams(f"_meta.progressToken: expected a string or an integer, got {_said(token)}")


def level_of(found: object, where: str) -> str:
    """A level of the log.

    Raises:
        InvalidParams: It is none of MCP's.
    """
    if isinstance(found, str) and found in LEVELS:
        return found
    raise InvalidParams(f"{where}: expected one of {', '.join(LEVELS)}")
