"""A delegate for a person at a terminal: asks, shows, and draws with rich, or writes plain lines elsewhere.

All of it goes to stderr, so that stdout is the program's own. What an extension says is shown and never obeyed: control
characters are escapes, and each line says whose it is. An answer belongs to the question that the person has read.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TextIO, TypeVar

from sepkit.capabilities.delegate import Delegate
from sepkit.concurrency.threads import DaemonThreads
from sepkit.errors import InternalError, NoUI
from sepkit.host.blocks import BAR, bounded, drawn, plain
from sepkit.terminal import columns_of, cut, folded, is_terminal, one_line, visible
from sepkit.wire import messages
from sepkit.wire.methods import UiKind

__all__ = ["Console", "plain"]

_SHOWN: Final[tuple[UiKind, ...]] = ("notify", "set_status", "set_widget", "set_title")
_ASKED: Final[tuple[UiKind, ...]] = ("select", "confirm", "input")
_PERCENT: Final = 7  # "100%", and what stands between the three parts of a line of progress

_MOST_CHARACTERS: Final = 4_000  # of one text
_MOST_LINES: Final = 60
_MOST_OPTIONS: Final = 100  # that can be chosen from
_MOST_OPTION: Final = 200  # characters of one
_MOST_BARS: Final = 20
_MOST_HELD: Final = 200  # texts that wait: for the answer to a question, or for the bars to be drawn again
_MOST_QUESTIONS: Final = 8  # of one extension that wait for an answer; more are refused
_MOST_DRAWN: Final = 4  # updates a second that are drawn at once
_DRAW_AFTER: Final = 0.05  # seconds, in which what is said above the bars is gathered
READING_TIME: Final = 0.5
"""Seconds for which a question takes no answer that stands where another one was withdrawn."""

R = TypeVar("R")


class Console(Delegate):
    """Shows what extensions show, and has a person answer what they ask.

    Each extension has one question at a time in the queue for the one person, however many it asks.

    Args:
        stdin: Where answers are read. Nothing is asked if it is not a terminal.
        stderr: Where everything is written; drawn on where it is a terminal and rich is installed.
        quiet: Show only what is asked: no progress, no logs, no stderr of extensions.
        clock: Tells the time in seconds, also to threads: when an answer was typed, and when its question was shown.
    """

    def __init__(
        self,
        *,
        stdin: TextIO | None = None,
        stderr: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stdin = stdin or sys.stdin
        self._stderr = stderr or sys.stderr
        self.errors = 0
        """How many errors extensions have logged."""
        self._quiet = quiet
        self._clock = clock
        self._asks = is_terminal(self._stdin)
        self._asking = asyncio.Lock()  # one question at a time, in the order in which they came
        self._lines: dict[str, _Line] = {}  # of each extension that asks something
        self._typing: asyncio.Future[tuple[float, str]] | None = None
        self._withdrawn = False  # whether the last question has gone without an answer
        self._held: list[Callable[[], None]] | None = None  # what is shown after the question; None where none is asked
        self._unheld = 0  # how much more there was
        self._threads = DaemonThreads()  # a person who doesn't answer must not keep the process
        self._drawing = _Drawing(self._stderr) if is_terminal(self._stderr) and _Drawing.possible() else None

    @property
    def ui_kinds(self) -> Collection[str]:  # type: ignore[override]  # a property here, an attribute there
        """What it can show; what it can ask depends on the terminal."""
        return (*_ASKED, *_SHOWN) if self._asks else _SHOWN

    # -- asked ---------------------------------------------------------------------------------------------------------

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        """Show or ask."""
        match request:
            case messages.NotifyRequest():
                self._say(extension, f"{one_line(request.level or 'info')}: {request.message}")
            case messages.SetStatusRequest():
                self._say(extension, request.status, as_line=True)
            case messages.SetTitleRequest():
                self._say(extension, f"# {request.title}", as_line=True)
            case messages.SetWidgetRequest():
                await self._block(extension, request.widget)
            case messages.SelectRequest():
                return await self._in_turn(extension, lambda: self._select(extension, request))
            case messages.ConfirmRequest():
                return await self._in_turn(extension, lambda: self._confirm(extension, request))
            case messages.InputRequest():
                return await self._in_turn(extension, lambda: self._input(extension, request))
        return messages.UiResult()

    async def _input(self, extension: str, request: messages.InputRequest) -> messages.UiResult:
        default = "" if request.default is None else f" [{_short(request.default)}]"
        answer = await self._answer(f"{self._prompt(extension, request.prompt)}{default} ")
        if answer is None:
            return messages.UiResult(cancelled=True)
        return messages.UiResult(text=answer or request.default or "")

    async def _select(self, extension: str, request: messages.SelectRequest) -> messages.UiResult:
        options = request.options[:_MOST_OPTIONS]
        lines = [f"{number}. {_short(option)}" for number, option in enumerate(options, 1)]
        if len(request.options) > len(options):
            lines.append(f"… {len(request.options) - len(options):,} options more, which cannot be chosen here")
        width = columns_of(self._stderr)
        choices = "".join(f"{part}\n" for line in lines for part in folded(line, width, first="  ", more="     "))
        prompt = f"{self._prompt(extension, request.prompt)}\n{choices}Number (nothing to dismiss): "
        while answer := await self._answer(prompt):
            # A number is asked for: an option that looks like the number of another one is not meant by it.
            if answer.isdecimal() and len(answer) < 10 and 1 <= int(answer) <= len(options):
                return messages.UiResult(value=options[int(answer) - 1])
            if answer in options and not answer.isdecimal():
                return messages.UiResult(value=answer)
            prompt = f"1 to {len(options)}, please: "
        return messages.UiResult(cancelled=True)

    async def _confirm(self, extension: str, request: messages.ConfirmRequest) -> messages.UiResult:
        prompt = f"{self._prompt(extension, request.prompt)} (y/n, nothing to dismiss) "
        while answer := await self._answer(prompt):
            if answer.lower() in ("y", "yes", "n", "no"):
                return messages.UiResult(confirmed=answer.lower().startswith("y"))
            prompt = "y or n, please: "
        return messages.UiResult(cancelled=True)

    async def _in_turn(self, extension: str, ask: Callable[[], Awaitable[R]]) -> R:
        """Ask when it is this extension's turn: one question of each, in the order in which they came.

        Raises:
            InternalError: Too many questions of this extension wait already.
        """
        if not self._asks:
            raise NoUI("nobody is at this terminal")
        line = self._lines.setdefault(extension, _Line())
        if line.waiting >= _MOST_QUESTIONS:
            message = f"{_MOST_QUESTIONS} questions of {extension} wait for an answer already"
            raise InternalError(message, data={"reason": "overloaded"})
        line.waiting += 1
        try:
            async with line.turn, self._asking:
                return await ask()
        finally:
            line.waiting -= 1
            if not line.waiting:
                del self._lines[extension]

    async def _answer(self, prompt: str) -> str | None:
        """What a person types; None at the end of the input, and the empty string where it was dismissed."""
        if self._drawing is not None:
            self._drawing.pause()
        self._held = []
        # What was typed before it was on the screen answers nothing. Where it stands in the place of another one, the
        # person may be about to answer that, and needs a moment to see it.
        self._forget_typed()
        since = self._clock() + (READING_TIME if self._withdrawn else 0.0)
        self._stderr.write(prompt)
        self._stderr.flush()
        timer = asyncio.get_running_loop().call_later(READING_TIME, self._forget_typed) if self._withdrawn else None
        try:
            line = await self._typed(since)
        except asyncio.CancelledError:
            self._withdrawn = True
            self._stderr.write("(withdrawn)\n")
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._release()
        self._withdrawn = False
        return line.strip() if line else None

    async def _typed(self, since: float) -> str:
        """The first line that is typed after ``since``; empty at the end of the input."""
        while True:
            # A question that is withdrawn leaves its thread in `readline`, which reads for the next one.
            if self._typing is None:
                self._typing = asyncio.ensure_future(self._threads.run(self._read))
            read_at, line = await asyncio.shield(self._typing)
            self._typing = None
            if not line or read_at >= since:
                return line

    def _read(self) -> tuple[float, str]:
        line = self._stdin.readline()
        return self._clock(), line

    def _forget_typed(self) -> None:
        """Have the terminal forget what was typed and not read yet."""
        try:
            import termios

            fd = self._stdin.fileno()
            try:
                in_front = os.tcgetpgrp(fd) == os.getpgrp()
            except OSError:  # not the terminal that controls this process
                in_front = True
            if in_front:  # a process in the background would be stopped
                termios.tcflush(fd, termios.TCIFLUSH)
        except (ImportError, OSError, ValueError, io.UnsupportedOperation):
            return
        except termios.error:
            return

    def _release(self) -> None:
        """Show what was said while a question was on the screen."""
        held, self._held = self._held or [], None
        for show in held:
            show()
        if self._unheld:
            unheld, self._unheld = self._unheld, 0
            self._line(f"(and {unheld:,} more)")

    # -- told ----------------------------------------------------------------------------------------------------------

    def log(self, extension: str, record: messages.LogParams) -> None:
        """Show nothing: an extension writes its log to its stderr, too, together with its tracebacks."""
        self.errors += record.level == "error"

    def stderr(self, extension: str, line: str) -> None:
        """Show a line of an extension's stderr."""
        self._say(extension, line)

    def progress(self, update: messages.ToolUpdateParams, extension: str = "") -> None:
        """Show how far a tool is; to be given to ``Host.call_tool(on_update=)``, best with the extension's name."""
        if self._quiet:
            return
        message = _short(update.message or "")
        if self._drawing is None:
            done = "" if update.progress is None else f"[{update.progress:4.0%}] "
            self._say(extension, f"{done}{message}")
        elif self._held is None:  # the bars would be drawn over the question
            self._drawing.progress(update, f"{one_line(extension)}: {message}" if extension and message else message)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._drawing is not None:
            self._drawing.pause()

    def _say(self, extension: str, text: str, *, as_line: bool = False) -> None:
        """Show what an extension says, in one line if it is ``as_line``."""
        if self._quiet:
            return
        text = cut(text, _MOST_CHARACTERS, _MOST_LINES)
        self._line(self._said(extension, one_line(text) if as_line else text))

    def _prompt(self, extension: str, text: str) -> str:
        return self._said(extension, cut(text, _MOST_CHARACTERS, _MOST_LINES))

    def _said(self, extension: str, text: str) -> str:
        """What an extension says; no other line of it must look as if another one had said it."""
        whose = f"{one_line(extension)}: " if extension else ""
        head, *more = visible(text).split("\n")
        width = columns_of(self._stderr)  # the terminal would begin at its edge where a line is too long
        parts = [*folded(head, width, first=whose, more="  ")]
        for line in more:
            parts += folded(line, width, first="  ", more="  ")
        return "\n".join(parts)

    def _line(self, text: str) -> None:
        self._show(lambda: self._write(text))

    def _show(self, show: Callable[[], None]) -> None:
        """Show something now, or below the question that is on the screen once it is answered."""
        if self._held is None:
            show()
        elif len(self._held) < _MOST_HELD:
            self._held.append(show)
        else:
            self._unheld += 1

    def _write(self, text: str) -> None:
        if self._drawing is not None:
            self._drawing.line(text)
        else:
            self._stderr.write(text + "\n")
            self._stderr.flush()

    async def _block(self, extension: str, block: dict[str, Any]) -> None:
        if self._quiet:
            return
        block = bounded(block)
        # In a thread: to fit a table takes its time, rich more of it, and its import most.
        if self._drawing is None:
            width = columns_of(self._stderr)
            text = await self._threads.run(lambda: self._said(extension, "\n".join(plain(block, width))))
        else:
            text = await self._threads.run(functools.partial(self._drawing.block, one_line(extension), block))
        self._line(text)


def _short(text: str) -> str:
    """The beginning of a text, in one line."""
    return one_line(cut(text, _MOST_OPTION, _MOST_OPTION))


class _Line:
    """The questions of one extension."""

    def __init__(self) -> None:
        self.waiting = 0
        self.turn = asyncio.Lock()


class _Drawing:
    """A terminal, drawn on with rich: blocks, and a bar for each running call below what has been said."""

    def __init__(self, stderr: TextIO) -> None:
        self._stderr = stderr
        self._screen: Any = None
        self._bars: Any = None
        self._of: dict[str, Any] = {}
        self._above: list[str] = []  # what is to be said above the bars
        self._untold = 0  # texts that were too many for that
        self._due: dict[str, dict[str, Any]] = {}  # of each call what its bar does not show yet
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0.0
        self._drawn = 0  # times, in this second

    @staticmethod
    def possible() -> bool:
        """Whether rich is installed."""
        from importlib.util import find_spec

        return find_spec("rich") is not None

    def line(self, text: str) -> None:
        """Lines, as they are."""
        if self._bars is None:
            self._stderr.write(f"{text}\n")
            self._stderr.flush()
            return
        if not self._above:  # above the bars, which are drawn again each time
            asyncio.get_running_loop().call_later(_DRAW_AFTER, self._say_above)
        if len(self._above) < _MOST_HELD:
            self._above.append(text)
        else:
            self._untold += 1

    def _say_above(self) -> None:
        above, self._above = self._above, []
        if not above:
            return
        if self._untold:
            above.append(f"(and {self._untold:,} more)")
            self._untold = 0
        if self._bars is None:
            self._stderr.write("".join(f"{text}\n" for text in above))
            self._stderr.flush()
        else:
            self._screen.out("\n".join(above), highlight=False)

    def block(self, extension: str, block: dict[str, Any]) -> str:
        """A render block as text, in a frame that says whose it is."""
        from rich.console import Console as Screen
        from rich.panel import Panel
        from rich.text import Text

        # What an extension says is neither markup nor a name of an emoji (":bug:").
        screen = Screen(file=self._stderr, highlight=False, emoji=False)
        with screen.capture() as captured:
            screen.print(Panel(drawn(block), title=Text(extension), title_align="left", expand=False))
        return captured.get().rstrip("\n")

    def progress(self, update: messages.ToolUpdateParams, message: str) -> None:
        """The bar of a call, which is drawn a few times a second."""
        from rich.console import Console as Screen
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        if self._bars is None:
            self._screen = Screen(file=self._stderr, highlight=False, emoji=False)
            columns = (TextColumn("{task.description}", markup=False), BarColumn(BAR), TaskProgressColumn())
            self._bars = Progress(*columns, console=self._screen, transient=False)
            self._bars.start()
        if update.call_id not in self._of:
            if len(self._of) >= _MOST_BARS:
                return
            self._of[update.call_id] = self._bars.add_task("", total=None)
        changes = self._due.setdefault(update.call_id, {})
        if update.progress is not None:
            changes |= {"completed": update.progress, "total": 1.0}
        if message:
            changes["description"] = message
        if self._may_draw():
            self._draw()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DRAW_AFTER, self._draw)

    def _draw(self) -> None:
        """Draw the bars as they are now."""
        from rich.text import Text

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due, self._due = self._due, {}
        for call_id, changes in due.items():
            if "description" in changes:
                text = Text(changes["description"])
                text.truncate(max(1, self._screen.width - BAR - _PERCENT), overflow="ellipsis")  # the bar has its place
                changes["description"] = text.plain
            self._bars.update(self._of[call_id], **changes)
        self._bars.refresh()

    def _may_draw(self) -> bool:
        """Whether to draw at once: not for each of very many updates; the bars are drawn now and then anyway."""
        now = time.monotonic()
        if now - self._second >= 1:
            self._second, self._drawn = now, 0
        self._drawn += 1
        return self._drawn <= _MOST_DRAWN

    def pause(self) -> None:
        """Stop drawing bars, until there is a new one."""
        if self._bars is not None:
            self._draw()
            self._bars.stop()
            self._bars = None
            self._of.clear()
        self._say_above()
