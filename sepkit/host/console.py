"""A delegate for a person at a terminal: asks, shows, and draws with rich, or writes plain lines elsewhere.

All of it goes to stderr, so that stdout is the program's own. What an extension says is shown and never obeyed: control
characters are escapes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterator
from typing import Any, Final, TextIO

from sepkit.capabilities.delegate import Delegate
from sepkit.concurrency.threads import DaemonThreads
from sepkit.errors import NoUI
from sepkit.terminal import columns_of, is_terminal, one_line, table, visible
from sepkit.wire import messages
from sepkit.wire.methods import UiKind

_SHOWN: Final[tuple[UiKind, ...]] = ("notify", "set_status", "set_widget", "set_title")
_ASKED: Final[tuple[UiKind, ...]] = ("select", "confirm", "input")
_BAR: Final = 20
_PERCENT: Final = 7  # "100%", and what stands between the three parts of a line of progress


class Console(Delegate):
    """Shows what extensions show, and has a person answer what they ask.

    Args:
        stdin: Where answers are read. Nothing is asked if it is not a terminal.
        stderr: Where everything is written; drawn on where it is a terminal and rich is installed.
        quiet: Show only what is asked: no progress, no logs, no stderr of extensions.
    """

    def __init__(self, *, stdin: TextIO | None = None, stderr: TextIO | None = None, quiet: bool = False) -> None:
        self._stdin = stdin or sys.stdin
        self._stderr = stderr or sys.stderr
        self.errors = 0
        """How many errors extensions have logged."""
        self._quiet = quiet
        self._asks = is_terminal(self._stdin)
        self._asking = asyncio.Lock()  # one question at a time, in the order in which they came
        self._typing: asyncio.Future[str] | None = None
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
                self._line(_said(extension, f"{request.level or 'info'}: {request.message}"))
            case messages.SetStatusRequest():
                self._line(_said(extension, request.status))
            case messages.SetTitleRequest():
                self._line(_said(extension, f"# {request.title}"))
            case messages.SetWidgetRequest():
                self._block(extension, request.widget)
            case messages.SelectRequest():
                return await self._select(extension, request)
            case messages.ConfirmRequest():
                return await self._confirm(extension, request)
            case messages.InputRequest():
                default = "" if request.default is None else f" [{one_line(request.default)}]"
                answer = await self._ask(f"{_said(extension, request.prompt)}{default} ")
                if answer is None:
                    return messages.UiResult(cancelled=True)
                return messages.UiResult(text=answer or request.default or "")
        return messages.UiResult()

    async def _select(self, extension: str, request: messages.SelectRequest) -> messages.UiResult:
        choices = "".join(f"  {number}. {one_line(option)}\n" for number, option in enumerate(request.options, 1))
        prompt = f"{_said(extension, request.prompt)}\n{choices}Number (nothing to dismiss): "
        while answer := await self._ask(prompt):
            if answer in request.options:
                return messages.UiResult(value=answer)
            if answer.isdecimal() and 1 <= int(answer) <= len(request.options):
                return messages.UiResult(value=request.options[int(answer) - 1])
            prompt = f"1 to {len(request.options)}, please: "
        return messages.UiResult(cancelled=True)

    async def _confirm(self, extension: str, request: messages.ConfirmRequest) -> messages.UiResult:
        prompt = f"{_said(extension, request.prompt)} (y/n, nothing to dismiss) "
        while answer := await self._ask(prompt):
            if answer.lower() in ("y", "yes", "n", "no"):
                return messages.UiResult(confirmed=answer.lower().startswith("y"))
            prompt = "y or n, please: "
        return messages.UiResult(cancelled=True)

    async def _ask(self, prompt: str) -> str | None:
        """What a person types; None at the end of the input, and the empty string where it was dismissed."""
        if not self._asks:
            raise NoUI("nobody is at this terminal")
        async with self._asking:
            if self._drawing is not None:
                self._drawing.pause()
            self._stderr.write(prompt)
            self._stderr.flush()
            # A question that is withdrawn leaves its thread in `readline`. The line it reads answers the next question,
            # unless it was typed before that one was asked.
            if self._typing is None or self._typing.done():
                self._typing = asyncio.ensure_future(self._threads.run(self._stdin.readline))
            try:
                line = await asyncio.shield(self._typing)
            except asyncio.CancelledError:
                self._stderr.write("(withdrawn)\n")
                raise
            self._typing = None
        return line.strip() if line else None

    # -- told ----------------------------------------------------------------------------------------------------------

    def log(self, extension: str, record: messages.LogParams) -> None:
        """Show nothing: an extension writes its log to its stderr, too, together with its tracebacks."""
        self.errors += record.level == "error"

    def stderr(self, extension: str, line: str) -> None:
        """Show a line of an extension's stderr."""
        self._line(visible(line))

    def progress(self, update: messages.ToolUpdateParams) -> None:
        """Show how far a tool is; to be given to ``Host.call_tool(on_update=)``."""
        if self._quiet:
            return
        if self._drawing is not None:
            self._drawing.progress(update)
        else:
            done = "" if update.progress is None else f"[{update.progress:4.0%}] "
            self._line(f"{done}{visible(update.message or '')}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._drawing is not None:
            self._drawing.pause()

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        if self._drawing is not None:
            self._drawing.line(text)
        else:
            self._stderr.write(text + "\n")
            self._stderr.flush()

    def _block(self, extension: str, block: dict[str, Any]) -> None:
        if self._quiet:
            return
        block = _shown(block)
        if self._drawing is not None:
            self._drawing.block(one_line(extension), block)
        else:
            for line in plain(block, columns_of(self._stderr)):
                self._line(line)


def _said(extension: str, text: str) -> str:
    """What an extension says; its second line must not look as if another one had said it."""
    return f"{one_line(extension)}: {visible(text)}".replace("\n", "\n  ")


def _shown(block: Any) -> Any:
    """A render block, with all its texts made visible."""
    match block:
        case str():
            return visible(block)
        case list():
            return [_shown(one) for one in block]
        case dict():
            return {key: _shown(value) for key, value in block.items()}
    return block


class _Drawing:
    """A terminal, drawn on with rich: blocks, and a bar for each running call below what has been said."""

    def __init__(self, stderr: TextIO) -> None:
        from rich.console import Console as Screen

        # What an extension says is neither markup nor a name of an emoji (":bug:").
        self._screen = Screen(file=stderr, highlight=False, emoji=False)
        self._bars: Any = None
        self._of: dict[str, Any] = {}

    @staticmethod
    def possible() -> bool:
        """Whether rich is installed."""
        from importlib.util import find_spec

        return find_spec("rich") is not None

    def line(self, text: str) -> None:
        """A line, as it is."""
        self._screen.print(text, markup=False, soft_wrap=True)

    def block(self, extension: str, block: dict[str, Any]) -> None:
        """A render block, in a frame that says whose it is."""
        from rich.panel import Panel
        from rich.text import Text

        self._screen.print(Panel(_drawn(block), title=Text(extension), title_align="left", expand=False))

    def progress(self, update: messages.ToolUpdateParams) -> None:
        """The bar of a call."""
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.text import Text

        if self._bars is None:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(_BAR), TaskProgressColumn())
            self._bars = Progress(*columns, console=self._screen, transient=False)
            self._bars.start()
        if update.call_id not in self._of:
            self._of[update.call_id] = self._bars.add_task("", total=None)
        changes: dict[str, Any] = {}
        if update.progress is not None:
            changes = {"completed": update.progress, "total": 1.0}
        if update.message is not None:
            message = Text(one_line(update.message))
            message.truncate(max(1, self._screen.width - _BAR - _PERCENT), overflow="ellipsis")  # the bar has its place
            changes["description"] = message.plain
        self._bars.update(self._of[update.call_id], refresh=True, **changes)

    def pause(self) -> None:
        """Stop drawing bars, until there is a new one."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._of.clear()


def _drawn(block: dict[str, Any]) -> Any:
    """A render block for rich. A kind that it does not know is shown as plain text."""
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.progress_bar import ProgressBar
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    match block:
        case {"kind": "markdown", "text": str(text)}:
            return Markdown(text, hyperlinks=False)  # a reader sees where a link leads
        case {"kind": "keyvalue", "rows": list(rows)}:
            grid = Table.grid(padding=(0, 2))
            for row in rows:
                grid.add_row(Text(str(row.get("key", "")), style="bold"), Text(str(row.get("value", ""))))
            return Group(Text(block["title"], style="bold underline"), grid) if block.get("title") else grid
        case {"kind": "table", "columns": list(columns), "rows": list(rows)}:
            table = Table()
            for column in columns:
                table.add_column(Text(str(column)))
            for row in rows:
                table.add_row(*(Text(str(cell)) for cell in row))
            return table
        case {"kind": "diff", "patch": str(patch)}:
            return Syntax(patch, "diff", background_color="default")
        case {"kind": "progress", "value": int(value) | float(value)}:
            bar = ProgressBar(total=1.0, completed=value, width=_BAR)
            return Group(Text(block["label"]), bar) if block.get("label") else bar
        case {"kind": "stack", "children": list(children)}:
            return Group(*(_drawn(child) for child in children))
        case {"kind": "widget", "body": dict(body)}:
            keys = "  ".join(_key(binding) for binding in block.get("keybindings", ()))
            return Group(_drawn(body), Text(keys, style="dim")) if keys else _drawn(body)
    return Text("\n".join(plain(block)))


def plain(block: dict[str, Any], width: int | None = None) -> Iterator[str]:
    """A render block as lines of text; tables are fitted into ``width`` columns."""
    match block:
        case {"kind": "markdown", "text": str(text)}:
            yield from text.splitlines()
        case {"kind": "keyvalue", "rows": list(rows)}:
            if block.get("title"):
                yield str(block["title"])
            yield from (f"{row.get('key', '')}: {row.get('value', '')}" for row in rows)
        case {"kind": "table", "columns": list(columns), "rows": list(rows)}:
            yield from table([[one_line(str(cell)) for cell in row] for row in [columns, *rows]], width)
        case {"kind": "diff", "patch": str(patch)}:
            yield from patch.splitlines()
        case {"kind": "progress", "value": int(value) | float(value)}:
            yield f"[{value:4.0%}] {block.get('label') or ''}".rstrip()
        case {"kind": "stack", "children": list(children)}:
            for child in children:
                yield from plain(child, width)
        case {"kind": "widget", "body": dict(body)}:
            yield from plain(body, width)
            if keys := "  ".join(_key(binding) for binding in block.get("keybindings", ())):
                yield keys
        case {"text": str(text)}:
            yield from text.splitlines()
        case _:
            yield f"(a {block.get('kind', 'nameless')!s} block)"


def _key(binding: dict[str, Any]) -> str:
    description = binding.get("description")
    return f"[{binding.get('key')}]" if description is None else f"[{binding.get('key')}] {description}"
