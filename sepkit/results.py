"""What handlers return, and what it comes to; how it looks on a wire is the face's. Pure functions."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, cast

import orjson

from sepkit.errors import EncodeError, InvalidData
from sepkit.records import Record, field, instance_of, record
from sepkit.wire import messages
from sepkit.wire.converter import structure
from sepkit.wire.shapes import field_names, fields_of, has_fields
from sepkit.wire.writing import copied, to_json, unstructure

if TYPE_CHECKING:
    from sepkit.content import Part
    from sepkit.schema import Output


@record
class ToolResult(Record):
    """A tool's result in full: ``content`` for the model, ``details`` for a user interface.

    Source: docs/protocol.md, section 3, ``tool/execute``.
    """

    content: str = field(validator=instance_of(str))
    is_error: bool = field(default=False, validator=instance_of(bool))
    details: Any = None


@record
class Block(Record):
    """Returned by a hook: it must not happen. ``reason`` is shown to the model and to the user.

    Source: docs/protocol.md, section 6.
    """

    reason: str = field(default="", validator=instance_of(str))


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


class BadResult(Exception):
    """What a tool returned does not fit the schema that it promises; ``data`` has the faults, where it has a form."""

    def __init__(self, error: InvalidData | EncodeError) -> None:
        super().__init__(str(error))
        self.data = error.as_data() if isinstance(error, InvalidData) else None


def promised(output: Output, returned: object) -> object:
    """What a tool returned that promises a schema: its data, which fits it. Of a failure nothing is promised.

    Raises:
        BadResult: It does not fit, or has no form in JSON.
    """
    full = returned if isinstance(returned, ToolResult) else None
    if full is not None and full.is_error:
        return full
    try:
        plain = output.written(returned if full is None else full.details)
    except (InvalidData, EncodeError) as error:
        raise BadResult(error) from None
    return plain if full is None else ToolResult(full.content, details=plain)


def promising(
    output: Output, call: Callable[[Mapping[str, Any], object], Awaitable[object]]
) -> Callable[[Mapping[str, Any], object], Awaitable[object]]:
    """A tool's ``call`` whose result fits its schema. Arguments are bound where it is called, as without."""

    async def fitting(work: Awaitable[object]) -> object:
        returned = await work
        while isawaitable(returned):
            returned = await returned
        return promised(output, returned)

    return lambda arguments, context: fitting(call(arguments, context))


def rich(value: object) -> list[Part] | None:
    """The parts of a result with an image or the like in it; None for all other results.

    Raises:
        EncodeError: An item of the list has no form in JSON.
    """
    content = sys.modules.get("sepkit.content")  # while it is not imported, there is no value of its classes
    return None if content is None else cast("list[Part] | None", content.parts_of(value))


def patched(
    hook: str, given: object, raw: dict[str, Any], returned: object, convert: Callable[[Any], Any]
) -> dict[str, Any]:
    """What a hook handler's decision to go on with a changed input makes of the input.

    Args:
        hook: The hook's name.
        given: The input as the handler got it: a record, or a dict. It may have been changed in place.
        raw: The same as it came: plain JSON data, with the fields that the record does not know.
        returned: What the handler returned.
        convert: Makes of ``raw`` what the handler got.

    Returns:
        The new input, checked against the hook's type; ``raw`` itself where nothing changes.

    Raises:
        TypeError: It returned something that is no decision.
        InvalidData: The new input does not fit the hook.
        EncodeError: The new input has no form in JSON.
    """
    new: dict[str, Any]
    if isinstance(returned, Patch):
        new = {**raw, **to_json(returned.fields)}
    elif isinstance(returned, dict) and isinstance(given, dict):
        new = to_json(returned)
    elif type(returned) is type(given) and (has_fields(type(given)) or hasattr(given, "_fields")):
        new = dict(raw)
        before: object = convert(copied(raw))
        for attribute, name in field_names(cast("Any", type(given))):
            value = to_json(getattr(returned, attribute), f"$.{name}")
            if _same(value, to_json(getattr(before, attribute))):
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
    check_hook_input(hook, new)
    return raw if _same(new, raw) else new


def check_hook_input(hook: str, value: dict[str, Any]) -> None:
    """Check the input of a hook.

    Raises:
        InvalidData: It does not fit the hook; with every fault.
    """
    for name, kind in _plain_fields(hook):  # most inputs fit so: saves 10,000 instructions
        if type(value.get(name)) is not kind:
            structure(value, messages.HOOK_INPUTS[hook])
            return


def input_reader(hook: str, given: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``given``, which makes the hook's record of a copy of an input, with a first pass: saves 10,000 instructions."""
    record = messages.HOOK_INPUTS[hook]

    def read(value: dict[str, Any]) -> object:
        fields = _plain_fields(hook)
        if len(value) != len(fields):
            return given(value)
        found = {}
        for name, kind in fields:
            item = value.get(name)
            if type(item) is not kind:
                return given(value)
            found[name] = copied(item) if kind is dict or kind is list else item
        return record(**found)

    return read


@cache
def _plain_fields(hook: str) -> tuple[tuple[str, object], ...]:
    """The type of each field of a hook's input. No value has the type of a field that is to be looked into."""
    if hook not in messages.HOOK_INPUTS:
        return ()
    record: Any = messages.HOOK_INPUTS[hook]
    fields = [field for field in fields_of(record) if field.type is not Any]
    return tuple((field.name, dict if field.type == messages.JsonObject else field.type) for field in fields)


def _same(one: object, other: object) -> bool:
    # As JSON: to Python 1, True and 1.0 are equal.
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def argument_fault(tool: str, error: InvalidData) -> tuple[str, dict[str, Any]]:
    """What a model is told of arguments that do not fit: every fault, as text and as data."""
    lines = "\n".join(f"- {fault}" for fault in error.told)
    more = f"\n- and {len(error.faults) - len(error.told)} more" if len(error.faults) > len(error.told) else ""
    return f"The arguments of {tool} do not fit its schema:\n{lines}{more}", error.as_data()


def checked_credentials(returned: object) -> dict[str, Any]:
    """What an OAuth handler returned, as plain JSON data.

    Raises:
        TypeError: It is something else than ``Credentials``.
    """
    if not isinstance(returned, messages.Credentials):
        raise TypeError(f"expected Credentials, got {type(returned).__name__}")
    return unstructure(returned)
