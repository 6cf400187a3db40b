"""Prompts and exposed commands: what is registered, what a host gets of them, and how their arguments complete."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from sepkit import App, CommandContext, Completion, Image, PromptMessage, Router, ToolContext, ToolError
from sepkit.errors import InternalError, InvalidParams, RegistrationError
from sepkit.handlers import choices
from sepkit.testing import TestHost
from tests.memory_host import on_each_loop


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


def prompts() -> App:
    app = App("prompts")

    @app.prompt(title="Review a change", icons=["https://x/a.png"])
    async def review(language: Literal["python", "Perl", "rust"], lines: int = 10) -> str:
        """Have a change reviewed.

        Args:
            language: Its language.
            lines: How many.
        """
        return f"Review {lines!r} lines of {language}."

    @app.prompt(name="talk")
    def talked(ctx: CommandContext) -> list[Any]:
        return [PromptMessage("Hello"), PromptMessage(f"Hi, {ctx.host.name}", "assistant"), Image(b"BM")]

    @app.prompt
    async def bare() -> PromptMessage:
        return PromptMessage("bare")

    @app.command
    async def plan(size: Size = Size.SMALL) -> str:
        return f"plan {size.value}"

    @app.command(expose="tool")
    async def count(words: str) -> str:
        return str(len(words.split()))

    @app.command(expose=None)
    async def secret() -> None: ...

    return app


@on_each_loop
async def test_a_prompt_is_a_command_under_sep_that_gives_the_text() -> None:
    """Its name, description and arguments; a role is said where not all messages are the user's."""
    async with TestHost(prompts()) as host:
        names = [command.name for command in host.registrations.commands]
        assert names == ["review", "talk", "bare", "plan", "count", "secret"]
        assert host.registrations.commands[0].description == "Have a change reviewed."
        assert await host.run_command("review", {"language": "rust", "lines": "3"}) == "Review 3 lines of rust."
        shown = "user:\nHello\nassistant:\nHi, sepkit.testing\n[image: image/bmp, 2 bytes]"
        assert await host.run_command("talk") == shown
        assert await host.run_command("bare") == "bare"
        with pytest.raises(InvalidParams, match=r"\$\.language: expected one of"):
            await host.run_command("review", {"language": "go"})


@on_each_loop
async def test_a_host_that_knows_prompts_gets_messages() -> None:
    """Texts become messages of the user; a command that stands for a prompt gives what it shows."""
    app = prompts()
    async with TestHost(app) as host:
        assert await host.get_prompt("review", {"language": "rust"}) == [PromptMessage("Review 10 lines of rust.")]
        assert await host.get_prompt("talk") == [
            PromptMessage("Hello"),
            PromptMessage("Hi, sepkit.testing", "assistant"),
            PromptMessage(Image(b"BM")),
        ]
        assert await host.get_prompt("plan", {"size": "large"}) == [PromptMessage("plan large")]
        for name in ("count", "secret", "revue"):  # not prompts
            with pytest.raises(InvalidParams, match=f"there is no prompt '{name}'"):
                await host.get_prompt(name)
        with pytest.raises(InvalidParams, match="the arguments of review do not fit"):
            await host.get_prompt("review", {})
    assert list(app.prompts) == ["review", "talk", "bare"]
    assert [spec.name for spec in app.exposed("prompt")] == ["review", "talk", "bare", "plan"]
    assert [spec.name for spec in app.exposed("tool")] == ["count"]
    review = app.prompts["review"]
    assert (review.title, [icon.src for icon in review.icons]) == ("Review a change", ["https://x/a.png"])
    assert review.parameters["required"] == ["language"]
    assert review.parameters["properties"]["lines"] == {"type": "integer", "description": "How many.", "default": 10}


def test_a_prompt_is_had_without_a_loop_too() -> None:
    with TestHost(prompts()) as host:
        assert host.get_prompt("bare") == [PromptMessage("bare")]


@on_each_loop
async def test_a_prompt_that_fails_is_one_sentence() -> None:
    """What it raises, and what is no message."""
    app = App("x")

    @app.prompt
    async def bad(how: Literal["told", "raised", "number", "dict", "surrogate", "nothing"]) -> Any:
        if how == "told":
            raise ToolError("not today")
        if how == "raised":
            raise ValueError("secret")
        return {"number": 5, "dict": {"role": "user"}, "surrogate": "\ud800", "nothing": None}[how]

    async with TestHost(app) as host:
        with pytest.raises(InternalError, match=r"^not today$"):
            await host.get_prompt("bad", {"how": "told"})
        with pytest.raises(InternalError, match="the prompt bad failed unexpectedly") as caught:
            await host.get_prompt("bad", {"how": "raised"})
        assert "secret" not in str(caught.value)
        for how, kind in (("number", "int"), ("dict", "dict")):
            with pytest.raises(InternalError, match=f"^the prompt bad returns a str, Prompt.*, not {kind}$"):
                await host.get_prompt("bad", {"how": how})
        with pytest.raises(Exception, match="surrogate"):
            await host.get_prompt("bad", {"how": "surrogate"})
        assert await host.get_prompt("bad", {"how": "nothing"}) == []
        with pytest.raises(InternalError, match=r"^not today$"):
            await host.run_command("bad", {"how": "told"})


def test_what_does_not_fit_is_refused_where_it_is_written() -> None:
    """Names that are taken by a command, contexts of others, options of other types."""
    app = prompts()

    async def of_tools(ctx: ToolContext) -> str:
        return ""

    async def stream() -> Any:
        yield "a"

    def refused(problem: str, fn: Any = lambda: "", **options: Any) -> None:
        with pytest.raises(RegistrationError, match=problem):
            app.add_prompt(fn, **{"name": "new", **options})

    refused("command 'plan' is registered twice", name="plan")
    refused("command 'review' is registered twice", name="review")
    refused("prompt name 'a b'.*write 'a-b'", name="a b")
    refused("'ctx' is a ToolContext, which is not given here; write CommandContext", of_tools)
    refused("prompt 'new' .* is a generator", stream)
    refused("title=5: write a text", title=5)
    refused("an icon is a URL", icons=["x"])
    refused("@app.prompt decorates a function", "name")
    with pytest.raises(RegistrationError, match=r"command 'x' .*: expose='tols': write 'prompt', 'tool' or None"):
        app.add_command(lambda: "", name="x", expose="tols")  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="command 'talk' is registered twice"):
        app.command(name="talk")(lambda: "")
    router = Router()
    router.add_prompt(lambda: "", name="talk")
    with pytest.raises(RegistrationError, match="command 'talk' is registered twice"):
        app.include(router)
    assert "new" not in app.commands


def test_a_command_and_a_tool_of_one_name_are_refused_where_one_is_to_be_the_other() -> None:
    """Two tools would meet in a client; before anything is served."""
    app = App("x")
    app.add_command(lambda: "", name="count")
    app.add_tool(lambda: "", name="count")
    app.check()
    app.add_command(lambda: "", name="count", expose="tool", replace=True)
    with pytest.raises(
        RegistrationError, match=r"""command 'count' .* has expose="tool", and there is a tool of that"""
    ):
        app.check()


@on_each_loop
async def test_prompts_are_registered_and_replaced_while_the_app_is_served() -> None:
    """The host is told of a command; a face, of a prompt."""
    app, told = prompts(), list[Any]()
    router = Router()
    router.add_prompt(lambda: "of a router", name="more")
    app.include(router)
    async with TestHost(app) as host:
        host._served.changed(told.extend)
        app.add_prompt(lambda: "later", name="later")
        await host.ping()
        assert "later" in [command.name for command in host.registrations.commands]
        assert told == [("command", "later"), ("prompt", "later")]
        app.add_prompt(lambda: "another", name="later", replace=True)
        assert await host.get_prompt("later") == [PromptMessage("another")]
        assert await host.get_prompt("more") == [PromptMessage("of a router")]
        app.add_command(lambda: "a command", name="later", replace=True)
        assert "later" not in app.prompts
        assert await host.run_command("later") == "a command"


@on_each_loop
async def test_arguments_complete_by_their_choices_and_by_a_completer() -> None:
    """Literal and Enum by themselves, of any argument; ``@app.complete`` for the first one."""
    app = prompts()

    @app.complete("talk")
    async def words(partial: str) -> list[str]:
        return [partial + "!"]

    @app.prompt
    async def both(city: str, size: Size | None = None, number: Literal[1, 20] = 1) -> str:
        return city

    @app.complete("both")
    async def cities(partial: str, ctx: CommandContext) -> list[Completion]:
        return [Completion("Oslo", ctx.host.name)]

    async with TestHost(app) as host:
        found = await host.complete_command("review", "p")
        assert [one.value for one in found] == ["python", "Perl"]
        assert [one.value for one in await host.complete_command("plan")] == ["small", "large"]
        assert [one.value for one in await host.complete_command("talk", "a")] == ["a!"]
        assert await host.complete_command("count", "a") == []
        assert await host.complete_command("bare") == []
        assert await host.complete_command("both", "O") == [Completion("Oslo", "sepkit.testing")]
        assert host._link is not None
        context = CommandContext[Any](host._link, {"token": "", "tier": "command"}, "both", {})
        calls, spec = host._served.calls, app.prompts["both"]
        assert await calls.complete(spec, "city", "O", context) == [Completion("Oslo", "sepkit.testing")]
        assert await calls.complete(spec, "size", "L", context) == ["large"]
        assert await calls.complete(spec, "number", "2", context) == ["20"]
        assert await calls.complete(spec, "nothing", "", context) == []


def test_choices_are_read_of_any_schema() -> None:
    """Also of one that an author wrote by hand."""
    schema = {"properties": {"a": {"enum": ["x", 1, None, True]}, "b": True, "c": {"anyOf": [True, {"enum": ["y"]}]}}}
    assert choices(schema, None, "") == ["x", "1", "true"]
    assert choices(schema, "b", "") == []
    assert choices(schema, "c", "Y") == ["y"]
    assert choices({}, None, "") == []
    assert choices({"properties": {}}, None, "") == []


def test_inspect_shows_prompts_resources_and_what_is_told_of_a_tool(tmp_path: Path) -> None:
    """As text and as JSON, in a real process."""
    (tmp_path / "many.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import Literal\n"
        "from sepkit import App\n"
        "app = App('many', icons=['https://x/a.png'])\n"
        "@dataclass\n"
        "class Out:\n"
        "    n: int\n"
        "@app.tool(title='T', destructive=False, open_world=True, long=True, icons=['data:,x'])\n"
        "async def t() -> Out: return Out(1)\n"
        "@app.tool\n"
        "async def plain() -> str: return ''\n"
        "@app.prompt(title='P')\n"
        "async def p(a: Literal['x'], b: int = 1) -> str:\n"
        "    'A prompt.'\n"
        "    return ''\n"
        "@app.command(expose='tool')\n"
        "async def c() -> None: ...\n"
        "@app.command(expose=None)\n"
        "async def d() -> None: ...\n"
        "@app.resource('r://{id}', title='R', mime='text/plain')\n"
        "def r(id: int) -> str: return ''\n"
    )
    command = [sys.executable, "-m", "sepkit", "inspect", "many:app"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "many 0.0.0\n\ntools:\n"
        "  t()  'T'\n      returns n: integer\n      many.py:8, in the loop, open world, long, not destructive\n"
        "  plain()\n      many.py:10, in the loop\n\n"
        "commands:\n  /c\n      many.py:16, in the loop, a tool of MCP clients\n"
        "  /d\n      many.py:18, in the loop, not for MCP clients\n\n"
        "prompts (commands under SEP):\n  p(a: \"x\", b: integer (optional))  'P'\n      A prompt.\n"
        "      many.py:12, in the loop\n\n"
        "resources (not under SEP):\n  r://{id} (id: integer)  'R'\n      many.py:20, text/plain, in a thread\n"
    )
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    assert shown["icons"] == [{"src": "https://x/a.png"}]
    tool, plain = shown["tools"]
    assert {name: tool[name] for name in ("title", "destructive", "open_world", "long")} == {
        "title": "T",
        "destructive": False,
        "open_world": True,
        "long": True,
    }
    assert tool["output_schema"]["properties"] == {"n": {"type": "integer"}}
    assert "title" not in plain
    assert [one["name"] for one in shown["commands"]] == ["c", "d"]
    assert (shown["prompts"][0]["title"], shown["resources"][0]["uri"]) == ("P", "r://{id}")
    assert shown["resources"][0]["tool"] is None
