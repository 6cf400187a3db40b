"""What an author gives is checked against the wire where it is written, and refused there by name."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import pytest

from sepkit import App, Delta, Model
from sepkit.errors import RegistrationError
from sepkit.faces.sep.registrations import registrations, task_registrations
from sepkit.wire.frames import dumps
from sepkit.wire.writing import unstructure

HALF = "\ud83d"  # half of an emoji
HUGE = 2**64
LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP


not_text: Any = 5


class Huge(Enum):
    A = HUGE


class HalfText(Enum):
    A = HALF


def a_tool(annotation: Any, **options: Any) -> Callable[[App], Any]:
    def register(app: App) -> None:
        def f(x: Any) -> None: ...

        f.__annotations__["x"] = annotation
        app.add_tool(f, **options)

    return register


def described(text: str) -> Callable[..., Any]:
    async def f() -> None: ...

    f.__doc__ = text
    return f


async def streams(request: dict[str, Any]) -> AsyncIterator[Delta]:
    yield Delta("")


def defaults_to(default: Any) -> Callable[..., Any]:
    def f(x: Any = default) -> None: ...

    return f


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a default past 64 bits": (lambda app: app.tool(defaults_to(HUGE)), "tool 'f' #: parameter 'x': the default"),
    "a default with half a character": (lambda app: app.tool(defaults_to(HALF)), "a text with a lone surrogate"),
    "a default that holds itself": (lambda app: app.tool(defaults_to(LOOP)), "contains itself"),
    "half a character in a docstring": (
        lambda app: app.tool(described(f"Greet {HALF}")),
        "tool 'f' #: description can't be sent: a text with a lone surrogate",
    ),
    "half a character for a parameter": (a_tool(Annotated[int, HALF]), "tool 'f' #: parameter 'x'"),
    "half a character in a pattern": (a_tool(Annotated[str, at.MinLen(1)] | Literal[HALF]), "parameter 'x'"),
    "a bound past 64 bits": (a_tool(Annotated[int, at.Le(HUGE)]), "parameter 'x': Le(18446744073709551616)"),
    "a bound of infinity": (a_tool(Annotated[float, at.Ge(math.inf)]), "parameter 'x': Ge(inf)"),
    "a bound that is not a number": (a_tool(Annotated[float, at.Le(math.nan)]), "parameter 'x': Le(nan)"),
    "a bound that is text": (a_tool(Annotated[int, at.Ge("5")]), "parameter 'x': Ge('5')"),
    "a bound that JSON does not have": (a_tool(Annotated[float, at.Ge(Fraction(1, 3))]), "Fraction(1, 3)"),
    "a divisor of 0": (a_tool(Annotated[int, at.MultipleOf(0)]), "parameter 'x': MultipleOf(0)"),
    "a negative length": (a_tool(Annotated[str, at.MinLen(-1)]), "parameter 'x': MinLen(-1)"),
    "a length past 64 bits": (a_tool(Annotated[str, at.MaxLen(HUGE)]), "parameter 'x': MaxLen("),
    "Literal past 64 bits": (a_tool(Literal[HUGE]), "parameter 'x': Literal[18446744073709551616] holds"),
    "Enum past 64 bits": (a_tool(Huge), "parameter 'x': Huge holds"),
    "Enum with half a character": (a_tool(list[HalfText]), "parameter 'x': HalfText holds"),
    "a builtin": (lambda app: app.tool(min), "tool 'min': its signature can't be read"),
    "strict= of text": (a_tool(int, strict="no"), "tool 'f' #: strict='no'"),
    "deferred= of text": (a_tool(int, deferred="no"), "tool 'f' #: deferred='no'"),
    "timeout= of text": (a_tool(int, timeout="5"), "tool 'f' #: timeout"),
    "timeout= without end": (a_tool(int, timeout=math.inf), "tool 'f' #: timeout"),
    "description= of a number": (a_tool(int, description=5), "tool 'f' #: description: expected string"),
    "parameters= past 64 bits": (
        a_tool(int, parameters={"properties": {"x": {"maximum": HUGE}}}),
        "tool 'f' #: parameters= can't be sent: $.properties.x.maximum: an integer that does not fit 64 bits",
    ),
    "parameters= not finite": (a_tool(int, parameters={"properties": {"x": {"maximum": math.nan}}}), "not finite"),
    "parameters= that hold themselves": (a_tool(int, parameters=LOOP), "contains itself"),
    "parameters= of bytes": (a_tool(int, parameters={"properties": {"x": {"const": b""}}}), "of type bytes"),
    "parameters= without an object": (a_tool(int, parameters={"properties": []}), "parameters= must be"),
    "a command's docstring": (lambda app: app.command(described(HALF)), "command 'f' #: description can't be sent"),
    "a command's name": (lambda app: app.command(name=5)(described("")), "command name 5"),
    "a command's default": (lambda app: app.command(defaults_to(HUGE)), "command 'f' #: parameter 'x': the default"),
    "a task's docstring": (lambda app: app.task(described(HALF)), "task 'f' #: description can't be sent"),
    "a task's switch": (lambda app: app.task(autostart="no")(described("")), "task 'f' #: autostart: expected boolean"),
    "an event's name": (lambda app: app.on(f"x{HALF}"), "@app.on("),
    "a topic": (lambda app: app.on_bus(f"x{HALF}"), "@app.on_bus("),
    "a shortcut's key": (lambda app: app.shortcut(f"x{HALF}", "c"), "app.shortcut("),
    "a shortcut's command": (lambda app: app.shortcut("ctrl+p", 5), "shortcut 'ctrl+p': command=5"),
    "a shortcut's text": (lambda app: app.shortcut("ctrl+p", "c", HALF), "shortcut 'ctrl+p': description can't be"),
    "a flag's default": (lambda app: app.flag("f", object()), "flag 'f': the default cannot be written as JSON"),
    "a flag's huge default": (lambda app: app.flag("f", HUGE), "flag 'f': the default cannot be written as JSON"),
    "a renderer's tag": (lambda app: app.renderer(f"x{HALF}", {}), "app.renderer("),
    "a renderer's template": (lambda app: app.renderer("x", {"kind": "text", "text": HALF}), "renderer 'x'"),
    "a model's id": (
        lambda app: app.provider("p", models=[Model(id=not_text)]),
        "provider 'p': models[0].id: expected string",
    ),
    "a model's name": (lambda app: app.provider("p", models=[Model(HALF)]), "provider 'p': models[0].id can't be"),
    "models= of one model": (lambda app: app.provider("p", models=Model("m")), "provider 'p': models= takes a list"),
    "models= of None": (lambda app: app.provider("p", models=None), "provider 'p': models= takes a list"),
    "base_url= of a number": (lambda app: app.provider("p", base_url=5), "provider 'p': base_url: expected string"),
    "an added provider": (lambda app: app.add_provider(streams, "p", api_key_env=HALF), "provider 'p': api_key_env"),
    "an app's version": (lambda app: App("t", version=not_text), "App 't': version: expected string"),
    "an app's lifespan": (lambda app: App("t", lifespan=not_text), "lifespan=5"),
    "what a decorator is put on": (lambda app: app.hook("tool_call")(5), "decorates a function"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_the_wire_is_refused_where_it_is_written(name: str) -> None:
    """One such registration would fail ``initialize`` for the whole extension, and nothing would say which it is."""
    register, says = WRONG[name]
    app = App("t")
    with pytest.raises(RegistrationError) as caught:
        register(app)
    message = str(caught.value)
    for part in says.split("#"):
        assert part in message
    if "#" in says:
        assert "test_checked_registrations.py:" in message
    message.encode()  # it can be printed
    dumps(unstructure(registrations(app)))  # nothing of it is left


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        (at.Ge(Decimal("0.5")), {"minimum": 0.5}),
        (at.Gt(Decimal("2")), {"exclusiveMinimum": 2}),
        (at.Ge(Fraction(1, 2)), {"minimum": 0.5}),
        (at.Ge(-math.inf), {}),
        (at.Interval(ge=0, lt=math.inf), {"minimum": 0}),
        (at.MultipleOf(Decimal("0.1")), {"multipleOf": 0.1}),
    ],
    ids=str,
)
def test_a_bound_of_another_kind_of_number_is_said_as_json_has_it(constraint: Any, said: dict[str, Any]) -> None:
    """``Ge(Decimal("0.5"))`` failed the handshake, and ``Ge(-inf)`` sent ``"minimum": null``."""
    app = App("t")
    a_tool(Annotated[float, constraint])(app)
    assert app.tools["f"].parameters["properties"]["x"] == {"type": "number", **said}
    dumps(unstructure(registrations(app)))
    assert app.tools["f"].bind({"x": 5}) == {"x": 5.0}


def test_what_a_host_is_told_is_what_was_checked() -> None:
    """A schema that its author changes later is not sent as it is then."""
    app = App("t")
    schema: dict[str, Any] = {"properties": {"x": {"type": "integer"}}}
    a_tool(int, parameters=schema)(app)
    app.task(described("Tidy up."))
    schema["properties"]["x"]["maximum"] = HUGE
    dumps(unstructure(registrations(app)))
    assert task_registrations(app)[0].description == "Tidy up."


def test_inspect_names_the_function_the_parameter_and_the_reason(tmp_path: Path) -> None:
    """As ``run`` does, where before the handshake failed with "a registration can't be sent"."""
    text = "from sepkit import App\napp = App('t')\n@app.tool\ndef count(n: int = 2**64) -> None: ...\n"
    (tmp_path / "app.py").write_text(text, encoding="utf-8")
    for verb in ("inspect", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "sepkit", verb, "app:app"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        assert done.returncode == 7
        assert "tool 'count'" in done.stderr
        assert "app.py:3): parameter 'n': the default can't be sent: an integer that does not fit 64" in done.stderr
        assert not done.stdout
