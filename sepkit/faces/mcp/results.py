"""How results look to an MCP client: what handlers returned, in the shape of either era. Pure functions.

A tool's result goes two steps: what the tool returned becomes an :class:`Outcome`, which the ``tool_result`` hooks may
change, and the :class:`Shape` of the client's revision makes the result of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from sepkit.errors import EncodeError, sayable
from sepkit.faces.mcp.protocol import DETAILS, MODERN, SERVER, STRUCTURED, Client
from sepkit.results import ToolResult, rich
from sepkit.serving.calls import Unsendable
from sepkit.wire.frames import dumps
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from sepkit.content import PromptMessage


_BLOCKS = frozenset({"text", "image", "audio", "resource", "resource_link"})


class Outcome:
    """What a tool's call came to, before it has the shape of a revision.

    Attributes:
        text: The content, for the model.
        is_error: Whether the call failed.
        details: Beside it: plain JSON data, or None.
        is_data: Whether ``text`` is the JSON text of ``details``, which then is the structured content.
        blocks: The content where it is more than a text, such as an image; ``text`` stands for it then.
    """

    __slots__ = ("blocks", "details", "is_data", "is_error", "text")

    def __init__(
        self,
        text: str,
        *,
        is_error: bool = False,
        details: Any = None,
        is_data: bool = False,
        blocks: list[dict[str, Any]] | None = None,
    ) -> None:
        self.text = text
        self.blocks = blocks
        self.is_error = is_error
        self.details = details
        self.is_data = is_data

    def as_hook_input(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the ``tool_result`` hooks are given."""
        return {
            "tool": tool,
            "arguments": arguments,
            "content": self.text,
            "is_error": self.is_error,
            "details": self.details,
        }

    def changed(self, value: Mapping[str, Any]) -> Outcome:
        """What the hooks made of it.

        Structured content stays only where it says the same as the text: what a hook has taken out of one of them must
        not reach the model by the other.
        """
        text, details = value["content"], value.get("details")
        if not self.is_data:
            blocks = self.blocks if text == self.text else None
            return Outcome(text, is_error=bool(value.get("is_error")), details=details, blocks=blocks)
        says_the_same = _parsed(text) == details
        return Outcome(
            text,
            is_error=bool(value.get("is_error")),
            details=details if says_the_same else None,
            is_data=says_the_same,
        )


def outcome(value: object) -> Outcome:
    """What a tool's call that returned ``value`` came to.

    Raises:
        Unsendable: It has no form in JSON.
    """
    try:
        if type(value) is str:
            return Outcome(_sendable(value))
        if value is None:
            return Outcome("")
        if isinstance(value, ToolResult):
            details = None if value.details is None else to_json(value.details, "$.details")
            return Outcome(_sendable(value.content), is_error=value.is_error, details=details)
        if (parts := rich(value)) is not None:
            from sepkit.content import blocks_of, shown

            return Outcome(shown(parts)[0], blocks=blocks_of(parts))
        data = to_json(value)
        if type(data) is str:  # an Enum, a date, a path …
            return Outcome(data)
        return Outcome(dumps(data).decode(), details=data, is_data=True)
    except EncodeError as error:
        raise Unsendable(value, error) from None


def failure(text: str, details: object = None) -> Outcome:
    """What a call came to that failed in a way that the model can learn from."""
    return Outcome(sayable(text), is_error=True, details=details)


class Shape:
    """How results look to the clients of one revision.

    Args:
        version: The revision.
        server: The name and version of this server.
    """

    def __init__(self, version: str, server: dict[str, Any]) -> None:
        self._is_modern = version == MODERN
        self._is_structured = version in STRUCTURED
        self._knows = _BLOCKS if version in STRUCTURED else _BLOCKS - {"resource_link"}
        if version == "2024-11-05":
            self._knows -= {"audio"}
        self._about = {SERVER: server}

    def tool(self, found: Outcome) -> dict[str, Any]:
        """The result of ``tools/call``."""
        result: dict[str, Any] = {"content": [text_block(found.text)] if found.text else []}
        if found.blocks is not None:
            result["content"] = [self._block(block) for block in found.blocks]
        meta: dict[str, Any] = {}
        if found.is_data:
            if self._is_structured and type(found.details) is dict:
                result["structuredContent"] = found.details
        elif found.details is not None:
            meta[DETAILS] = found.details
        if found.is_error:
            result["isError"] = True
        if self._is_modern:
            result["resultType"] = "complete"
            meta.update(self._about)
        if meta:
            result["_meta"] = meta
        return result

    def _block(self, block: dict[str, Any]) -> dict[str, Any]:
        """A block of content, or a text in its place where the revision has no such block."""
        if block["type"] in self._knows:
            return block
        told = f"{block['name']}: {block['uri']}" if "uri" in block else f"({block['type']}, {block['mimeType']})"
        return text_block(told)

    def returned(self, value: object) -> dict[str, Any]:
        """The result of a tool's call that returned ``value``.

        Raises:
            Unsendable: It has no form in JSON.
        """
        return self.tool(outcome(value))

    def failed(self, text: str, details: object = None) -> dict[str, Any]:
        """The result of a tool's call that failed in a way that the model can learn from."""
        return self.tool(failure(text, details))

    def messages(self, found: list[PromptMessage]) -> list[dict[str, Any]]:
        """The messages of a prompt."""
        from sepkit.content import message_block

        return [{**one, "content": self._block(one["content"])} for one in map(message_block, found)]

    def plain(self, result: dict[str, Any]) -> dict[str, Any]:
        """Any other result."""
        if self._is_modern:
            result["resultType"] = "complete"
            result["_meta"] = dict(self._about)
        return result

    def cacheable(self, result: dict[str, Any]) -> dict[str, Any]:
        """A list, or what else a client may keep for a while."""
        if self._is_modern:
            # What is registered may change at any time, and `subscriptions/listen` tells of it.
            result["ttlMs"] = 0
            result["cacheScope"] = "private"
        return self.plain(result)

    def input_required(self, requests: dict[str, Any], state: str) -> dict[str, Any]:
        """The result that asks the client's user something."""
        return {
            "resultType": "input_required",
            "inputRequests": requests,
            "requestState": state,
            "_meta": dict(self._about),
        }


class Shapes:
    """The shape of each revision, made when its first client comes."""

    def __init__(self, server: dict[str, Any]) -> None:
        self._server = server
        self._made: dict[str, Shape] = {}

    def of(self, client: Client) -> Shape:
        """The shape for a client."""
        found = self._made.get(client.version)
        if found is None:
            found = self._made[client.version] = Shape(client.version, self._server)
        return found


def text_block(text: str) -> dict[str, Any]:
    """A block of content that is text."""
    return {"type": "text", "text": text}


def prompt_text(value: object) -> str:
    """The text of a prompt: what a command returned. A render block's ``text`` is its content.

    Raises:
        EncodeError: It has no form in JSON.
    """
    if isinstance(value, Mapping) and isinstance(value.get("kind"), str) and isinstance(value.get("text"), str):
        return _sendable(value["text"])
    try:
        return outcome(value).text
    except Unsendable as error:
        raise EncodeError("$", str(error)) from None


def _sendable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodeError("$.content", f"a lone surrogate at index {error.start} of the text") from None
    return text


def _parsed(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _NOTHING


_NOTHING: object = object()
