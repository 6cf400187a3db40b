"""How results look to an MCP client: what handlers returned, in the shape of either era. Pure functions.

A tool's result goes two steps: what the tool returned becomes an :class:`Outcome`, which the ``tool_result`` hooks may
change, and the :class:`Shape` of the client's revision makes the result of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from sepkit.errors import EncodeError, sayable
from sepkit.faces.mcp.protocol import BLOCKS_SINCE, DETAILS, MODERN, SERVER, STRUCTURED, Client
from sepkit.results import ToolResult, rich
from sepkit.serving.calls import Unsendable
from sepkit.wire.frames import dumps
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sepkit.content import Part, PromptMessage


class Outcome:
    """What a tool's call came to, before it has the shape of a revision.

    Attributes:
        text: The content, for the model.
        is_error: Whether the call failed.
        details: Beside it: plain JSON data, or None.
        is_data: Whether ``details`` are the structured content. ``text`` is their JSON text, or what the tool wrote.
        parts: The content where there is more than text, each with its block; ``text`` and ``details`` then are what
            hooks know of it.
    """

    __slots__ = ("details", "is_data", "is_error", "parts", "text")

    def __init__(
        self,
        text: str,
        *,
        is_error: bool = False,
        details: Any = None,
        is_data: bool = False,
        parts: Sequence[tuple[Part, dict[str, Any]]] | None = None,
    ) -> None:
        self.text = text
        self.is_error = is_error
        self.details = details
        self.is_data = is_data
        self.parts = parts

    def as_hook_input(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the ``tool_result`` hooks are given."""
        if self.parts is not None:
            from sepkit.content import shown  # it is there: a part is of one of its classes

            self.text, self.details = shown([part for part, _ in self.parts])
        return {
            "tool": tool,
            "arguments": arguments,
            "content": self.text,
            "is_error": self.is_error,
            "details": self.details,
        }

    def changed(self, value: Mapping[str, Any]) -> Outcome:
        """What the hooks made of it.

        Structured content, images and the like stay only where nothing was changed, or where data says the same as the
        text: what a hook has taken out of one of them must not reach the model by the other.
        """
        text, details, is_error = value["content"], value.get("details"), bool(value.get("is_error"))
        is_same = text == self.text and details == self.details
        if self.parts is not None:
            if is_same:
                return Outcome(text, is_error=is_error, parts=self.parts)
            return Outcome(text, is_error=is_error, details=None if details == self.details else details)
        if not self.is_data:
            return Outcome(text, is_error=is_error, details=details)
        stays = is_same or _parsed(text) == details
        return Outcome(text, is_error=is_error, details=details if stays else None, is_data=stays)


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
        try:
            data = to_json(value)
        except EncodeError:
            parts = rich(value)  # no part has a form in JSON, so that data does not pay for them
            if parts is None:
                raise
            return Outcome("", parts=_with_blocks(parts))
        if type(data) is str:  # an Enum, a date, a path …
            return Outcome(data)
        return Outcome(dumps(data).decode(), details=data, is_data=True)
    except EncodeError as error:
        raise Unsendable(value, error) from None


def promised_outcome(value: object) -> Outcome:
    """The same of a tool with an output schema: what a ``ToolResult`` has beside its text fits that.

    Raises:
        Unsendable: It has no form in JSON.
    """
    found = outcome(value)
    found.is_data = not found.is_error
    return found


def command_outcome(value: object) -> Outcome:
    """The same of a command that is exposed as a tool. A render block's ``text`` is its content.

    Raises:
        Unsendable: It has no form in JSON.
    """
    if isinstance(value, dict) and isinstance(value.get("kind"), str) and isinstance(value.get("text"), str):
        return outcome(value["text"])
    return outcome(value)


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
        self._version = version
        self._is_modern = version == MODERN
        self._is_structured = version in STRUCTURED
        self._about = {SERVER: server}

    def tool(self, found: Outcome) -> dict[str, Any]:
        """The result of ``tools/call``."""
        meta: dict[str, Any] = {}
        if found.parts is not None:  # what hooks know of it are no details of the tool
            result: dict[str, Any] = {"content": self._blocks(found.parts)}
        else:
            result = {"content": [text_block(found.text)] if found.text else []}
        if found.is_data:
            if self._is_structured and type(found.details) is dict:
                result["structuredContent"] = found.details
        elif found.details is not None and found.parts is None:
            meta[DETAILS] = found.details
        if found.is_error:
            result["isError"] = True
        if self._is_modern:
            result["resultType"] = "complete"
            meta.update(self._about)
        if meta:
            result["_meta"] = meta
        return result

    def _blocks(self, parts: Sequence[tuple[Part, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The blocks of content that is more than text; a text in place of what the revision does not know."""
        from sepkit.content import placeholder

        return [
            block
            if isinstance(part, str) or BLOCKS_SINCE.get(block["type"], self._version) <= self._version
            else text_block(placeholder(part))
            for part, block in parts
        ]

    def messages(self, found: Sequence[PromptMessage]) -> list[dict[str, Any]]:
        """The messages of a prompt.

        Raises:
            EncodeError: A text has a lone surrogate.
        """
        blocks = self._blocks(_with_blocks([one.content for one in found]))
        return [{"role": one.role, "content": block} for one, block in zip(found, blocks, strict=True)]

    def promised(self, value: object) -> dict[str, Any]:
        """The result of a call of a tool with an output schema.

        Raises:
            Unsendable: It has no form in JSON.
        """
        return self.tool(promised_outcome(value))

    def returned(self, value: object) -> dict[str, Any]:
        """The result of a tool's call that returned ``value``.

        Raises:
            Unsendable: It has no form in JSON.
        """
        return self.tool(outcome(value))

    def failed(self, text: str, details: object = None) -> dict[str, Any]:
        """The result of a tool's call that failed in a way that the model can learn from."""
        return self.tool(failure(text, details))

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


def _with_blocks(parts: Sequence[Part]) -> list[tuple[Part, dict[str, Any]]]:
    from sepkit.content import blocks_of

    return list(zip(parts, blocks_of(parts), strict=True))


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
