"""The command line on a terminal: it fits, it obeys nothing that an extension says, and it tells what it waits for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sepkit.terminal import cells
from tests.on_terminal import ESCAPE, shown, without_escapes

APP = '''
import asyncio
from typing import Literal
from sepkit import App, Completion, ToolContext, ToolError, TaskContext, render

app = App("wide", version="1")
app.flag("verbose", default=False, description="Say more than is good for anybody, " * 4)

@app.tool
async def query(sql: str, limit: int = 10, order: Literal["newest", "oldest"] = "newest", tags: list[str] = [],
                headers: dict[str, str] = {}, verbose: bool = False) -> str:
    """漢字の説明 Run a query that has a description which is longer than any terminal of only eighty columns can show.

    More.
    """
    return sql

@app.tool
async def evil(ctx: ToolContext) -> str:
    """Evil."""
    ctx.update("a message that is longer than the terminal " * 6, progress=0.25)
    ctx.update("progress \\x1b[41m\\x9b5A\\rover", progress=0.5)
    await ctx.ui.notify("first\\nother: second \\x1b[42m :bug:")
    await ctx.ui.set_status("status \\x1b]0;title\\x07")
    await ctx.ui.set_widget(render.table(["what", "how many"], [["pear \\x1b[43m" * 12, "3"], ["漢字" * 40, "4"]]))
    await ctx.ui.set_widget(render.markdown("[text](http://elsewhere.example/) \\x1b[44m"))
    print("printed \\x1b[45m")
    return "result \\x1b[46m \\u202etxet\\nline"

@app.tool
async def fail() -> str:
    """Fail."""
    raise ToolError("failed \\x1b[47m")

@app.command
async def plan(state: str = "on") -> str:
    """Plan."""
    return state

@app.complete("plan")
async def states(partial: str) -> list[Completion]:
    return [Completion("on", "words \\x1b[41m " * 12), Completion("off", "off")]

@app.task
async def beat(ctx: TaskContext) -> None:
    ctx.report_health("fine, with so many words \\x1b[41m that the line is longer than eighty columns are")
    await ctx.wait_stop()
'''

SGR = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


def sepkit(folder: Path, *words: str, environ: dict[str, str] | None = None) -> str:
    return shown(["-m", "sepkit", *words], folder, environ=environ)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "words",
    ["inspect app:app", "complete app:app plan", "spec", "conformance --list", "run app:app", "call app:app evil"],
)
def test_what_is_shown_fits_the_terminal(folder: Path, words: str, columns: int) -> None:
    """No line is longer than the terminal; where there is room, it is used."""
    typed = [("Ctrl+D", b"\x04")] if words.startswith("run") else []
    text = shown(["-m", "sepkit", *words.split()], folder, columns, typed)
    drawn = re.split(r"[\n\r]|\x1b\[2K", text)
    widths = [cells(ESCAPE.sub("", line)) for line in drawn]
    assert max(widths) <= columns, drawn[widths.index(max(widths))]
    if columns == 120 and words in ("inspect app:app", "complete app:app plan"):
        assert max(widths) > 80


def test_nothing_that_an_extension_says_is_obeyed(folder: Path) -> None:
    """Results, errors, progress, notifications, widgets, and what it prints: control characters are escapes."""
    text = sepkit(folder, "call", "app:app", "evil")
    for code in (41, 42, 43, 44, 45, 46):
        assert f"\x1b[{code}m" not in text
        assert rf"\x1b[{code}m" in text
    for obeyed in ("\x9b", "\x1b]", "\x07", "\u202e"):
        assert obeyed not in text
    assert r"\u202etxet" in text
    assert "app: info: first\n  other: second" in text, "a second line does not look like another extension's"
    assert re.search(r"a message that is longer[^\n]*… [^\n]* 25%", without_escapes(text)), "the bar keeps its place"
    assert ":bug:" in text, "nor is it a name of an emoji"
    assert "http://elsewhere.example/" in text, "a link shows where it leads"
    failed = sepkit(folder, "call", "app:app", "fail")
    assert r"failed \x1b[47m" in failed
    assert "\x1b[47m" not in failed
    asked = sepkit(folder, "complete", "--json", "app:app", "plan", "on")
    assert r"words \u001b[41m" in asked
    assert "\x1b" not in asked.partition("tasks:")[0]


def test_colour_is_for_terminals_that_want_it(folder: Path) -> None:
    """There is some on a terminal, and none under NO_COLOR or on a terminal that is dumb."""
    assert SGR.search(sepkit(folder, "inspect", "app:app"))
    for environ in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in sepkit(folder, "inspect", "app:app", environ=environ)
        called = sepkit(folder, "call", "app:app", "query", "sql=1", environ=environ)
        assert not re.search(r"\x1b\[[\d;]*(3\d|4\d|9\d)", called)

    coloured, plain = (
        sepkit(folder, "call", "app:nope", "x"),
        sepkit(folder, "call", "app:nope", "x", environ={"NO_COLOR": "1"}),
    )
    assert without_escapes(coloured) == plain


def test_run_tells_a_person_what_it_waits_for(folder: Path) -> None:
    """On a terminal: that it waits for a host, what to type, and how to end it. What it says to type works."""
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
    text = shown(["-m", "sepkit", "run", "app:app"], folder, 80, [("call app:app", ping), ('"result"', b"\x04")])
    assert "wide 1 waits for a host: SEP on stdin" in text
    assert ping.decode().strip() in text.partition("Ctrl+D")[2]
    assert "-m sepkit call app:app query sql=…\n" in text
    assert "-m sepkit command app:app plan\n" in text
    assert '"result":{}' in text


def test_an_app_that_is_started_as_a_script_says_how_to_start_it(folder: Path) -> None:
    """``python app.py`` and ``python -m app`` end at once: on a terminal they say what to type instead."""
    text = shown(["app.py"], folder)
    assert "sepkit: wide is an extension, and waits for a host to start it with\n" in text
    assert "-m sepkit run app.py:app\n" in text
    assert "-m sepkit call app.py:app query sql=…\n" in text
    assert "-m sepkit run app:app\n" in shown(["-m", "app"], folder)


@pytest.mark.parametrize(
    "rest",
    [
        "raise ValueError('mine')",
        "from sepkit.testing import TestHost\nwith TestHost(app) as host:\n    host.call_tool('query', {'sql': 'x'})",
        "import sepkit.host",
    ],
    ids=["fails", "serves it", "is a host"],
)
def test_a_script_that_does_something_else_is_left_alone(folder: Path, rest: str) -> None:
    """One that has failed, has served its app, or loads extensions does not want the advice."""
    (folder / "other.py").write_text(f"{APP}\n{rest}\n", encoding="utf-8")
    assert "waits for a host" not in shown(["other.py"], folder)
