"""``ui.form``: a flat class as a form that a host shows, or as one question after another. Imported at the first form.

A host that shows forms says so among its kinds of ``ui/request``, with a word that SEP does not have: ``form``. It is
asked ``{"kind": "form", "message", "schema"}``, and answers ``{"content": {…}}`` or ``{"cancelled": true}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from sepkit.errors import Fault, InternalError, InvalidData, NoUI, RegistrationError
from sepkit.schema import compile_type, schema_of
from sepkit.schema.forms import key_step
from sepkit.wire.frames import dumps

T = TypeVar("T")

_ROUNDS: Final = 5  # how often an answer that does not fit is asked for
_TYPES: Final = frozenset({"string", "integer", "number", "boolean"})
_FORMATS: Final = frozenset({"email", "uri", "date", "date-time"})  # that hosts know
_KEPT: Final = ("description", "minLength", "maxLength", "minimum", "maximum", "default")
_LEAVE_OUT: Final = "(leave out)"


class Asked(NamedTuple):
    """One field of a form."""

    name: str
    schema: dict[str, Any]
    """As a host with forms is told of it."""
    required: bool
    choices: list[str] | None
    """What can be chosen, as texts."""

    @property
    def label(self) -> str:
        """What a person reads of it."""
        return str(self.schema.get("description") or self.name)


def flat(cls: Any) -> list[Asked]:
    """The fields of a class that a form can ask for.

    Raises:
        RegistrationError: It has none, or one that a form cannot ask for; names it.
    """
    shown = getattr(cls, "__name__", repr(cls))
    if not isinstance(cls, type):
        raise RegistrationError(f"ui.form: {shown} is not a class; write a dataclass, an attrs class or a TypedDict")
    schema = schema_of(cls, what="ui.form")
    fields: Mapping[str, Any] = schema.get("properties", {})
    if schema.get("type") != "object" or not fields:
        raise RegistrationError(f"ui.form: {shown} has no fields; write a dataclass, an attrs class or a TypedDict")
    required = schema.get("required", ())
    return [_asked(f"{shown}.{name}", name, field, required=name in required) for name, field in fields.items()]


def _asked(shown: str, name: str, schema: Any, *, required: bool) -> Asked:
    outer = schema
    if "anyOf" in schema:
        members = [member for member in schema["anyOf"] if member != {"type": "null"}]
        schema = members[0] if len(members) == 1 else {}
        required = required and len(members) == len(outer["anyOf"])
    kind, constants = schema.get("type"), schema.get("enum")
    if constants is None and kind not in _TYPES:
        raise RegistrationError(
            f"ui.form: {shown} is nested, or of several types; a form asks for texts, numbers, yes or no, and choices"
        )
    found = {key: part[key] for key in _KEPT for part in (schema, outer) if key in part}
    if constants is not None:
        choices = [one if isinstance(one, str) else dumps(one).decode() for one in constants]
        if "default" in found and not isinstance(found["default"], str):
            found["default"] = dumps(found["default"]).decode()
        return Asked(name, {"type": "string", **found, "enum": choices}, required, choices)
    if schema.get("format") in _FORMATS:
        found["format"] = schema["format"]
    return Asked(name, {"type": kind, **found}, required, None)


class Questions(Protocol):
    """What a person can be asked one after another: ``ctx.ui``."""

    async def select(self, prompt: str, options: Sequence[str]) -> str | None:
        """Have one chosen."""

    async def confirm(self, prompt: str) -> bool | None:
        """Yes or no."""

    async def input(self, prompt: str, default: str | None = None) -> str | None:
        """A line of text."""


async def ask_form(
    ui: Questions,
    kinds: Collection[str] | None,
    request: Callable[[dict[str, Any]], Awaitable[Any]],
    message: str,
    cls: type[T],
) -> T | None:
    """Ask for the fields of a class; see ``ctx.ui.form``.

    Args:
        ui: Asks one question after another.
        kinds: The kinds of ``ui/request`` that the host can show; None where it did not say.
        request: Makes a ``ui/request`` of its params; its answer as it comes.
        message: What the form is for.
        cls: The class.
    """
    fields = flat(cls)
    convert = compile_type(cls, what="ui.form")
    if kinds is not None and "form" in kinds:
        ask: Callable[[str], Awaitable[dict[str, Any] | None]] = partial(_shown, request, fields)
    else:
        _check_kinds(kinds, fields)
        ask = partial(_one_by_one, ui, fields, convert)
    wrong: InvalidData | None = None
    for _ in range(_ROUNDS):
        told = message if wrong is None else f"{message} ({wrong})"
        answer = await ask(told)
        if answer is None:
            return None
        try:
            made: T = convert(answer)
        except InvalidData as error:
            wrong = error
        else:
            return made
    assert wrong is not None
    raise wrong


async def _shown(
    request: Callable[[dict[str, Any]], Awaitable[Any]], fields: list[Asked], message: str
) -> dict[str, Any] | None:
    """Have the host show a form."""
    schema: dict[str, Any] = {"type": "object", "properties": {field.name: field.schema for field in fields}}
    schema["required"] = [field.name for field in fields if field.required]
    answer = await request({"kind": "form", "message": message, "schema": schema})
    if not isinstance(answer, dict) or not isinstance(answer.get("content", {}), dict):
        raise InternalError("the host's answer to a form is not an object")
    if answer.get("cancelled") or "content" not in answer:
        return None
    # A field that was left empty comes as null from some.
    return {name: value for name, value in answer["content"].items() if value is not None}


def _check_kinds(kinds: Collection[str] | None, fields: list[Asked]) -> None:
    """Refuse a form of which half could be asked only."""
    needed = {"select" if one.choices else "confirm" if one.schema["type"] == "boolean" else "input" for one in fields}
    if kinds is not None and (lacking := sorted(needed.difference(kinds))):
        raise NoUI(f"the host cannot show {lacking[0]!r}, which this form needs")


async def _one_by_one(
    ui: Questions, fields: list[Asked], convert: Callable[[Any], Any], message: str
) -> dict[str, Any] | None:
    """Ask a question for each field."""
    answers: dict[str, Any] = {}
    for field in fields:
        label = field.label
        for left in reversed(range(_ROUNDS)):
            value = await _answer(ui, f"{message} ({label})", field)
            if value is None:
                return None
            if value is _LEFT_OUT:
                break
            faults = _faults(convert, field.name, value)
            if not faults:
                answers[field.name] = value
                break
            if left == 0:
                raise InvalidData(faults)
            label = f"{field.label}; expected {faults[0].expected}"
    return answers


_LEFT_OUT: Final = object()


async def _answer(ui: Questions, prompt: str, field: Asked) -> Any:
    """What was answered; None where it was dismissed."""
    default = field.schema.get("default")
    if field.choices:
        leave = [_LEAVE_OUT] if not field.required and default is None else []
        options = field.choices if default is None else sorted(field.choices, key=lambda one: one != default)
        chosen = await ui.select(prompt, [*options, *leave])
        return _LEFT_OUT if chosen == _LEAVE_OUT and leave else chosen
    if field.schema["type"] == "boolean":
        return await ui.confirm(prompt)
    shown = None if default is None else default if isinstance(default, str) else dumps(default).decode()
    text = await ui.input(prompt, shown)
    return _LEFT_OUT if text == "" and not field.required else text


def _faults(convert: Callable[[Any], Any], name: str, value: Any) -> list[Fault]:
    """What is wrong with one field. That the others are not there yet is not."""
    try:
        convert({name: value})
    except InvalidData as error:
        path = f"${key_step(name)}"
        return [fault for fault in error.faults if fault.path == path]
    return []
