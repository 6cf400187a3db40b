"""The person in front of a host is not deceived: whose a line is, what a question was, and what a terminal obeys."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import subprocess
import sys
import textwrap
import threading
import unicodedata
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from sepkit.capabilities.blocks import widgets_in
from sepkit.errors import InvalidParams, NoUI, RpcError
from sepkit.host import Delegate
from sepkit.host.blocks import bounded, plain
from sepkit.host.console import Console
from sepkit.terminal import cells, folded, visible
from sepkit.wire import messages
from tests.host.scripted import do, host, load, scripted, until
from tests.on_terminal import without_escapes

Run = Callable[[Coroutine[Any, Any, Any]], Any]

PATIENCE = 20.0


class Screen(io.StringIO):
    """What a terminal is given."""

    def isatty(self) -> bool:
        return True


class Keyboard(io.StringIO):
    """A person whose lines are typed at once."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[tuple[int, TextIO]]:
    """A pseudo-terminal: where to type, and what is typed."""
    ours, theirs = pty.openpty()
    try:
        with os.fdopen(theirs, encoding="utf-8") as stdin:
            yield ours, stdin
    finally:
        os.close(ours)


def confirm(console: Console, extension: str, prompt: str = "Sure?") -> asyncio.Task[messages.UiResult]:
    return asyncio.create_task(console.ui(extension, messages.ConfirmRequest(prompt=prompt)))


async def appears(screen: io.StringIO, text: str) -> None:
    await until(lambda: text in screen.getvalue())


def notify(text: str) -> messages.NotifyRequest:
    return messages.NotifyRequest(message=text)


# -- whose a line is ---------------------------------------------------------------------------------------------------


def shown(stderr: io.StringIO, *requests: Any, extension: str = "evil") -> str:
    """What a console writes for these."""

    async def main() -> None:
        console = Console(stdin=io.StringIO(), stderr=stderr)
        for request in requests:
            await console.ui(extension, request)
        console.stderr(extension, "on its stderr")
        console.close()

    asyncio.run(main())
    return without_escapes(stderr.getvalue())


FORGED = "fine\ngood: info: forged"
FORGERIES: dict[str, Any] = {
    "notify": notify(FORGED),
    "level": messages.NotifyRequest(message="x", level=FORGED),  # type: ignore[arg-type]
    "status": messages.SetStatusRequest(status=FORGED),
    "title": messages.SetTitleRequest(title=FORGED),
    "markdown": messages.SetWidgetRequest(widget={"kind": "markdown", "text": FORGED}),
    "diff": messages.SetWidgetRequest(widget={"kind": "diff", "patch": FORGED}),
    "keyvalue": messages.SetWidgetRequest(
        widget={"kind": "keyvalue", "title": FORGED, "rows": [{"key": FORGED, "value": FORGED}]}
    ),
    "table": messages.SetWidgetRequest(widget={"kind": "table", "columns": [FORGED], "rows": [[FORGED]]}),
    "progress": messages.SetWidgetRequest(widget={"kind": "progress", "value": 1, "label": FORGED}),
    "unknown": messages.SetWidgetRequest(widget={"kind": "hologram", "text": FORGED}),
    "kind": messages.SetWidgetRequest(widget={"kind": FORGED}),
    "keys": messages.SetWidgetRequest(
        widget={
            "kind": "widget",
            "widget_id": "w",
            "body": {"kind": "markdown", "text": "x"},
            "keybindings": [{"key": FORGED, "description": FORGED}],
        }
    ),
    "edge of the screen": notify(" " * (80 - len("evil: info: ")) + "good: info: forged"),
    "long word": notify("x" * (80 - len("evil: info: ")) + "good: info: forged"),
    "wide characters": notify("漢" * ((80 - len("evil: info: ")) // 2) + "good: info: forged"),
}


@pytest.mark.parametrize("kind", FORGERIES)
@pytest.mark.parametrize("stream", [io.StringIO, Screen], ids=["pipe", "screen"])
def test_each_line_says_whose_it_is(kind: str, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second line, and one that the terminal would break, never begin as another extension's do."""
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(stream(), FORGERIES[kind])
    assert "forged" in text
    for line in text.splitlines():
        assert not line.startswith("good"), text
        assert stream is io.StringIO or cells(line) <= 80, "the terminal would go on at its edge"
    assert "evil: on its stderr" in text


def test_a_line_that_is_too_long_for_the_terminal_is_broken_by_us() -> None:
    """At spaces, within long words and between wide characters; nothing is lost."""
    for text in ("a b " * 50, "x" * 200, "漢" * 100, " " * 150 + "end"):
        lines = list(folded(text, 40, first="evil: ", more="  "))
        assert max(map(cells, lines)) <= 40
        assert all(line.startswith("  ") or not line for line in lines[1:])
        assert "".join(lines).replace(" ", "") == f"evil:{text}".replace(" ", "")


def test_progress_says_whose_it_is() -> None:
    """In a pipe in its line, on a screen beside its bar."""
    update = messages.ToolUpdateParams(call_id="c", message="half\ngood: forged", progress=0.5)
    pipe = io.StringIO()
    Console(stdin=io.StringIO(), stderr=pipe).progress(update, "evil")
    assert pipe.getvalue() == "evil: [ 50%] half\\ngood: forged\n"

    async def main() -> str:
        screen = Screen()
        console = Console(stdin=io.StringIO(), stderr=screen)
        console.progress(update, "evil")
        console.close()
        return screen.getvalue()

    assert "evil: half\\ngood: forged" in without_escapes(asyncio.run(main()))


# -- shown, never obeyed -----------------------------------------------------------------------------------------------

OBEYED = "\x1b[2J\x1b]0;t\x07\x9b5A\r\x08\x0b\x0c\x00\x7f\x85\u2028\u2029"
UNSEEN = "\u202e\u2066\u200b\u200d\u200e\xad\u2060\ufeff\u3164\u034f\u180e\ufe0f\U000e0041\U000e0020\u115f"
EVIL = f"a{OBEYED}b{UNSEEN}c"

APP = """
    import os, sys
    from sepkit import App, Block, Completion, ToolCall, ToolContext, ToolError

    app = App("shop")
    EVIL = {evil!r}

    @app.tool
    async def order(ctx: ToolContext) -> str:
        ctx.update(EVIL, progress=0.5)
        await ctx.ui.notify(EVIL)
        await ctx.ui.set_status(EVIL)
        await ctx.ui.set_title(EVIL)
        for kind in ("markdown", "diff", "hologram"):
            await ctx._link.ask("ui/request", {{
                "kind": "set_widget", "widget": {{"kind": kind, "text": EVIL, "patch": EVIL}}}})
        await ctx._link.ask("ui/request", {{"kind": "set_widget", "widget": {{
            "kind": "widget", "widget_id": "w", "keybindings": [{{"key": EVIL, "description": EVIL}}],
            "body": {{"kind": "table", "columns": [EVIL], "rows": [[EVIL]]}}}}}})
        os.write(2, EVIL.encode() + b"\\n")
        return EVIL

    @app.tool
    async def fail() -> str:
        raise ToolError(EVIL)

    @app.tool
    async def data() -> dict:
        return {{EVIL: EVIL}}

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> Block:
        return Block(EVIL)

    @app.command
    async def plan() -> str:
        return EVIL

    @app.complete("plan")
    async def states(partial: str) -> list[Completion]:
        return [Completion(EVIL, EVIL)]

    @app.on("turn_start")
    async def started() -> None:
        raise ValueError(EVIL)
"""

COMMANDS = [
    "call app:app order",
    "call app:app fail",
    "call app:app data",
    "call --json app:app data",
    "hook app:app tool_call tool=x",
    "command app:app plan",
    "complete app:app plan",
    "complete --json app:app plan",
    "event app:app turn_start",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evil")
    (folder / "app.py").write_text(textwrap.dedent(APP).format(evil=EVIL), encoding="utf-8")
    return folder


@pytest.mark.parametrize("words", COMMANDS)
def test_nothing_of_an_extensions_making_is_obeyed_in_a_pipe(folder: Path, words: str) -> None:
    """A pipe may end on a terminal: neither stdout nor stderr has a control or an invisible character."""
    done = subprocess.run(
        [sys.executable, "-m", "sepkit", *words.split()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    for data in (done.stdout, done.stderr):
        text = data.decode("utf-8")
        found = {c for c in text if c != "\n" and (unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") or c in UNSEEN)}
        assert not found, (words, found)
    both = (done.stdout + done.stderr).decode()
    assert "a\\x1b[2J" in both or "a\\u001b[2J" in both


def test_the_log_of_a_host_obeys_nothing_either(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Where a program has no handler for it, it ends on the terminal; tracebacks of its delegate, too."""

    class Wrong(Delegate):
        def state_changed(self, extension: str, state: str) -> None:
            raise ValueError(EVIL)

    async def main() -> None:
        async with host(Wrong()) as it:
            bad = {"action": "modify", "patch": {EVIL: EVIL}}
            failed = {"error": {"code": -32603, "message": EVIL}}
            await load(it, scripted("evil", hooks={"input": [bad, failed], "context": failed}, flags=[EVIL]))
            await it.run_hook("input", {"text": "x"})
            await it.run_hook("input", {"text": "x"})

    import logging

    handler = logging.StreamHandler(stream := io.StringIO())
    logging.getLogger("sepkit.host").addHandler(handler)
    try:
        run(main())
    finally:
        logging.getLogger("sepkit.host").removeHandler(handler)
    assert "its change was not taken" in stream.getvalue()
    assert not {c for c in stream.getvalue() if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}


def test_characters_that_are_not_seen_are_shown_and_emojis_and_scripts_stay() -> None:
    """Joiners and selectors are seen where they belong."""
    for character in UNSEEN:
        assert character not in visible(f"a{character}b")
    for text in ("👩🏽‍💻 ❤️ 1️⃣ 👨‍👩‍👧", "می‌خواهم", "क्‍ष", "größe ✓ → “q”", "漢字かな"):
        assert visible(text) == text


# -- questions ---------------------------------------------------------------------------------------------------------


def test_an_extension_that_asks_on_and_on_keeps_no_other_waiting() -> None:
    """Each has one question in the queue; the person is asked another one's next. A flood is refused."""

    async def main() -> None:
        with terminal() as (keyboard, stdin):
            screen = io.StringIO()
            console = Console(stdin=stdin, stderr=screen)
            flood = [confirm(console, "evil", f"evil {number}?") for number in range(300)]
            await until(lambda: "evil: evil 0?" in screen.getvalue())
            good = confirm(console, "good", "good?")
            await asyncio.wait(flood, timeout=0, return_when=asyncio.FIRST_COMPLETED)
            refused = [one for one in flood if one.done()]
            assert len(refused) == 292
            for one in refused:
                error = one.exception()
                assert isinstance(error, RpcError)
                assert (error.code, error.data) == (-32603, {"reason": "overloaded"})
            os.write(keyboard, b"n\n")
            await until(lambda: "good: good?" in screen.getvalue())
            assert "evil 1?" not in screen.getvalue(), "it is the other one's turn"
            os.write(keyboard, b"y\n")
            assert (await asyncio.wait_for(good, PATIENCE)).confirmed
            for number in range(1, 8):
                await appears(screen, f"evil: evil {number}?")
                os.write(keyboard, b"n\n")
            done = await asyncio.wait_for(asyncio.gather(*flood, return_exceptions=True), PATIENCE)
            assert [one.confirmed for one in done if isinstance(one, messages.UiResult)] == [False] * 8
            assert console._lines == {}

    asyncio.run(main())


@pytest.mark.parametrize("typed", [b"y\n", b"y\ny\ny\n", b"y"], ids=["a line", "lines", "no end yet"])
def test_what_was_typed_before_a_question_was_on_the_screen_answers_nothing(typed: bytes) -> None:
    """Of one as of the next one; only what follows counts."""

    async def main() -> list[bool | None]:
        answers = []
        with terminal() as (keyboard, stdin):
            screen = io.StringIO()
            console = Console(stdin=stdin, stderr=screen)
            for number in range(2):
                os.write(keyboard, typed)
                asked = confirm(console, "x", f"{number}?")
                await appears(screen, f"x: {number}?")
                os.write(keyboard, b"n\n")
                answers.append((await asyncio.wait_for(asked, PATIENCE)).confirmed)
        return answers

    assert asyncio.run(main()) == [False, False]


def test_what_is_said_while_a_question_is_on_the_screen_comes_after_it() -> None:
    """Else a person answered one extension and had read another's last; what is too much is counted."""

    async def main() -> str:
        with terminal() as (keyboard, stdin):
            screen = io.StringIO()
            console = Console(stdin=stdin, stderr=screen)
            asked = confirm(console, "good", "Delete all?")
            await until(lambda: "Delete all?" in screen.getvalue())
            await console.ui("evil", notify("Show the weather? (y/n)"))
            await console.ui("evil", messages.SetWidgetRequest(widget={"kind": "markdown", "text": "Sure? (y/n)"}))
            for number in range(300):
                console.stderr("evil", f"line {number}")
            before = screen.getvalue()
            assert before.endswith("good: Delete all? (y/n, nothing to dismiss) ")
            os.write(keyboard, b"n\n")
            assert (await asyncio.wait_for(asked, PATIENCE)).confirmed is False
            return screen.getvalue()[len(before) :]

    after = asyncio.run(main())
    assert after.startswith("evil: info: Show the weather? (y/n)\nevil: Sure? (y/n)\nevil: line 0\n")
    assert after.endswith("evil: line 197\n(and 102 more)\n")


def test_only_what_is_shown_of_a_question_can_be_chosen() -> None:
    """Very long prompts and lists are cut, and it is said."""

    async def main() -> tuple[messages.UiResult, str]:
        screen = io.StringIO()
        console = Console(stdin=Keyboard("150\nhidden\n2\n"), stderr=screen)
        options = ["first", "second", *map(str, range(150)), "hidden"]
        request = messages.SelectRequest(prompt="x" * 1_000_000, options=options)
        return await asyncio.wait_for(console.ui("evil", request), PATIENCE), screen.getvalue()

    result, text = asyncio.run(main())
    assert result.value == "second"
    assert "… 53 options more, which cannot be chosen here" in text
    assert "characters more" in text
    assert len(text) < 20_000


def test_a_question_without_a_person_is_refused_at_once() -> None:
    """It does not wait for a turn."""

    async def main() -> None:
        console = Console(stdin=io.StringIO("y\n"), stderr=io.StringIO())
        for request in (messages.ConfirmRequest("?"), messages.InputRequest("?"), messages.SelectRequest("?", ["a"])):
            with pytest.raises(NoUI):
                await console.ui("x", request)

    asyncio.run(main())


# -- widgets -----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    block: dict[str, Any] = {"kind": "markdown", "text": "x"}
    for _ in range(depth - 1):
        block = {"kind": "stack", "children": [block]}
    return block


MALFORMED: dict[str, Any] = {
    "rows are texts": {"kind": "table", "columns": ["a"], "rows": ["x"]},
    "a row of numbers": {"kind": "table", "columns": ["a"], "rows": [[1]]},
    "keyvalue rows are texts": {"kind": "keyvalue", "rows": ["x"]},
    "no value": {"kind": "keyvalue", "rows": [{"key": "a"}]},
    "children are null": {"kind": "stack", "children": [None]},
    "children are none": {"kind": "stack", "children": None},
    "a child without a kind": {"kind": "stack", "children": [{}]},
    "far inside": {"kind": "stack", "children": [nested(3), {"kind": "stack", "children": [{"kind": "diff"}]}]},
    "no text": {"kind": "markdown"},
    "text is a number": {"kind": "markdown", "text": 5},
    "progress of 5": {"kind": "progress", "value": 5},
    "progress in words": {"kind": "progress", "value": "half"},
    "label is an object": {"kind": "progress", "value": 0.5, "label": {}},
    "body is null": {"kind": "widget", "widget_id": "w", "body": None, "keybindings": []},
    "keys are texts": {"kind": "widget", "widget_id": "w", "body": nested(1), "keybindings": ["q"]},
    "no kind": {},
    "kind is a number": {"kind": 5},
    "450 deep": nested(450),
    "51 deep": nested(51),
    "too many blocks": {"kind": "stack", "children": [nested(1)] * 1_000},
}


def test_a_malformed_widget_is_refused_as_invalid_params(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """-32602, over real processes; there is no traceback, and the frontend is not asked."""
    asked = []

    class Frontend(Console):
        async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
            asked.append(request)
            return await super().ui(extension, request)

    async def main() -> None:
        async with host(Frontend(stdin=io.StringIO(), stderr=io.StringIO())) as it:
            frames = {
                name: {"id": name, "method": "ui/request", "params": {"kind": "set_widget", "widget": widget}}
                for name, widget in {**MALFORMED, "fine": nested(50)}.items()
            }
            await load(it, scripted("evil", frames=frames))
            answers = {answer["id"]: answer for answer in await do(it, "evil", *frames, answers=len(frames))}
            assert answers.pop("fine")["result"] == {}
            assert {name: answer["error"]["code"] for name, answer in answers.items()} == dict.fromkeys(
                MALFORMED, -32602
            )

    run(main())
    assert len(asked) == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_console_by_itself_draws_what_it_can_of_a_malformed_widget(kind: str) -> None:
    """Without the host in front of it, too."""
    for stream in (io.StringIO(), Screen()):
        assert "evil: on its stderr" in shown(stream, messages.SetWidgetRequest(widget=MALFORMED[kind]))


def test_a_fault_of_a_widget_says_where_it_is() -> None:
    """The path through the blocks."""
    with pytest.raises(InvalidParams, match=r"widget\.children\[1\]\.children\[0\]: .*'patch'"):
        widgets_in(MALFORMED["far inside"])


BIG: dict[str, tuple[dict[str, Any], str]] = {
    "table": (
        {"kind": "table", "columns": ["a", "b"], "rows": [[str(number), "x"] for number in range(5_000)]},
        "… 4,900 rows more",
    ),
    "keyvalue": ({"kind": "keyvalue", "rows": [{"key": "k", "value": "v"}] * 5_000}, "… 4,900 rows more"),
    "columns": ({"kind": "table", "columns": ["a"] * 300, "rows": [["x"] * 300]}, "… 280 columns more"),
    "markdown": ({"kind": "markdown", "text": "some *words*\n" * 25_000}, "lines more"),
    "one line": ({"kind": "markdown", "text": "x" * 300_000}, "characters more"),
    "diff": ({"kind": "diff", "patch": "+line\n-line\n" * 50_000}, "lines more"),
    "stack": ({"kind": "stack", "children": [nested(1)] * 900}, "blocks more"),
}


@pytest.mark.parametrize("kind", BIG)
def test_a_big_widget_is_drawn_in_part(kind: str) -> None:
    """And what is missing is said, in a pipe as on a screen."""
    block, note = BIG[kind]
    widgets_in(block)  # it is well formed
    for stream in (io.StringIO(), Screen()):
        text = shown(stream, messages.SetWidgetRequest(widget=block))
        assert note in " ".join(text.replace("│", " ").split())
        assert len(text) < 30_000
        assert text.count("\n") < 400
    lines = list(plain(bounded(block)))
    assert len(lines) <= 130
    assert sum(map(len, lines)) < 20_000


def test_rich_does_not_run_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an extension sends costs it no turn: a widget is drawn in a thread, however long that takes."""
    import rich.console

    threads = []
    captured = rich.console.Console.capture

    def capture(self: rich.console.Console) -> rich.console.Capture:
        threads.append(threading.current_thread())
        return captured(self)

    monkeypatch.setattr(rich.console.Console, "capture", capture)
    shown(Screen(), messages.SetWidgetRequest(widget=nested(2)))
    assert threads
    assert threading.main_thread() not in threads


def test_a_flood_of_progress_is_drawn_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars show the last of it; a thousand updates are a few drawings."""
    import rich.progress

    drawn: list[object] = []
    refresh = rich.progress.Progress.refresh

    def counted(self: rich.progress.Progress) -> None:
        drawn.append(self)
        refresh(self)

    monkeypatch.setattr(rich.progress.Progress, "refresh", counted)

    async def main() -> str:
        screen = Screen()
        console = Console(stdin=io.StringIO(), stderr=screen)
        for number in range(1_000):
            update = messages.ToolUpdateParams(call_id="c", message=f"step {number}", progress=number / 1_000)
            console.progress(update, "evil")
        console.close()
        return screen.getvalue()

    assert "step 999" in asyncio.run(main())
    assert len(drawn) < 30
