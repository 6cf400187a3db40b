"""What a hook may make of its input: the same shape; of a call to its own tool, arguments that fit the tool's schema.

Extensions write these schemas: the check reads no file and no address, and what it costs is bounded.

Source: docs/protocol.md, section 6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from sepkit.errors import InvalidData
from sepkit.host.extension import Extension
from sepkit.wire.converter import structure
from sepkit.wire.faults import json_type
from sepkit.wire.messages import HOOK_INPUTS, ToolRegistration

_MOST_PARTS: Final = 5_000
"""So many parts a schema may have, with what each ``$ref`` points to in its place. The library follows references on
this thread, with the GIL held: 26 definitions, each twice the one before, held up the host for 5 s."""


_MOST_WORK: Final = 500_000
"""So many pairs of a part of the schema and a value of the arguments, or of a state of a pattern and a character, are
looked at: up to 50 ns each, on this thread."""

_MULTIPLE: Final = 600  # parts that a `multipleOf` counts as: the library divides exactly, however small the divisor
_COUNTED: Final = re.compile(r"\{\d*,?(\d*)\}")
_BACKTRACKS: Final = re.compile(r"\(\?(?:[=!>(]|<[=!])|\\[1-9kKGg]|[*+?}]\+")


class _NoEnd(Exception):
    """A schema that is not followed to its end."""


def refusal(
    tools: Mapping[str, tuple[Extension, ToolRegistration]],
    extension: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> str | None:
    """Why an extension may not turn a call into another; None where it may.

    Otherwise any extension could make any call, and would be allowed it as another one.

    Args:
        tools: The host's, by their full names, with their owners.
        extension: The name of the one that rewrites.
        before: The call, as the hook was given it.
        after: What the hook has made of it.
    """
    if after.get("tool") != before.get("tool"):
        return f"a tool_call hook may not turn {before.get('tool')!r} into {after.get('tool')!r}"
    if not str(before.get("tool")).startswith(f"{extension}."):
        return f"{before.get('tool')!r} is not a tool of {extension}"
    if not isinstance(after.get("arguments"), dict):
        return "the arguments are no object"
    entry = tools.get(after["tool"])
    if entry is None:
        return None
    owner, tool = entry
    if owner.name != extension:  # names have dots: `a.b.c` may be a tool of `a.b` as well as of `a`
        return f"{after['tool']!r} is a tool of {owner.name}"
    return faults(tool.parameters, after["arguments"])


def misshapen(hook: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Why what a hook has made of its input is not of the input's shape; None where it is.

    The shape of an input that the protocol leaves to the host is that of ``before``: its fields, each of its JSON type.
    """
    known = HOOK_INPUTS.get(hook)
    is_known = known is not None and _fault(before, known) is None
    if is_known and (fault := _fault(after, known)) is not None:
        return fault
    if not is_known and (missing := [name for name in before if name not in after]):
        return f"it leaves out {', '.join(map(repr, missing[:10]))}"
    for name, was in before.items():
        became = after.get(name)
        if was is None or (became is None and is_known):  # a field that may be absent
            continue
        if _kind(became) != _kind(was):
            return f"{name!r} is {_kind(was)} in the input, and {_kind(became)} in it"
    return None


def _fault(value: dict[str, Any], shape: Any) -> str | None:
    try:
        structure(value, shape)
    except InvalidData as error:
        return str(error)
    return None


def _kind(value: object) -> str:
    kind = json_type(value)
    return "number" if kind == "integer" else kind


def faults(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Why arguments do not fit a tool's schema; None where they do."""
    try:
        import jsonschema_rs
    except ImportError:
        return "nothing here can check the tool's schema; install sepkit[host]"
    try:
        parts, states = _Parts(schema).count(schema)
    except (_NoEnd, RecursionError):
        return "the tool's schema refers to itself, elsewhere, or to too much: that is not followed"
    values, characters = _size_of(arguments)
    if parts * values + states * (values + characters) > _MOST_WORK:
        return "to check the arguments against the tool's schema takes too long"
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_retrieve, validate_formats=False)
    except Exception as error:
        return f"the tool's schema cannot be checked: {error}"
    return next((str(fault.message) for fault in validator.iter_errors(arguments)), None)


class _Parts:
    """Counts the parts of a schema as a validator meets them, each reference as what it points to.

    The states of its patterns are counted on their own: each of them meets each character.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._known: dict[str, tuple[int, int]] = {}
        self._following: set[str] = set()
        self._unevaluated = 0

    def count(self, part: object) -> tuple[int, int]:
        """How many there are in ``part``, and how many states its patterns have.

        Raises:
            _NoEnd: More than are followed, or where that is not known.
        """
        found, states = 1, 0
        if isinstance(part, dict):
            if isinstance(part.get("$id"), str) and part is not self._schema:
                raise _NoEnd  # `#/…` would start from here within it
            for word, value in part.items():
                if word in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                    more = self._behind(value)
                else:
                    more = self.count(value)
                found, states = found + more[0], states + more[1] + self._states_of(word, value)
                if word == "multipleOf":
                    found += _MULTIPLE
        elif isinstance(part, list):
            for one in part:
                more = self.count(one)
                found, states = found + more[0], states + more[1]
        if found + states > _MOST_PARTS:
            raise _NoEnd
        return found, states

    def _states_of(self, word: str, value: object) -> int:
        if word.startswith("unevaluated"):
            self._unevaluated += 1
            if self._unevaluated > 1:  # within each other, each looks at all within it again: 20 of them took 28 s
                raise _NoEnd
        if word == "pattern" and isinstance(value, str):
            return _states_of_pattern(value)
        if word == "patternProperties" and isinstance(value, dict):
            return sum(map(_states_of_pattern, value))
        return 0

    def _behind(self, reference: str) -> tuple[int, int]:
        if reference in self._following:
            raise _NoEnd
        if reference not in self._known:
            self._following.add(reference)
            self._known[reference] = self.count(self._at(reference))
            self._following.discard(reference)
        return self._known[reference]

    def _at(self, reference: str) -> object:
        if not reference.startswith("#/"):  # elsewhere, an anchor, or all of it
            raise _NoEnd
        found: Any = self._schema
        for word in reference[2:].split("/"):
            word = unquote(word).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(word)] if isinstance(found, list) else found[word]
            except (KeyError, IndexError, ValueError, TypeError):
                return None  # the library says so
        return found


def _states_of_pattern(pattern: str) -> int:
    """About how many states a pattern has, rather too many.

    Raises:
        _NoEnd: The library tries it out, which has no bound.
    """
    if _BACKTRACKS.search(pattern):
        raise _NoEnd
    states = len(pattern)
    for counted in _COUNTED.finditer(pattern):
        states *= max(1, *(int(number) for number in re.findall(r"\d{1,9}", counted[0])), 1)
        if states > _MOST_PARTS:
            raise _NoEnd
    return states


def _size_of(arguments: object) -> tuple[int, int]:
    """How many values there are in arguments, and how many characters; not counted on where they are too many."""
    values, characters = 1, 0
    left = [arguments]
    while left and values <= _MOST_WORK:
        one = left.pop()
        if isinstance(one, dict):
            characters += sum(map(len, one))
            within = list(one.values())
        elif isinstance(one, list):
            within = one
        else:
            continue
        values += len(within)
        characters += sum([len(text) for text in within if type(text) is str])
        left += [part for part in within if type(part) in (dict, list)]
    return values, characters


def _retrieve(uri: str) -> Any:
    # The library would fetch it from the network or the disk, on behalf of the schema's author.
    raise ValueError(f"$ref to {uri}: only references inside the schema are followed")
