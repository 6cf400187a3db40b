"""What can't be called by name with JSON is refused where it is registered, in sentences that help."""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict

import annotated_types as at
import attrs
import pytest

from sepkit.errors import RegistrationError
from sepkit.schema import Signature, compile_type, inspect_signature, schema_of

if TYPE_CHECKING:
    from fractions import Fraction


class ToolContext: ...


class EventContext: ...


class Plain: ...


def inspected(fn: Callable[..., Any], **options: Any) -> Signature:
    return inspect_signature(fn, what="tool 'f'", contexts=(ToolContext,), other_contexts=(EventContext,), **options)


def refused(fn: Callable[..., Any], **options: Any) -> str:
    """The message, without the place."""
    with pytest.raises(RegistrationError) as caught:
        inspected(fn, **options)
    code = fn.__code__
    place = f" ({code.co_filename}:{code.co_firstlineno})"
    assert place in str(caught.value)
    return str(caught.value).replace(place, "")


# --- the shape of the function -------------------------------------------------------------------------------------


def test_an_unannotated_parameter_is_refused() -> None:
    def f(x) -> None: ...  # type: ignore[no-untyped-def]

    assert refused(f) == "tool 'f': parameter 'x' has no annotation; write its type, as in `x: str`"


def test_an_unbound_method_is_refused() -> None:
    class Tools:
        def f(self, x: int) -> None: ...

    expected = "tool 'f': parameter 'self' has no annotation; register the bound method of an instance"
    assert refused(Tools.f) == expected
    assert list(inspected(Tools().f).parameters["properties"]) == ["x"]


def test_parameters_that_have_no_name_are_refused_all_at_once() -> None:
    def f(a: int, /, *args: int, **options: int) -> None: ...

    assert refused(f) == (
        "tool 'f':\n"
        "  parameter 'a' is positional-only, but arguments come by name; remove the `/`\n"
        "  parameter '*args': arguments come by name; write `args: list[str]`\n"
        "  parameter '**options': arguments are named one by one; write them out, or give parameters=<JSON Schema>"
    )


def test_a_second_context_is_refused() -> None:
    def f(ctx: ToolContext, again: ToolContext) -> None: ...

    assert refused(f) == "tool 'f': parameter 'again': 'ctx' takes the context already; keep one of them"


def test_a_context_of_another_kind_is_refused() -> None:
    def f(ctx: EventContext) -> None: ...

    assert refused(f) == "tool 'f': parameter 'ctx' is an EventContext, which is not given here; write ToolContext"


# --- types ---------------------------------------------------------------------------------------------------------

_HELP = "write an attrs class, a dataclass, a TypedDict or dict[str, Any], or give parameters=<JSON Schema>"


class File(TypedDict):
    folder: Folder


class Folder(NamedTuple):
    files: list[File]


class Strange(Enum):
    PAIR = (1, 2)


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (bytes, "bytes has no JSON form; take str and decode it, as base64 for example"),
        (complex, "complex has no JSON form; take an int, a float or a str"),
        (timedelta, "timedelta has no JSON form; take the seconds as float"),
        (Plain, f"Plain has no JSON form; {_HELP}"),
        (
            Callable[[int], int],
            "collections.abc.Callable[[int], int] has no JSON form: a function can't be sent;"
            " take a name and look it up",
        ),
        (dict[int, str], "dict[int, str]: keys are strings in JSON; write dict[str, str]"),
        (set[list[int]], "set[list[int]]: a set can't hold what is not hashable; write list[list[int]]"),
        (Strange, "the values of Strange have no JSON form; give it str, int, float or bool values"),
        (Literal[b"x"], "Literal[b'x'] holds bytes; use str, int, bool or None in a Literal"),
        (typing.Literal[[1]], "Literal[[1]] holds list; use str, int, bool or None in a Literal"),
        (list[bytes], "bytes has no JSON form; take str and decode it, as base64 for example"),
        (Annotated[int, at.MinLen(1)], "MinLen does not apply to int; it is for strings, arrays and objects"),
        (Annotated[str, at.Ge(1)], "Ge does not apply to str; it is for numbers and dates"),
        (typing.TypeVar("T"), "the type variable ~T has no JSON form; name the type"),
    ],
    ids=str,
)
def test_a_type_without_a_json_form_is_refused(annotation: Any, problem: str) -> None:
    def f(x: int) -> None: ...

    f.__annotations__["x"] = annotation
    assert refused(f) == f"tool 'f': parameter 'x': {problem}"
    with pytest.raises(RegistrationError) as caught:
        schema_of(annotation, what="event 'e'")
    assert str(caught.value) == f"event 'e': {problem}"


def test_a_recursive_type_is_refused() -> None:
    """Schemas have no $ref, so a recursive type is refused at registration."""

    @attrs.define
    class Node:
        children: list[Node]

    def f(root: Node) -> None: ...

    assert refused(f) == (
        "tool 'f': parameter 'root': Node.children: Node holds itself (Node → Node), and schemas are inlined; write"
        " dict[str, Any] where it begins again, or give parameters=<JSON Schema>"
    )


def test_types_that_hold_each_other_are_refused() -> None:
    """Two types that contain each other are recursive too."""

    def f(file: File) -> None: ...

    assert "File holds itself (File → Folder → File)" in refused(f)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement")
def test_a_type_alias_is_what_it_stands_for_unless_it_holds_itself() -> None:
    """An alias is expanded, and one that contains itself is refused."""
    names: dict[str, Any] = {}
    exec("type Names = list[str]\ntype Tree = dict[str, Tree]", names)
    assert schema_of(names["Names"], what="it") == {"type": "array", "items": {"type": "string"}}
    with pytest.raises(RegistrationError, match="Tree holds itself"):
        schema_of(names["Tree"], what="it")


def test_the_same_class_twice_is_not_recursive() -> None:
    @attrs.define
    class Point:
        x: int

    def f(a: Point, b: list[Point]) -> None: ...

    assert list(inspected(f).parameters["properties"]) == ["a", "b"]


def test_a_problem_inside_a_class_names_its_field() -> None:
    @attrs.define
    class Inner:
        blob: bytes

    @attrs.define
    class Outer:
        inner: Inner

    def f(x: Outer) -> None: ...

    assert refused(f) == (
        "tool 'f': parameter 'x': Outer.inner: Inner.blob: bytes has no JSON form; take str and decode it, as base64"
        " for example"
    )


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_name_that_cannot_be_resolved_is_named() -> None:
    """A name that cannot be resolved fails at registration, and the message has the name."""

    def f(x: Fraction, y: list[Missing]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert refused(f) == (
        "tool 'f':\n"
        "  parameter 'x': `Fraction` names 'Fraction', which is not defined there;"
        " import it at the top of the module, not below `if TYPE_CHECKING:`\n"
        "  parameter 'y': `list[Missing]` names 'Missing', which is not defined there;"
        " import it at the top of the module, not below `if TYPE_CHECKING:`"
    )


def test_a_name_that_cannot_be_resolved_inside_a_class_is_named() -> None:
    """The message also has a name that cannot be resolved in a class that an annotation uses."""

    @attrs.define
    class Point:
        x: Fraction

    def f(point: Point) -> None: ...

    assert refused(f) == (
        "tool 'f': parameter 'point': an annotation of Point names 'Fraction', which is not defined there;"
        " import it at the top of the module, not below `if TYPE_CHECKING:`"
    )


def test_an_annotation_that_fails_is_refused() -> None:
    """An annotation that raises fails at registration."""

    def f(x: int) -> None: ...

    f.__annotations__["x"] = "1 / 0"
    assert refused(f) == "tool 'f': parameter 'x': `1 / 0` can't be evaluated (ZeroDivisionError: division by zero)"


def test_a_return_annotation_is_not_an_argument() -> None:
    def f(x: int) -> Fraction: ...  # type: ignore[empty-body]

    assert list(inspected(f).parameters["properties"]) == ["x"]


def test_names_local_to_every_enclosing_function_are_found() -> None:
    """Local classes work under ``from __future__ import annotations``, at any depth of functions."""

    class Outermost(TypedDict):
        x: int

    def outer() -> Signature:
        class Inner(TypedDict):
            y: Outermost

        def register(fn: Callable[..., Any]) -> Signature:
            return inspected(fn)

        def f(inner: Inner, outermost: Outermost) -> None: ...

        return register(f)

    assert outer().bind({"inner": {"y": {"x": 1}}, "outermost": {"x": 2}})


def test_a_local_name_of_a_caller_elsewhere_is_not_taken_for_it() -> None:
    """Only frames whose code encloses the definition count."""

    def register(fn: Callable[..., Any]) -> Signature:
        Plain = int  # noqa: F841, N806
        return inspected(fn)

    def f(x: Plain) -> None: ...

    with pytest.raises(RegistrationError, match="Plain has no JSON form"):
        register(f)


def test_a_decorated_function_is_inspected_below_its_decorator() -> None:
    def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return wrapper

    @logged
    def f(x: int) -> None: ...

    assert inspected(f).bind({"x": "1"}) == {"x": 1}


def test_a_partial_and_a_callable_object_are_inspected() -> None:
    class Tool:
        def __call__(self, x: int) -> None: ...

    def f(x: int, y: str) -> None: ...

    assert inspected(Tool()).bind({"x": "1"}) == {"x": 1}
    assert inspected(functools.partial(f, y="a")).bind({"x": "1"}) == {"x": 1}


def test_a_compiled_type_says_what_it_belongs_to() -> None:
    with pytest.raises(RegistrationError, match=r"^event 'saved': Plain has no JSON form"):
        compile_type(Plain, what="event 'saved'")
