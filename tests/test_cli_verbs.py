"""``sepkit hook``, ``event``, ``command`` and ``complete`` beside ``call``: real processes, as a user starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

APP = """
import asyncio, dataclasses, os, subprocess, sys, threading, atexit
from sepkit import App, Block, Completion, EventContext, Messages, Patch, ToolCall, ToolContext, ToolOutcome, UserBash

os.write(1, b"written\\n")
os.system("echo echoed")
subprocess.run([sys.executable, "-c", "print('spawned')"])
threading.Timer(0.01, print, ["late"]).start()
atexit.register(os.write, 1, b"at exit\\n")

app = App("shop", version="1")
app.flag("loud", default=False, description="Say it louder.")

@dataclasses.dataclass
class Point:
    x: int
    label: str = ""

@app.tool
async def query(sql: str, ctx: ToolContext, point: Point | None = None, tags: list[str] = []) -> dict:
    return {"sql": sql, "point": point, "tags": tags, "loud": ctx.flags["loud"]}

@app.tool
async def snow() -> str:
    return "snow ☃ and \\x1b[31mred"

@app.hook("tool_call")
async def gate(call: ToolCall) -> Block | Patch | None:
    if call.tool == "shop.query":
        return Patch(arguments={"sql": str(call.arguments["sql"]) + "!"})
    return Block("no\\x1b[2J") if call.tool == "bash" else None

@app.hook("user_bash")
async def typed(bash: UserBash) -> None:
    raise ValueError("secret")

@app.hook("context")
async def look(context: Messages) -> Patch:
    return Patch(messages=context.messages[:1])

@app.on("turn_start")
async def begun(payload: dict, ctx: EventContext) -> None:
    await asyncio.sleep(0.3)
    print("a turn of", payload["agent_id"], ctx.seq)

@app.on_bus("news")
async def news(payload: dict) -> None:
    print("news:", payload, flush=True)
    if "end" in payload:
        os._exit(payload["end"])

@app.command
async def plan(state: str = "on", days: int = 1) -> str | None:
    return None if state == "none" else f"{state!r} for {days!r}"

@app.complete("plan")
async def states(partial: str) -> list[Completion]:
    return [one for one in [Completion("on", "plan\\x07 first"), Completion("off")] if one.value.startswith(partial)]
"""

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return folder


@pytest.fixture
def sepkit(folder: Path) -> Run:
    def run(*words: str | bytes, cwd: Path | bytes = folder, **environ: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "sepkit", *words]
        return subprocess.run(
            command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, timeout=60, check=False
        )

    return run


def test_a_hook_is_asked_and_its_outcome_is_printed(sepkit: Run) -> None:
    """``continue``, ``block`` with its reason, or ``modify`` with the whole new input; 1 is a block."""
    done = sepkit("hook", "app:app", "tool_call", "tool=read", "arguments.path=a")
    assert (done.returncode, done.stdout) == (0, b"continue\n")
    done = sepkit("hook", "app:app", "tool_call", "tool=bash")
    assert (done.returncode, done.stdout) == (1, b"block: no\\x1b[2J\n"), "also in a pipe"
    done = sepkit("hook", "--quiet", "app:app", "tool_call", "tool=shop.query", "arguments.sql==1")
    assert done.stdout.startswith(b"modify\n{")
    assert json.loads(done.stdout[7:]) == {"tool": "shop.query", "arguments": {"sql": "1!"}}
    done = sepkit(
        "hook", "--json", "app:app", "context", "messages.0.role=user", "messages.0.content=hi", "messages.1.role=x"
    )
    assert json.loads(done.stdout) == {"action": "modify", "patch": {"messages": [{"role": "user", "content": "hi"}]}}


def test_a_hook_that_fails_or_is_not_there_says_so(sepkit: Run) -> None:
    """Exit code 1, nothing on stdout, and the nearest name."""
    done = sepkit("hook", "app:app", "user_bash", "command=5")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"ValueError: secret" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"sepkit: the user_bash handler typed failed unexpectedly")
    done = sepkit("hook", "app:app", "tool_cal")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.endswith(b"sepkit: app:app has no hook 'tool_cal'; did you mean 'tool_call'?\n")


def test_an_event_is_handled_to_its_end(sepkit: Run) -> None:
    """The verb waits for slow handlers; what they print is on stderr."""
    done = sepkit("event", "app:app", "turn_start", "agent_id=main")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"\napp: a turn of main 1\n" in done.stderr
    done = sepkit("event", "app:app", "bus/event", "from=me", "topic=news", "payload.n=1")
    assert b"\napp: news: {'n': 1}\n" in done.stderr
    done = sepkit("event", "--json", "app:app", "turn_start")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"errors": 1})
    assert b"KeyError: 'agent_id'" in done.stderr
    done = sepkit("event", "app:app", "bus/event", "topic=news", "payload.end=9")
    assert done.returncode == 1
    assert done.stderr.endswith(b"sepkit: app:app ended before it answered (exit code 9); see above\n")
    done = sepkit("event", "app:app", "turn_end")
    assert done.returncode == 1
    assert b"has no handler of event 'turn_end'; known: turn_start, bus/event" in done.stderr


def test_an_end_that_goes_wrong_is_said(sepkit: Run, tmp_path: Path) -> None:
    """The answer is shown, and the exit code tells that the process ended badly after it."""
    (tmp_path / "app.py").write_text(
        "import atexit, os\nfrom sepkit import App\napp = App('x')\natexit.register(os._exit, 5)\n"
        "@app.tool\nasync def work() -> str:\n    return 'done'\n"
    )
    done = sepkit("call", "app:app", "work", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"done\n", b"sepkit: app:app ended badly (exit code 5)\n")


def test_a_command_is_run_with_what_was_typed(sepkit: Run) -> None:
    """Values are text, which the command takes as its annotations say; what shows nothing prints nothing."""
    done = sepkit("command", "app:app", "/plan", "state=1", "days=2")
    assert (done.returncode, done.stdout) == (0, b"'1' for 2\n")
    assert sepkit("command", "app:app", "plan", "state=none").stdout == b""
    assert json.loads(sepkit("command", "--json", "app:app", "plan").stdout) == {"content": "'on' for 1"}
    done = sepkit("command", "app:app", "plam")
    assert done.returncode == 1
    assert b"app:app has no command 'plam'; did you mean 'plan'?" in done.stderr


def test_completions_are_printed_one_a_line(sepkit: Run) -> None:
    """With their descriptions; what is typed may be nothing."""
    assert sepkit("complete", "app:app", "plan").stdout == b"on   plan\\x07 first\noff\n"
    done = sepkit("complete", "--json", "app:app", "plan", "on")
    assert json.loads(done.stdout) == [{"value": "on", "description": "plan\x07 first"}]
    done = sepkit("complete", "app:app", "plan", "x")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"no completions of 'x'" in done.stderr


def test_a_call_knows_the_schema_and_sets_flags(sepkit: Run) -> None:
    """``sql=1`` is text; dotted names fill nested arguments; ``--flag`` is what a host would set."""
    words = ["sql=1", "point.x=2", "point.label=3", "tags=4", "tags=5"]
    done = sepkit("call", "--quiet", "app:app", "query", *words, "--flag", "loud=true", "--flag", "lout=1")
    made = {"sql": "1", "point": {"x": 2, "label": "3"}, "tags": ["4", "5"], "loud": True}
    assert json.loads(done.stdout) == made
    done = sepkit("call", "app:app", "query", "sql=1", "--flag", "lout=1", "--flag", "a.b=1")
    assert b"the host has set the flag 'a.b', which the app does not declare; known: loud" in done.stderr
    assert b"the host has set the flag 'lout', which the app does not declare; did you mean 'loud'?" in done.stderr


def test_inspect_shows_what_a_flag_is_for(sepkit: Run) -> None:
    """The default, and the description below it."""
    assert b"\nflags:\n  loud  default False\n      Say it louder.\n" in sepkit("inspect", "app:app").stdout


def test_what_an_import_writes_never_reaches_the_json(sepkit: Run) -> None:
    """Not by the descriptor, a shell, a subprocess or a thread, and not when the process ends."""
    done = sepkit("inspect", "--json", "app:app")
    assert json.loads(done.stdout)["name"] == "shop"
    for word in (b"written", b"echoed", b"spawned", b"late", b"at exit"):
        assert word in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252:strict"])
def test_a_result_is_written_in_any_encoding(sepkit: Run, encoding: str) -> None:
    """What the encoding of stdout lacks is written as an escape: the tool has run, and its result counts."""
    done = sepkit("call", "--quiet", "app:app", "snow", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (0, b"snow \\u2603 and \\x1b[31mred\n")


def test_a_closed_stdout_is_no_error(folder: Path) -> None:
    """What cannot be seen by anybody is not written."""
    for words in ("call app:app query sql=1", "inspect app:app", "inspect --json app:app", "spec kv/get"):
        command = f"exec {sys.executable} -m sepkit {words} >&-"
        done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, timeout=60, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_a_folder_may_have_any_name(sepkit: Run, tmp_path: Path) -> None:
    """All verbs work in a folder whose name is not UTF-8, and with a file in it."""
    odd = os.path.join(os.fsencode(tmp_path), b"\xff\xfe shop")
    os.mkdir(odd)
    root = "async def snow(ctx: ToolContext) -> str:\n    return ctx.workspace.root\n"
    with open(os.path.join(odd, b"app.py"), "w") as file:
        file.write(APP.replace("async def snow() -> str:\n", root))
    done = sepkit("call", "app:app", "snow", cwd=odd)
    assert (done.returncode, done.stdout.decode()) == (0, f"{tmp_path}/\ufffd\ufffd shop\n"), done.stderr
    assert sepkit("inspect", "app:app", cwd=odd).returncode == 0
    assert sepkit("call", b"\xff\xfe shop/app.py:app", "query", "sql=1", cwd=tmp_path).returncode == 0


def test_a_folder_that_is_gone_is_said(folder: Path, tmp_path: Path) -> None:
    """One line, whichever verb it is."""
    (gone := tmp_path / "gone").mkdir()
    command = f"cd {gone} && rmdir {gone} && exec {sys.executable} -m sepkit inspect {folder}/app.py:app"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "sepkit: the current folder is not there any more; change to one that is\n"


def test_arguments_that_are_not_utf8_are_a_wrong_command_line(sepkit: Run) -> None:
    """They could not be sent."""
    done = sepkit("call", "app:app", "query", b"sql=\xff")
    assert done.returncode == 2
    assert b"is not UTF-8, which all arguments are sent in" in done.stderr


@pytest.mark.parametrize(
    "words", [["call", "bad:app", "x"], ["call", "--quiet", "bad:app", "x"], ["inspect", "bad:app"], ["run", "bad:app"]]
)
def test_a_load_error_is_shown_once(sepkit: Run, tmp_path: Path, words: list[str]) -> None:
    """One traceback and one message, whichever verb it is."""
    (tmp_path / "bad.py").write_text("import nothing_of_this_name\n")
    done = sepkit(*words, cwd=tmp_path)
    assert done.returncode == (1 if words[0] == "call" else 6)
    assert (done.stderr.count(b"Traceback"), done.stderr.count(b"sepkit: ")) == (1, 1), done.stderr.decode()
    assert b"sepkit: bad (" in done.stderr


def test_a_death_is_shown_once(sepkit: Run, tmp_path: Path) -> None:
    """What the extension said last stands above, or in the message's place where it was not shown."""
    (tmp_path / "app.py").write_text(
        "import os, sys\nfrom sepkit import App\napp = App('x')\n@app.tool\nasync def die() -> str:\n"
        "    print('last words', file=sys.stderr, flush=True)\n    os._exit(9)\n"
    )
    for words in (["call", "app:app", "die"], ["call", "--quiet", "app:app", "die"]):
        done = sepkit(*words, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.count(b"last words") == 1
        assert (
            done.stderr.decode().splitlines()[-1].startswith("sepkit: app:app ended before it answered (exit code 9)")
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["inspct", "app:app"], "No such command 'inspct'; did you mean 'inspect'?"),
        (["cal"], "No such command 'cal'; did you mean 'call'?"),
        (["hooks"], "did you mean 'hook'?"),
        (["zzz"], "No such command 'zzz'; known: call, command"),
        (["call", "app:app", "qury"], "app:app has no tool 'qury'; did you mean 'query'?"),
        (["call", "app:app"], "Missing argument 'TOOL'. `python -m sepkit inspect app:app` shows what there is."),
        (["spec", "kv/gett"], "there is no method 'kv/gett'; did you mean 'kv/get'?"),
        (["run", "app.py"], "'app.py' names no app; write module:attribute or file.py:attribute, such as app.py:app"),
        (["run", "app"], "such as app:app"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_mistyped_gets_a_suggestion(sepkit: Run, words: list[str], told: str) -> None:
    """Verbs, tools and targets."""
    done = sepkit(*words)
    assert done.returncode in (1, 2)
    assert told in done.stderr.decode()


def test_a_module_of_a_package_says_how_to_name_it(sepkit: Run, tmp_path: Path) -> None:
    """``from . import util`` needs the package: the message has what to write, and from where."""
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "util.py").write_text("")
    (package / "app.py").write_text("from . import util\nfrom sepkit import App\napp = App('x')\n")
    assert b"; write pkg.app:app\n" in sepkit("run", "pkg/app.py:app", cwd=tmp_path).stderr
    beside = sepkit("run", "app:app", cwd=package).stderr.decode()
    assert f"; start sepkit in {tmp_path}, and write pkg.app:app\n" in beside
    assert sepkit("inspect", "pkg.app:app", cwd=tmp_path).returncode == 0
