"""What a handler returns, and how it goes on the wire. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import orjson
from attrs import field, frozen, validators

from sepkit.errors import EncodeError, InvalidData, sayable
from sepkit.wire import messages
from sepkit.wire.converter import structure, to_json
from sepkit.wire.frames import dumps


@frozen
class ToolResult:
    """A tool's result in full: ``content`` for the model, ``details`` for a user interface.

    Source: docs/protocol.md, section 3, ``tool/execute``.
    """

    content: str = field(validator=validators.instance_of(str))
    is_error: bool = field(default=False, validator=validators.instance_of(bool))
    details: Any = None


@frozen
class Block:
    """Returned by a hook: it must not happen. ``reason`` is shown to the model and to the user.

    Source: docs/protocol.md, section 6.
    """

    reason: str = field(default="", validator=validators.instance_of(str))


class Patch:
    """Returned by a hook: go on with these fields changed; the other fields stay as they came.

    Source: docs/protocol.md, section 6. (On the wire the whole new input goes out.)
    """

    __slots__ = ("fields",)

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __repr__(self) -> str:
        return f"Patch({', '.join(f'{name}={value!r}' for name, value in self.fields.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patch) and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]  # its fields may be lists and dicts


Decision = Block | Patch


def tool_result(value: object) -> dict[str, Any]:
    """The result of ``tool/execute`` for what a tool returned.

    A str is the content, None the empty content; of anything else that has a form in JSON (see ``to_json``), the JSON
    text is the content and the data itself the details.

    Raises:
        EncodeError: It has no form in JSON.
    """
    if type(value) is str:
        return {"content": _sendable(value)}
    if value is None:
        return {"content": ""}
    if isinstance(value, ToolResult):
        result: dict[str, Any] = {"content": _sendable(value.content)}
        if value.is_error:
            result["is_error"] = True
        if value.details is not None:
            result["details"] = to_json(value.details, "$.details")
        return result
    details = to_json(value)
    if type(details) is str:  # an Enum, a date, a path …
        return {"content": details}
    return {"content": dumps(details).decode(), "details": details}


def tool_failure(text: str, details: object = None) -> dict[str, Any]:
    """The result of a call that failed in a way that the model can learn from."""
    result: dict[str, Any] = {"content": sayable(text), "is_error": True}
    if details is not None:
        result["details"] = details
    return result


def argument_failure(tool: str, error: InvalidData) -> dict[str, Any]:
    """The result of a call whose arguments do not fit: every fault, for the model and as data."""
    shown = error.told
    lines = "\n".join(f"- {fault}" for fault in shown)
    more = f"\n- and {len(error.faults) - len(shown)} more" if len(error.faults) > len(shown) else ""
    return tool_failure(
        f"The arguments of {tool} do not fit its schema:\n{lines}{more}",
        {"errors": [fault.as_dict() for fault in shown]},
    )


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
    parts = {name: part for name, part in attrs.asdict(value).items() if part is not None or name == "value"}
    for name, part in parts.items():
        if not isinstance(part, str):
            raise EncodeError(f"{path}.{name}", f"a completion's {name} is a string, not {type(part).__name__}")
        _sendable(part, f"{path}.{name}")
    return parts


def patched(hook: str, given: object, raw: dict[str, Any], returned: object) -> dict[str, Any] | Block | None:
    """What a hook handler's decision makes of the input.

    Args:
        hook: The hook's name.
        given: The input as the handler got it: a record, or a dict. It may have been changed in place.
        raw: The same as it came: plain JSON data, with the fields that the record does not know.
        returned: What the handler returned.

    Returns:
        The new input, checked against the hook's type; a Block; or None, where nothing changes.

    Raises:
        TypeError: It returned something that is no decision.
        InvalidData: The new input does not fit the hook.
        EncodeError: The new input has no form in JSON.
    """
    new: dict[str, Any]
    if returned is None or isinstance(returned, Block):
        return returned
    if isinstance(returned, Patch):
        new = {**raw, **to_json(returned.fields)}
    elif isinstance(returned, dict) and isinstance(given, dict):
        new = to_json(returned)
    elif type(returned) is type(given) and (names := _field_names(type(given))):
        new = dict(raw)
        before: object = structure(raw, type(given))
        for name in names:
            value = to_json(getattr(returned, name), f"$.{name}")
            if _same(value, to_json(getattr(before, name))):
                continue  # a field that is absent, or null, stays so
            if value is None:
                new.pop(name, None)
            else:
                new[name] = value
    else:
        raise TypeError(
            f"a {hook} hook returns None (go on), Block(reason), Patch(field=value) or its changed input, "
            f"not {type(returned).__name__}"
        )
    if (cls := messages.HOOK_INPUTS.get(hook)) is not None:
        structure(new, cls)
    return None if _same(new, raw) else new


def blocked(decision: Block) -> dict[str, Any]:
    """The outcome of ``hook`` for a Block."""
    return {"action": "block", "reason": sayable(decision.reason)} if decision.reason else {"action": "block"}


def _field_names(cls: Any) -> list[str]:
    """The names of the fields of an attrs class or a dataclass; of another class, none."""
    if attrs.has(cls):
        return [attribute.name for attribute in attrs.fields(cls)]
    return [one.name for one in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _same(one: object, other: object) -> bool:
    # As JSON: to Python 1, True and 1.0 are equal.
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def _sendable(text: str, path: str = "$.content") -> str:
    # isascii() is a flag of the string, so most results cost nothing here.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(path, f"a lone surrogate at index {error.start} of the text") from None
    return text
