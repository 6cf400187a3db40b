"""The console: what a person at a terminal is asked and shown, and what is written where there is no terminal."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sepkit import render
from sepkit.errors import NoUI
from sepkit.host.console import READING_TIME, Console, plain
from sepkit.wire import messages

APP = """
from sepkit import App, ToolContext, render

app = App("shop")

@app.tool
async def order(ctx: ToolContext) -> str:
    ctx.update("looking", progress=0.5)
    await ctx.ui.set_title("Shop")
    await ctx.ui.set_status("open")
    await ctx.ui.notify("hello [b]you[/b]", level="warn")
    await ctx.ui.set_widget(render.table(["what", "how many"], [["pear", "3"]]))
    size = await ctx.ui.select("Which size?", ["small", "large"])
    sure = await ctx.ui.confirm("Sure?")
    name = await ctx.ui.input("For whom?", default="Ada")
    ctx.update("done", progress=1)
    return f"{size} {sure} {name}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def at_a_terminal(folder: Path, answers: list[tuple[str, str]]) -> tuple[str, int]:
    """Run ``sepkit call`` on a terminal, and answer each prompt; all that was shown, and the exit code."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(
        [sys.executable, "-m", "sepkit", "call", "app:app", "order"],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the other end of a terminal is gone
                break
            if not data:
                break
            shown += data.decode("utf-8", "replace")
            if answers and answers[0][0] in shown:
                prompt, answer = answers.pop(0)
                shown = shown.replace(prompt, "<asked>", 1)
                os.write(ours, answer.encode() + b"\n")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n"), child.wait(10)
    finally:
        child.kill()
        os.close(ours)


def test_a_person_at_a_terminal_is_asked_and_shown_each_kind(folder: Path) -> None:
    """Select, confirm and input are asked at the terminal; status, widgets and progress are drawn."""
    answers = [("Number (nothing to dismiss): ", "7"), ("1 to 2, please: ", "2")]
    answers += [("(y/n, nothing to dismiss)", "maybe"), ("y or n, please: ", "y"), ("For whom? [Ada]", "")]
    shown, code = at_a_terminal(folder, answers)
    assert (code, answers) == (0, []), shown
    assert "shop" not in shown
    assert "app: # Shop\n" in shown
    assert "app: open\n" in shown
    assert "app: warn: hello [b]you[/b]\n" in shown, "what an extension says is no markup"
    assert re.search(r"│ ┃ what ┃ how many ┃ +│", shown), "drawn in a frame"
    assert "1. small" in shown
    assert re.search(r"looking .*50%", shown)
    assert shown.rstrip().endswith("large True Ada")


def test_what_is_dismissed_is_none(folder: Path) -> None:
    """A question of any kind may be dismissed, which is answered with ``cancelled``.

    Source: docs/protocol.md, section 4.
    """
    answers = [("Number (nothing to dismiss): ", ""), ("(y/n, nothing to dismiss)", ""), ("For whom?", "Bo")]
    shown, code = at_a_terminal(folder, answers)
    assert code == 0
    assert shown.rstrip().endswith("None None Bo")


def test_without_a_terminal_nothing_is_asked_and_lines_are_plain(folder: Path) -> None:
    """Output that is not a terminal gets plain lines; a question to the user raises NoUI."""
    done = subprocess.run(
        [sys.executable, "-m", "sepkit", "call", "app:app", "order"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    shown = ["app: [ 50%] looking", "app: # Shop", "app: open", "app: warn: hello [b]you[/b]"]
    assert done.stderr.splitlines()[:6] == [*shown, "app: what  how many", "  pear  3"]
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        (render.markdown("# a\nb"), ["# a", "b"]),
        (render.keyvalue({"a": "1"}, title="t"), ["t", "a: 1"]),
        (render.table(["x", "yy"], [["long", "1"]]), ["x     yy", "long  1"]),
        (render.table([], []), [""]),
        (render.diff("-a\n+b"), ["-a", "+b"]),
        (render.progress(0.25, label="half of half"), ["[ 25%] half of half"]),
        (render.stack(render.markdown("a"), render.progress(1)), ["a", "[100%]"]),
        (render.widget("w", render.markdown("a"), {"q": "quit", "x": None}), ["a", "[q] quit  [x]"]),
        ({"kind": "hologram", "text": "a\nb"}, ["a", "b"]),
        ({"kind": "hologram"}, ["(a hologram block)"]),
        ({}, ["(a nameless block)"]),
        ({"kind": "table", "columns": 5, "text": "instead"}, ["instead"]),
    ],
    ids=lambda value: value.get("kind", "none") if isinstance(value, dict) else "",
)
def test_each_block_has_a_plain_form(block: dict[str, object], lines: list[str]) -> None:
    """Each render block may carry ``text``, the plain fallback, and has one without it.

    Source: docs/protocol.md, section 8.
    """
    assert list(plain(block)) == lines


def test_one_question_at_a_time() -> None:
    """Requests of extensions are served side by side, but questions to the one user are queued."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    async def ask_both() -> list[messages.UiResult]:
        console = Console(stdin=Terminal("y\nn\n"), stderr=io.StringIO())
        asked = [console.ui(name, messages.ConfirmRequest(prompt="Sure?")) for name in ("one", "two")]
        return list(await asyncio.gather(*asked))

    assert [result.confirmed for result in asyncio.run(ask_both())] == [True, False]


def test_an_answer_belongs_to_the_question_that_is_shown() -> None:
    """A question that is withdrawn (its extension has died) takes no answer; no old answer is the next one's.

    The next one takes nothing for half a second: the person may be about to answer the one that is gone.
    """
    ours, theirs = pty.openpty()
    now = 0.0

    async def ask() -> list[object]:
        nonlocal now
        with os.fdopen(theirs, encoding="utf-8", closefd=False) as stdin:
            shown = io.StringIO()
            console = Console(stdin=stdin, stderr=shown, clock=lambda: now)

            async def until_shown(text: str) -> None:
                async with asyncio.timeout(20):
                    while text not in shown.getvalue():
                        await asyncio.sleep(0.01)

            async def withdraw(number: int) -> None:
                asked = asyncio.create_task(console.ui("one", messages.ConfirmRequest(prompt=f"Withdrawn {number}?")))
                await until_shown(f"Withdrawn {number}?")
                asked.cancel()
                await asyncio.wait([asked])

            async def answered(number: int, answer: str, *, too_soon: str = "") -> object:
                nonlocal now
                asked = asyncio.create_task(console.ui("two", messages.ConfirmRequest(prompt=f"Asked {number}?")))
                await until_shown(f"Asked {number}?")
                if too_soon:
                    now += READING_TIME - 0.1
                    reading = console._typing
                    os.write(ours, too_soon.encode() + b"\n")
                    async with asyncio.timeout(20):
                        while console._typing is reading:
                            await asyncio.sleep(0.001)
                now += READING_TIME
                os.write(ours, answer.encode() + b"\n")
                return (await asyncio.wait_for(asked, 20)).confirmed

            await withdraw(1)
            found = [await answered(1, "y")]
            await withdraw(2)
            os.write(ours, b"n\n")  # typed when nobody asks any more
            async with asyncio.timeout(20):
                while not (console._typing is not None and console._typing.done()):
                    await asyncio.sleep(0.001)
            now += 0.1
            found += [await answered(2, "y"), await answered(3, "n")]
            await withdraw(3)
            found += [await answered(4, "y", too_soon="n")]
            assert shown.getvalue().count("(withdrawn)") == 3
            return found

    try:
        assert asyncio.run(ask()) == [True, True, False, True]
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_console_without_a_person_says_so() -> None:
    """A question to a console without a user is answered with -32001. Source: docs/protocol.md, section 4."""

    async def ask() -> None:
        console = Console(stdin=io.StringIO("y\n"), stderr=io.StringIO())
        assert "confirm" not in console.ui_kinds
        with pytest.raises(NoUI):
            await console.ui("one", messages.ConfirmRequest(prompt="Sure?"))

    asyncio.run(ask())
