"""How results look on SEP's wire: what handlers returned, as the results of its methods. Pure functions.

Source: docs/protocol.md, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sepkit.errors import EncodeError, sayable
from sepkit.results import Block, ToolResult, rich
from sepkit.wire import messages
from sepkit.wire.frames import dumps
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from sepkit.content import Part
TEXT: Final = b'{"content":%b}'
"""What a tool's ASCII text comes to, in JSON."""


def tool_result(value: object) -> dict[str, Any]:
    """The result of ``tool/execute`` for what a tool returned.

    A str is the content, None the empty content; of anything else that has a form in JSON (see ``to_json``), the JSON
    text is the content and the data itself the details. An image or the like is a placeholder in the content, and
    ``{"content": [its block]}`` in the details, as far as hosts take that (see ``content.shown``).

    Raises:
        EncodeError: It has no form in JSON.
    """
    if type(value) is str:
        return {"content": value if value.isascii() else _sendable(value)}  # most results: saves a call
    if value is None:
        return {"content": ""}
    if isinstance(value, ToolResult):
        result: dict[str, Any] = {"content": _sendable(value.content)}
        if value.is_error:
            result["is_error"] = True
        if value.details is not None:
            result["details"] = to_json(value.details, "$.details")
        return result
    try:
        details = to_json(value)
    except EncodeError:
        parts = rich(value)  # no part has a form in JSON, so that data does not pay for them
        if parts is None:
            raise
        return _rich_result(parts)
    if type(details) is str:  # an Enum, a date, a path …
        return {"content": details}
    return {"content": dumps(details).decode(), "details": details}


def _rich_result(parts: list[Part]) -> dict[str, Any]:
    from sepkit.content import shown

    text, details = shown(parts)
    return {"content": text} if details is None else {"content": text, "details": details}


def tool_failure(text: str, details: object = None) -> dict[str, Any]:
    """The result of a call that failed in a way that the model can learn from."""
    result: dict[str, Any] = {"content": sayable(text), "is_error": True}
    if details is not None:
        result["details"] = details
    return result


def command_result(value: object) -> dict[str, Any]:
    """The result of ``command/execute`` for what a command returned; it has no place for details.

    Raises:
        EncodeError: It has no form in JSON.
    """
    if value is None:
        return {}
    return {"content": tool_result(value)["content"]}


def completions_result(values: object) -> dict[str, Any]:
    """The result of ``command/complete``: strings and ``Completion`` records, in order.

    Raises:
        EncodeError: It is something else.
    """
    if values is None:
        values = ()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise EncodeError(
            "$", f"a completion handler returns a list of strings or Completions, not {type(values).__name__}"
        )
    found = []
    for index, value in enumerate(values):
        if isinstance(value, str):
            found.append({"value": _sendable(value, f"$[{index}]")})
        elif isinstance(value, messages.Completion):
            found.append(_completion(value, f"$[{index}]"))
        else:
            raise EncodeError(f"$[{index}]", f"a completion is a string or a Completion, not {type(value).__name__}")
    return {"completions": found}


def _completion(value: messages.Completion, path: str) -> dict[str, str]:
    parts = {name: part for name, part in vars(value).items() if part is not None or name == "value"}
    for name, part in parts.items():
        if not isinstance(part, str):
            raise EncodeError(f"{path}.{name}", f"a completion's {name} is a string, not {type(part).__name__}")
        _sendable(part, f"{path}.{name}")
    return parts


def hook_result(outcome: Block | dict[str, Any] | None) -> dict[str, Any]:
    """The outcome of ``hook``: a Block, the whole new input, or None where nothing changes.

    Source: docs/protocol.md, section 6.
    """
    if outcome is None:
        return {"action": "continue"}
    if isinstance(outcome, Block):
        return {"action": "block", "reason": sayable(outcome.reason)} if outcome.reason else {"action": "block"}
    return {"action": "modify", "patch": outcome}


def _sendable(text: str, path: str = "$.content") -> str:
    # isascii() is a flag of the string, so most results cost nothing here.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(path, f"a lone surrogate at index {error.start} of the text") from None
    return text
