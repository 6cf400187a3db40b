"""``ui.form`` and ``ui.open_url``: what can be asked, how a host without forms asks it, what one with forms gets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
from uuid import UUID

import attrs
import pytest
from annotated_types import Ge, Le, MaxLen

from sepkit import App, Format, ToolContext
from sepkit.contexts.forms import flat
from sepkit.contexts.services import UI
from sepkit.errors import InternalError, InvalidData, NoUI, RegistrationError
from sepkit.testing import InputRequest, SelectRequest, TestHost, UiRequest
from tests.memory_host import on_each_loop


class Size(Enum):
    SMALL = 1
    LARGE = 20


@dataclasses.dataclass
class Order:
    mail: Annotated[str, Format("email"), "Your address"]
    when: date
    count: Annotated[int, Ge(1), Le(9)]
    weight: float = 0.5
    gift: bool = False
    size: Size = Size.SMALL
    note: Annotated[str, MaxLen(5)] | None = None


class Typed(TypedDict):
    name: str
    page: NotRequired[Annotated[str, Format("uri")]]


ANSWERS = {
    "mail": "ada@example.org",
    "when": "2026-01-31",
    "count": "2",
    "weight": "1.5",
    "gift": True,
    "size": "20",
    "note": "hi",
}
FILLED = Order("ada@example.org", date(2026, 1, 31), 2, 1.5, True, Size.LARGE, "hi")


async def asked(cls: type[Any], ui: Any, message: str = "Order?") -> tuple[Any, list[UiRequest]]:
    """What a form gives under SEP, or what it raises; and what was asked for it."""
    app, got = App("x"), list[Any]()

    @app.tool
    async def ask(ctx: ToolContext) -> None:
        try:
            got.append(await ctx.ui.form(message, cls))
        except Exception as error:
            got.append(error)

    async with TestHost(app, ui=ui) as host:
        await host.call_tool("ask")
        return got[0], list(host.ui_requests)


def by_label(answers: dict[str, Any]) -> Callable[[Any], Any]:
    """Answers to questions by the label in their parentheses; a list is used up."""
    left = {name: list(value) if isinstance(value, list) else [value] for name, value in answers.items()}

    def answer(request: Any) -> Any:
        label = re.findall(r" \((\w[\w ]*)[;)]", request.prompt)[-1]
        return left["mail" if label == "Your address" else label].pop(0)

    return answer


# -- under SEP ---------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_under_sep_each_field_is_a_question() -> None:
    """Texts and numbers by ``input``, choices by ``select``, yes or no by ``confirm``; in the order of the fields."""
    form, questions = await asked(Order, by_label(ANSWERS))
    assert form == FILLED
    assert [question.kind for question in questions] == [
        "input",
        "input",
        "input",
        "input",
        "confirm",
        "select",
        "input",
    ]
    first, *_, size, _ = questions
    assert isinstance(first, InputRequest)
    assert (first.prompt, first.default) == ("Order? (Your address)", None)
    assert isinstance(questions[3], InputRequest)
    assert questions[3].default == "0.5"
    assert isinstance(size, SelectRequest)
    assert size.options == ["1", "20"]  # the default comes first


@on_each_loop
async def test_a_dismissed_question_dismisses_the_form() -> None:
    """Whichever it is; nothing more is asked."""
    for name, answer in (("mail", None), ("gift", None), ("size", None)):
        form, questions = await asked(Order, by_label({**ANSWERS, name: answer}))
        assert form is None
        assert len(questions) == 1 + list(ANSWERS).index(name)


@on_each_loop
async def test_what_is_left_empty_has_its_default() -> None:
    form, _ = await asked(Order, by_label({**ANSWERS, "weight": "", "note": ""}))
    assert form == dataclasses.replace(FILLED, weight=0.5, note=None)
    assert (await asked(Typed, by_label({"name": "", "page": ""})))[0] == {"name": ""}

    @attrs.frozen
    class Choice:
        size: Literal["a", "b"] | None = None

    form, (question,) = await asked(Choice, {"select": "(leave out)"})
    assert form == Choice(None)
    assert isinstance(question, SelectRequest)
    assert question.options == ["a", "b", "(leave out)"]


@on_each_loop
async def test_an_answer_that_does_not_fit_is_asked_for_again_five_times() -> None:
    """The question says what is expected; after that it is an error that says so, too."""
    form, questions = await asked(Order, by_label({**ANSWERS, "count": ["x", "10", "3"]}))
    assert form == dataclasses.replace(FILLED, count=3)
    prompts = [question.prompt for question in questions if isinstance(question, InputRequest)]
    assert prompts[2:5] == [
        "Order? (count)",
        "Order? (count; expected integer)",
        "Order? (count; expected integer (>= 1, <= 9))",
    ]
    error, questions = await asked(Order, by_label({**ANSWERS, "mail": ["x"] * 9}))
    assert isinstance(error, InvalidData)
    assert str(error) == "$.mail: expected string (an e-mail address), got string"
    assert len(questions) == 5


@on_each_loop
async def test_a_field_of_any_name_is_asked_for_again_alone() -> None:
    """A path in a fault is more than the name, where that is no identifier."""
    odd: Any = TypedDict("odd", {"a-b": int, "c": int})
    form, questions = await asked(odd, {"input": ["x", "1", "2"]})
    assert form == {"a-b": 1, "c": 2}
    assert len(questions) == 3


@on_each_loop
async def test_a_class_may_have_a_rule_over_several_fields() -> None:
    """The whole form is asked for again, with what the class says."""

    @attrs.define
    class Span:
        first: int
        last: int = attrs.field()

        @last.validator
        def _check(self, attribute: Any, value: int) -> None:
            if value < self.first:
                raise ValueError("the last is before the first")

    form, questions = await asked(Span, by_label({"first": ["5", "1"], "last": ["3", "3"]}))
    assert form == Span(1, 3)
    assert isinstance(questions[2], InputRequest)
    assert "the last is before the first" in questions[2].prompt


@on_each_loop
async def test_a_host_that_cannot_show_a_part_is_asked_nothing() -> None:
    """``NoUI`` before the first question, not in the middle; also where nobody is there."""
    error, questions = await asked(Order, {"input": ["a@b"], "confirm": True})
    assert isinstance(error, NoUI)
    assert "'select', which this form needs" in str(error)
    assert questions == []
    error, _ = await asked(Order, None)
    assert isinstance(error, NoUI)


# -- a host with forms -------------------------------------------------------------------------------------------------


class Host:
    """Answers ``ui/request`` in turn, and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        assert method == "ui/request"
        self.asked.append(params)
        return self.answers.pop(0)

    @property
    def ui(self) -> UI:
        return UI(self.ask, frozenset({"form", "open_url", "notify"}))


@on_each_loop
async def test_a_host_with_forms_is_asked_once_with_a_flat_schema() -> None:
    """Only words that hosts know: bounds, formats, choices as texts, defaults."""
    host = Host({"content": {**ANSWERS, "weight": 1.5, "count": 2}})
    assert await host.ui.form("Order?", Order) == FILLED
    assert host.asked == [
        {
            "kind": "form",
            "message": "Order?",
            "schema": {
                "type": "object",
                "properties": {
                    "mail": {"type": "string", "description": "Your address", "format": "email"},
                    "when": {"type": "string", "format": "date"},
                    "count": {"type": "integer", "minimum": 1, "maximum": 9},
                    "weight": {"type": "number", "default": 0.5},
                    "gift": {"type": "boolean", "default": False},
                    "size": {"type": "string", "default": "1", "enum": ["1", "20"]},
                    "note": {"type": "string", "maxLength": 5},
                },
                "required": ["mail", "when", "count"],
            },
        }
    ]


@on_each_loop
async def test_a_form_is_shown_again_until_it_fits_and_may_be_dismissed() -> None:
    """Five times; a field that comes as null was left out; an answer that is no object is the host's fault."""
    host = Host({"content": {"name": 5}}, {"content": {"name": "Ada", "page": None}})
    assert await host.ui.form("Who?", Typed) == {"name": "Ada"}
    assert [request["message"] for request in host.asked] == ["Who?", "Who? ($.name: expected string, got integer)"]
    host = Host(*[{"content": {}}] * 9)
    with pytest.raises(InvalidData, match=r"\$\.name: expected string, got nothing"):
        await host.ui.form("Who?", Typed)
    assert len(host.asked) == 5
    for dismissed in ({"cancelled": True}, dict[str, bool]()):
        assert await Host(dismissed).ui.form("Who?", Typed) is None
    for wrong in (None, list[int](), {"content": 5}):
        with pytest.raises(InternalError, match="the host's answer to a form is not an object"):
            await Host(wrong).ui.form("Who?", Typed)


# -- what cannot be asked ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Inner:
    a: int


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (list[str], "Form.field is nested"),
        (dict[str, int], "Form.field is nested"),
        (Inner, "Form.field is nested"),
        (Inner | None, "Form.field is nested"),
        (int | str, "Form.field is nested, or of several types"),
        (tuple[int, int], "Form.field is nested"),
        (set[str], "Form.field is nested"),
        (Any, "Form.field is nested"),
        (None, "Form.field is nested"),
        (bytes, "Form.field: bytes has no JSON form"),
        (complex, "Form.field: complex has no JSON form"),
    ],
)
@on_each_loop
async def test_a_field_that_no_form_can_ask_for_is_refused_by_name(annotation: Any, problem: str) -> None:
    """Where the form is asked for, before anything is asked; on every host."""
    cls = dataclasses.make_dataclass("Form", [("good", str), ("field", annotation)])
    error, questions = await asked(cls, by_label({}))
    assert isinstance(error, RegistrationError)
    assert problem in str(error)
    assert "\n" not in str(error)
    assert questions == []
    with pytest.raises(RegistrationError):
        await Host().ui.form("?", cls)


def test_a_form_has_fields() -> None:
    """An empty one makes some hosts hang."""

    @dataclasses.dataclass
    class Empty: ...

    class Plain: ...

    for cls, problem in (
        (Empty, "Empty has no fields"),
        (int, "int has no fields"),
        (Plain, "Plain has no JSON form"),
        (dict, "dict has no fields"),
        (5, "5 is not a class"),
        (list[str], "is not a class"),
    ):
        with pytest.raises(RegistrationError, match=problem):
            flat(cls)


def test_each_flat_type_has_its_words() -> None:
    class Wide(NamedTuple):
        moment: datetime
        id: UUID
        path: Path
        maybe: int | None
        page: Annotated[str, Format("uri")] = "https://x"
        pick: Literal["a", "b"] = "a"

    assert [(one.name, one.schema, one.required) for one in flat(Wide)] == [
        ("moment", {"type": "string", "format": "date-time"}, True),
        ("id", {"type": "string"}, True),
        ("path", {"type": "string"}, True),
        ("maybe", {"type": "integer"}, False),
        ("page", {"type": "string", "default": "https://x", "format": "uri"}, False),
        ("pick", {"type": "string", "default": "a", "enum": ["a", "b"]}, False),
    ]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("email", ["a@b", "a.b+c@d.example.org"], ["", "a", "@b", "a@", "a b@c", "a@b..c", "a@" + "b" * 9000]),
        ("uri", ["https://x", "note:1"], ["", "x", "://x", "https://a b", "https://é"]),
    ],
)
@on_each_loop
async def test_a_format_is_checked_in_arguments_too(name: Any, good: list[str], bad: list[str]) -> None:
    """By the one engine: in the schema, and when a value is read."""
    app = App("x")

    async def tool(text: Any) -> str:
        return "ok"

    tool.__annotations__["text"] = Annotated[str, Format(name)]
    app.tool(tool)
    assert app.tools["tool"].parameters["properties"]["text"] == {"type": "string", "format": name}
    async with TestHost(app) as host:
        assert not any([(await host.call_tool("tool", {"text": text})).is_error for text in good])
        assert all([(await host.call_tool("tool", {"text": text})).is_error for text in bad])


def test_a_format_that_does_not_apply_is_refused() -> None:
    app = App("x")
    with pytest.raises(ValueError, match="write 'email' or 'uri'"):
        Format("date")  # type: ignore[arg-type]

    async def tool(n: Annotated[int, Format("email")]) -> None: ...

    with pytest.raises(RegistrationError, match=r"Format\('email'\) does not apply to int; it is for str"):
        app.tool(tool)
    assert Format("uri") == Format("uri") != Format("email")
    assert len({Format("uri"), Format("uri")}) == 1


# -- pages -------------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_page_is_shown_as_a_notice_under_sep() -> None:
    """The message and the URL; without a person, ``NoUI``."""
    app, got = App("x"), list[Any]()

    @app.tool
    async def open_it(ctx: ToolContext) -> None:
        try:
            got.append(await ctx.ui.open_url("Log in", "https://example.org/a?b=c#d"))
        except NoUI as error:
            got.append(error)

    async with TestHost(app, ui={}) as host:
        await host.call_tool("open_it")
        assert getattr(host.ui_requests[0], "message", None) == "Log in\nhttps://example.org/a?b=c#d"
    async with TestHost(app) as host:
        await host.call_tool("open_it")
    assert got[0] is True
    assert isinstance(got[1], NoUI)


@on_each_loop
async def test_a_host_that_opens_pages_is_asked_to() -> None:
    host = Host({}, {"cancelled": True})
    assert await host.ui.open_url("Log in", "https://x/") is True
    assert await host.ui.open_url("Log in", "https://x/") is False
    assert host.asked[0] == {"kind": "open_url", "message": "Log in", "url": "https://x/"}


@on_each_loop
async def test_what_is_no_page_is_refused() -> None:
    """Nothing is asked: neither other schemes, nor what a terminal would obey."""
    host = Host()
    for url in (
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://",
        "x",
        "",
        "https://a b",
        "https://x\n",
        5,
        None,
    ):
        with pytest.raises(ValueError, match=r"ui\.open_url: .* is no URL"):
            await host.ui.open_url("?", url)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no URL") as caught:
        await host.ui.open_url("?", "https://x/\x1b" + "y" * 10_000)
    assert len(str(caught.value)) < 200
    assert host.asked == []
