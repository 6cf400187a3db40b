"""How many instructions a call takes, which no busy machine changes: counted by valgrind's cachegrind.

A child under valgrind answers 2,560 calls, and another one 7,680, in windows of 256: the difference, for each of 5,120
calls, is free of start and end. Instructions of the kernel are not counted. The same hash seed each time, and bytecode
that is there already: a first run that counts nothing writes it.

The ratios are to a bare loop of the same Python; of a tool that waits, to a plain loop with a task a call; of other
handlers, to the tool.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.about import json_option, show
from benchmarks.pump import CHILDREN, CONTEXT, SEP, environment, sep_call

ROOT = Path(__file__).parents[1]
VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
PING = b'{"jsonrpc":"2.0","id":%d,"method":"ping","params":{}}\n'
# The child's watch over a blocked loop goes by the clock, and under valgrind all is slow: here it does not look.
SERVE = (
    "import sys; from sepkit.concurrency.watch import LoopWatch; LoopWatch._look = lambda self: None; "
    "sys.argv[1:] = ['run', sys.argv[1]]; from sepkit.__main__ import main; main()"
)


def hook(number: int) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"hook","params":{"hook":"tool_call",'
        b'"input":{"tool":"bash","arguments":{"command":"ls"}},%b}}\n' % (number, CONTEXT)
    )


def command(number: int) -> bytes:
    return (
        b'{"jsonrpc":"2.0","id":%d,"method":"command/execute","params":{"command":"say",'
        b'"arguments":{"text":"hello, world"},%b}}\n' % (number, CONTEXT)
    )


def event(number: int) -> bytes:
    return b'{"jsonrpc":"2.0","method":"event","params":{"event":"turn_start","seq":%d,"payload":{"n":1},%b}}\n' % (
        number,
        CONTEXT,
    )


# The words after `python`, the frame of a call, how many are in flight.
Kind = tuple[list[str], Callable[[int], bytes], int]
_BARE = [str(CHILDREN / "bare.py")]
_OURS = ["-c", SERVE, str(CHILDREN / "kinds.py:app")]
_WAITS = partial(sep_call, tool=b"waits")
KINDS: dict[str, Kind] = {
    "bare loop": (_BARE, sep_call, 256),
    "tool": (_OURS, sep_call, 256),
    "tool with context": (_OURS, partial(sep_call, tool=b"told"), 256),
    "plain loop, awaits once": ([str(CHILDREN / "waiting.py")], _WAITS, 256),
    "tool, awaits once": (_OURS, _WAITS, 256),
    "hook": (_OURS, hook, 256),
    "command": (_OURS, command, 256),
    "event": (_OURS, event, 256),
    "bare loop, one in flight": (_BARE, sep_call, 1),
    "tool, one in flight": (_OURS, sep_call, 1),
}
# What is shown: numerator, denominator, and the aim.
RATIOS: list[tuple[str, str, str, str]] = [
    ("bare loop over tool", "bare loop", "tool", "at least 0.77 to 0.82"),
    ("bare loop over tool with context", "bare loop", "tool with context", ""),
    ("tool that awaits once, over a plain loop", "tool, awaits once", "plain loop, awaits once", "at most 1.15"),
    ("tool over hook", "tool", "hook", "at least 0.8"),
    ("tool over command", "tool", "command", "at least 0.8"),
    ("tool over event", "tool", "event", "at least 0.8"),
    ("one in flight: tool over bare loop", "tool, one in flight", "bare loop, one in flight", "at most 2.0"),
]


def converse(child: subprocess.Popen[bytes], frame: Callable[[int], bytes], calls: int, in_flight: int) -> None:
    """Send the frames in windows; each is answered before the next."""
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        child.stdin.write(SEP)
        child.stdin.flush()
        child.stdout.readline()
        for first in range(1, calls + 1, in_flight):
            numbers = range(first, min(first + in_flight, calls + 1))
            window = b"".join(map(frame, numbers))
            answers = len(numbers)
            if frame is event:  # not answered: a ping tells that they have been read
                window, answers = window + PING % first, 1
            child.stdin.write(window)
            child.stdin.flush()
            for _ in range(answers):
                if not child.stdout.readline():
                    raise SystemExit(f"{child.args!r} ended before it had answered")
        child.stdin.close()
        child.wait()


def counted(python: Sequence[str], variables: dict[str, str], kind: Kind, calls: int) -> int:
    """Instructions of a child that answers so many calls. Where ``calls`` is 0 it answers one, and none are counted."""
    words, frame, in_flight = kind
    with tempfile.NamedTemporaryFile(mode="r", suffix=".log") as log:
        under = (*VALGRIND, f"--log-file={log.name}") if calls else ()
        child = subprocess.Popen(
            [*under, *python, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(PYTHONHASHSEED="0", **variables),
        )
        converse(child, frame, calls or 1, in_flight)
        found = re.search(r"I\s+refs:\s+([\d,]+)", log.read())
    return int(found[1].replace(",", "")) if found else 0


def per_call(python: Sequence[str], variables: dict[str, str], kind: Kind, calls: int) -> int:
    """Instructions a call: of three times as many calls, less those of ``calls``."""
    few = max(calls // 4, kind[2]) if kind[2] == 1 else calls  # one in flight is slow, and steady
    counts = [counted(python, variables, kind, number) for number in (few, 3 * few)]
    return (counts[1] - counts[0]) // (2 * few)


@click.command()
@click.option("--python", default=sys.executable, help="The interpreter that is measured.  [default: this one]")
@click.option("--path", help="Its PYTHONPATH, where it does not have the project and its dependencies.")
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="Only this kind; may be repeated.")
@click.option("--calls", default=2_560, show_default=True, type=click.IntRange(1), help="Those that are taken off.")
@json_option
def main(python: str, path: str | None, only: tuple[str, ...], calls: int, file: str | None) -> None:
    """Count the instructions of a call."""
    if shutil.which(VALGRIND[0]) is None:
        click.echo("valgrind is not installed: no instructions are counted")
        return
    variables = {} if path is None else {"PYTHONPATH": path}
    kinds = {name: kind for name, kind in KINDS.items() if not only or name in only}
    noted = _about(python, variables)
    for kind in kinds.values():
        counted([python], variables, kind, 0)
    with ThreadPoolExecutor(2) as threads:  # a count is the same on a busy machine
        counts = threads.map(lambda kind: per_call([python], variables, kind, calls), kinds.values())
        found = dict(zip(kinds, counts, strict=True))
    ratios = [
        {"ratio": name, "found": found[above] / found[below], "aim": aim}
        for name, above, below, aim in RATIOS
        if above in found and below in found
    ]
    rows = [{"kind": name, "instructions": count} for name, count in found.items()]
    table = f"{'instructions a call':44} {'':>8}\n\n"
    table += "".join(f"{row['kind']:44} {row['instructions']:>8,}\n" for row in rows)
    table += f"\n{'ratio':44} {'':>8}  aim\n"
    table += "".join(f"{row['ratio']:44} {row['found']:>8.2f}  {row['aim']}\n" for row in ratios)
    show({**noted, "calls": calls, "rows": rows, "ratios": ratios}, table, file)


def _about(python: str, variables: dict[str, str]) -> dict[str, Any]:
    """What the interpreter that is measured says of itself."""
    program = "import json; from benchmarks.about import about; print(json.dumps(about()))"
    path = ":".join([str(ROOT), *variables.values()])
    done = subprocess.run(
        [python, "-c", program], env=environment(PYTHONPATH=path), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
