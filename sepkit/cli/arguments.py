"""The arguments of a tool, a hook, a command or an event, as they are typed in a shell, into JSON.

=====================  ==============================================================================================
``name=value``         as the schema says: text for a string, else JSON; where the schema says nothing, JSON if it is
``name==text``         always text
``name:=json``         always JSON
``name=@file``         what the file holds (``-`` is stdin), read in the same way
``name.key=value``     a part of an object; ``name.0=value`` an item of an array
``name=a name=b``      items of an array, one after another
``@file``              the whole object, a JSON file; what stands beside it is laid over
=====================  ==============================================================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click
import orjson

Schema = Mapping[str, Any]

_ANY: Final[Schema] = {}
_REFERENCES: Final = 20  # that are followed in a row; more are a circle


def gather(words: Iterable[str], schema: Schema = _ANY, *, as_text: bool = False) -> dict[str, Any]:
    """The object that ``words`` say.

    Args:
        words: What was typed.
        schema: The JSON Schema of the object.
        as_text: What the schema does not tell of is text, though it be JSON.

    Raises:
        click.UsageError: A word cannot be understood.
    """
    reader = _Reader(schema, as_text)
    for word in words:
        reader.take(word)
    return reader.made


def is_file(word: str) -> bool:
    """Whether a word stands for a whole file of arguments."""
    return word.startswith("@") and "=" not in word


class _Reader:
    def __init__(self, schema: Schema, as_text: bool) -> None:
        self.made: dict[str, Any] = {}
        self._schema = schema
        self._as_text = as_text

    def take(self, word: str) -> None:
        if is_file(word):
            values = _json(word, _bytes_of(word[1:], word))
            if not isinstance(values, dict):
                raise click.UsageError(f"{word!r}: the file holds no JSON object")
            self.made.update(values)
            return
        word = _utf8(word)
        name, equals, value = word.partition("=")
        if not equals or not name.strip(":"):
            raise click.UsageError(f"{word!r} is not an argument; write NAME=VALUE")
        always_json, always_text = name.endswith(":"), value.startswith("=")
        if always_json and not always_text:
            name = name[:-1]
        path, schema = self._place(name, word)
        if always_text:
            self._put(path, value[1:], word, append=False)
        elif always_json:
            text = _bytes_of(value[1:], word) if len(value) > 1 and value[0] == "@" else value.encode()
            self._put(path, _json(word, text), word, append=False)
        else:
            self._fill(path, value, schema, word)

    def _place(self, name: str, word: str) -> tuple[list[str], Schema]:
        """The steps to the value that ``name`` stands for, and its schema."""
        path, schema, rest = [], self._schema, name
        while rest:
            schemas = list(_alternatives(schema, self._schema))
            whole = any(rest in one.get("properties", ()) for one in schemas)
            step, dot, rest = (rest, "", "") if whole else rest.partition(".")
            if not step or (dot and not rest):
                raise click.UsageError(f"{word!r}: {name!r} has an empty part")
            path.append(step)
            schema = _member(schemas, step)
        return path, schema

    def _fill(self, path: list[str], value: str, schema: Schema, word: str) -> None:
        takes = _takes(schema, self._schema)
        text = value
        if len(value) > 1 and value[0] == "@":
            text = _decoded(_bytes_of(value[1:], word), word)
        if takes is None:
            self._put(path, text if self._as_text else _loosely(text), word, append=False)
        elif "string" in takes:
            self._put(path, self._text_or(text, schema, takes), word, append=False)
        elif "array" in takes:
            made = _loosely(text)
            if isinstance(made, list) or (made is None and "null" in takes):
                self._put(path, made, word, append=False)
            elif text.lstrip()[:1] in ("[", "{") and isinstance(made, str):
                raise click.UsageError(f"{word!r}: the value is no JSON")
            else:
                items = _member(list(_alternatives(schema, self._schema)), "0")
                wanted = _takes(items, self._schema)
                self._put(path, text if wanted is not None and "string" in wanted else made, word, append=True)
        else:
            self._put(path, _loosely(text), word, append=False)

    def _text_or(self, text: str, schema: Schema, takes: set[str]) -> Any:
        """A text for what takes a string; but where something else is taken as well, JSON of that kind is meant."""
        words = [word for one in _alternatives(schema, self._schema) for word in one.get("enum", ())]
        if takes == {"string"} or text in words:
            return text
        made = _loosely(text)
        return made if _word(made) in takes and not isinstance(made, str) else text

    def _put(self, path: list[str], value: Any, word: str, *, append: bool) -> None:
        place: Any = self.made
        schema: Schema = self._schema
        for number, step in enumerate(path):
            schema = _member(list(_alternatives(schema, self._schema)), step)
            last = number == len(path) - 1
            new: Any = value
            if not last:
                takes = _takes(schema, self._schema)
                is_array = takes is not None and "array" in takes and path[number + 1].isdecimal()
                new = [] if is_array else {}
            elif append:
                new = [value]
            if isinstance(place, list):
                if not step.isdecimal() or int(step) > len(place):
                    raise click.UsageError(f"{word!r}: the next item of the array is number {len(place)}")
                known = int(step) < len(place)
                if not known:
                    place.append(new)
                key: Any = int(step)
            elif isinstance(place, dict):
                known, key = step in place, step
                place.setdefault(step, new)
            else:
                raise click.UsageError(f"{word!r}: {'.'.join(path[:number])!r} has a value already")
            if last and known:
                if not append or not isinstance(place[key], list):
                    raise click.UsageError(f"{word!r}: {'.'.join(path)!r} is given twice")
                place[key].append(value)
            place = place[key]


# -- what a schema says ------------------------------------------------------------------------------------------------


def _alternatives(schema: object, root: Schema, depth: int = 0) -> Iterator[Schema]:
    """A schema and those that it is made of: each may say something of a value."""
    if not isinstance(schema, Mapping) or depth > _REFERENCES:
        return
    yield schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        yield from _alternatives(found, root, depth + 1)
    for kind in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(kind, ()):
            yield from _alternatives(one, root, depth + 1)


def _takes(schema: Schema, root: Schema) -> set[str] | None:
    """The JSON types that a value may have; None where the schema leaves it open."""
    found: set[str] = set()
    for one in _alternatives(schema, root):
        if "const" in one or "enum" in one:
            found.update(map(_word, one.get("enum", [one.get("const")])))
        elif isinstance(kind := one.get("type"), str):
            found.add(kind)
        elif isinstance(kind, list):
            found.update(kind)
        elif "properties" in one:
            found.add("object")
    if "number" in found:
        found.add("integer")
    return found or None


def _member(schemas: Iterable[Schema], step: str) -> Schema:
    """The schema of a part of a value."""
    for schema in schemas:
        properties, more, items = schema.get("properties"), schema.get("additionalProperties"), schema.get("items")
        if isinstance(properties, Mapping) and isinstance(found := properties.get(step), Mapping):
            return found
        if isinstance(more, Mapping):
            return more
        if step.isdecimal():
            prefix = schema.get("prefixItems", ())
            if int(step) < len(prefix):
                items = prefix[int(step)]
            if isinstance(items, Mapping):
                return items
    return _ANY


def _word(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


# -- what was typed ----------------------------------------------------------------------------------------------------


def _loosely(text: str) -> Any:
    try:
        made = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    # An integer past 64 bits would be rounded; a tool can read its text.
    return text if isinstance(made, float) and text.strip().removeprefix("-").isdecimal() else made


def _json(word: str, text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"{word!r}: the value is no JSON: {error}") from None


def _bytes_of(name: str, word: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read() if sys.stdin is not None else b""
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        hint = "" if is_file(word) else f"; for a text that begins with @, write {word.replace('=', '==', 1)}"
        raise click.UsageError(f"{word!r}: {name} cannot be read: {error.strerror or error}{hint}") from None


def _decoded(data: bytes, word: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{word!r}: the file is not UTF-8") from None


def _utf8(word: str) -> str:
    """What was typed as text. Python has decoded it in the locale's encoding; bytes that this lacks may be UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(word).decode()
        except UnicodeDecodeError:
            raise click.UsageError(f"{word!r} is not UTF-8, which all arguments are sent in") from None
    return word
