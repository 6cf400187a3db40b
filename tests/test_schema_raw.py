"""A JSON Schema written by the author is checked with jsonschema-rs, and its values go to the parameters by name."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from sepkit.errors import InvalidData, RegistrationError
from sepkit.schema import Signature, inspect_signature


class ToolContext: ...


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1},
        "mode": {"enum": ["r", "w"]},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {"line": {"type": "integer", "minimum": 1}},
}


def inspected(fn: Callable[..., Any], schema: Any = SCHEMA, **options: Any) -> Signature:
    return inspect_signature(fn, what="tool 'f'", contexts=(ToolContext,), parameters=schema, **options)


def refused(fn: Callable[..., Any], schema: Any = SCHEMA) -> str:
    with pytest.raises(RegistrationError) as caught:
        inspected(fn, schema)
    return str(caught.value).partition("): ")[2]


def open_file(path: str, ctx: ToolContext, mode: str = "r", lines: Any = ()) -> None:
    """Open it."""


def test_the_schema_is_passed_on_as_written() -> None:
    signature = inspected(open_file)
    assert signature.parameters == SCHEMA
    assert signature.description == "Open it."
    assert signature.context == "ctx"


def test_values_go_to_the_parameters_by_name_without_coercion() -> None:
    bind = inspected(open_file).bind
    assert bind({"path": "a", "lines": [1]}) == {"path": "a", "lines": [1]}
    with pytest.raises(InvalidData):
        bind({"path": "a", "lines": ["1"]})


def test_every_fault_has_a_path_and_quotes_no_value() -> None:
    """An error has the path, the expected and the received type, and not the value."""
    with pytest.raises(InvalidData) as caught:
        inspected(open_file).bind({"mode": "hunter2", "lines": [1, 0, "hunter2"], "name": "hunter2"})
    assert sorted((fault.path, fault.expected, fault.received) for fault in caught.value.faults) == [
        ("$.lines[1]", "minimum 1", "integer"),
        ("$.lines[2]", "integer", "string"),
        ("$.mode", 'one of "r", "w"', "string"),
        ("$.name", "nothing (no such argument)", "string"),
        ("$.path", "a value", "nothing"),
    ]


def test_keywords_take_what_no_parameter_names() -> None:
    def f(path: str, **rest: Any) -> None: ...

    assert inspected(f).bind({"path": "a", "mode": "w"}) == {"path": "a", "mode": "w"}


def test_one_dict_that_the_schema_does_not_name_takes_the_whole_object() -> None:
    def f(arguments: dict[str, Any], ctx: ToolContext) -> None: ...

    assert inspected(f).bind({"path": "a", "mode": "w"}) == {"arguments": {"path": "a", "mode": "w"}}


def test_parameters_need_no_annotation() -> None:
    def f(path, mode="r", lines=()) -> None: ...  # type: ignore[no-untyped-def]

    assert inspected(f).bind({"path": "a"}) == {"path": "a"}


def test_a_parameter_that_the_schema_does_not_require_is_missed_when_it_is_missing() -> None:
    def f(path: str, mode: str, lines: Any = ()) -> None: ...

    with pytest.raises(InvalidData, match=r"^\$\.mode: expected a value, got nothing$"):
        inspected(f).bind({"path": "a"})


def test_what_an_open_schema_lets_through_and_nobody_takes_is_refused_or_dropped() -> None:
    def f(path: str) -> None: ...

    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    assert inspected(f, schema, extra="ignore").bind({"path": "a", "b": 1}) == {"path": "a"}
    with pytest.raises(InvalidData, match=r"^\$\.b: expected nothing \(no such argument\), got integer$"):
        inspected(f, schema).bind({"path": "a", "b": 1})


def test_arguments_that_are_no_object_are_a_fault() -> None:
    bind: Any = inspected(open_file).bind
    with pytest.raises(InvalidData, match=r"^\$: expected object, got array$"):
        bind([1])


def test_a_schema_and_a_function_that_do_not_fit_are_refused() -> None:
    def more(path: str, mode: str, lines: Any, other: int) -> None: ...
    def less(path: str, mode: str) -> None: ...

    assert (
        refused(more) == "parameter 'other' is not in the properties of parameters=; add it there or give it a default"
    )
    assert refused(less) == "no parameter takes 'lines' of parameters=; add one, or take `**arguments`"


def test_an_invalid_schema_is_refused() -> None:
    def f(**arguments: Any) -> None: ...

    assert refused(f, {"properties": {"x": {"type": "strin"}}}).startswith(
        "parameters= is no valid JSON Schema: $.properties.x.type: "
    )
    expected = 'parameters= must be the JSON Schema of an object: {"type": "object", "properties": {…}}'
    assert refused(f, {"type": "array"}) == expected
    assert refused(f, True) == expected


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/x", "file:///etc/hostname"])
def test_a_schema_fetches_nothing(uri: str) -> None:
    """A reference that leads outside would be read from the network or the disk."""

    def f(**arguments: Any) -> None: ...

    assert f"$ref to {uri}: only references inside the schema are followed" in refused(f, {"$ref": uri})


def test_a_missing_validator_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    assert refused(open_file) == "parameters=<JSON Schema> needs jsonschema-rs; pip install 'sepkit[jsonschema]'"
