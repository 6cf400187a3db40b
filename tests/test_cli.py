"""``sepkit call`` and ``sepkit inspect`` as a user runs them; ``run`` has its tests in ``e2e``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sepkit.cli import run
from sepkit.cli.serving import understood

APP = '''
import os
from sepkit import App, Block, ToolCall, ToolContext, ToolError

print("printed at import")
app = App("shown", version="1.2.3")
app.flag("verbose", default=False)

@app.tool
async def repeat(text: str, ctx: ToolContext, times: int = 1, tags: list[str] = []) -> dict:
    """Repeat a text."""
    ctx.update("on it", progress=0.25)
    return {"said": text * times, "tags": tags}

@app.tool(timeout=5)
def fail() -> str:
    """Fail."""
    raise ToolError("it gave up")

@app.tool
async def die() -> str:
    os._exit(9)

@app.hook("tool_call")
async def first(call: ToolCall) -> Block | None:
    return None

@app.hook("tool_call")
async def second(call: ToolCall) -> Block | None:
    return None

@app.task(restart="on-failure", max_restarts=3, autostart=False)
async def tidy() -> None:
    """Tidy up."""
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def sepkit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sepkit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_call_prints_the_result_on_stdout_and_the_progress_on_stderr(folder: Path) -> None:
    """Data is on stdout, text for people on stderr. An argument that is JSON is sent as such."""
    done = sepkit(folder, "call", "app:app", "repeat", "text=ab", "times=2", 'tags=["x"]')
    assert json.loads(done.stdout) == {"said": "abab", "tags": ["x"]}
    assert "[ 25%] on it" in done.stderr
    assert done.returncode == 0


def test_a_value_can_be_said_to_be_text_or_json(folder: Path) -> None:
    """``==`` is always text, ``:=`` always JSON; ``5`` would be coerced for a text parameter by nobody."""
    done = sepkit(folder, "call", "app:app", "repeat", "text==5", "times:=2")
    assert json.loads(done.stdout)["said"] == "55"
    wrong = sepkit(folder, "call", "app:app", "repeat", "text:=five")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "the value is no JSON" in wrong.stderr
    assert sepkit(folder, "call", "app:app", "repeat", "text").returncode == 2


def test_the_whole_result_can_be_had_as_json(folder: Path) -> None:
    """``--json`` prints what crossed the wire; ``--quiet`` leaves stderr to errors."""
    done = sepkit(folder, "call", "--json", "--quiet", "app:app", "repeat", "text=a")
    assert json.loads(done.stdout) == {"content": '{"said":"a","tags":[]}', "details": {"said": "a", "tags": []}}
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["app:app", "fail"], "it gave up"),
        (["app:app", "nope"], "app:app has no tool 'nope'; known: repeat, fail, die"),
        (["app:app", "repeat", "txt=a"], "no such argument; known: text, times, tags"),
        (["app:app", "die"], "app:app ended before it answered"),
        (["nothing:app", "x"], "there is no module 'nothing'"),
    ],
)
def test_a_call_that_fails_says_why_and_exits_with_1(folder: Path, words: list[str], told: str) -> None:
    """The exit code is 1 and nothing is on stdout."""
    done = sepkit(folder, "call", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert "site-packages/sepkit" not in done.stderr
    assert "sepkit/cli" not in done.stderr


def test_inspect_shows_what_is_registered_and_the_order_of_hooks(folder: Path) -> None:
    """It shows registrations, the effective hook order and policies; what the module prints is not part of it."""
    done = sepkit(folder, "inspect", "app:app")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "shown 1.2.3"
    assert "  repeat(text: string, times: integer (optional), tags: array (optional))" in done.stdout
    assert "app.py:15, in a thread, at most 5 s" in done.stdout
    assert "  tool_call (runs 1 of 2)  first  app.py:24" in done.stdout
    assert "  tool_call (runs 2 of 2)  second  app.py:28" in done.stdout
    assert "on demand; restart on-failure, at most 3 times, after 1 to 60 s" in done.stdout
    assert "  verbose  default False" in done.stdout
    assert "printed at import" in done.stderr


def test_inspect_as_json_is_json_alone(folder: Path) -> None:
    """``--json`` for programs: nothing else on stdout, though the module prints."""
    shown = json.loads(sepkit(folder, "inspect", "--json", "app:app").stdout)
    assert [tool["name"] for tool in shown["tools"]] == ["repeat", "fail", "die"]
    assert [handler["function"] for handler in shown["hooks"]["tool_call"]] == ["first", "second"]
    assert shown["tasks"][0]["policy"]["max_restarts"] == 3
    assert shown["flags"] == {"verbose": False}


def test_inspect_of_what_is_no_app_fails_as_run_does(folder: Path) -> None:
    """The exit codes of ``run``: 3 no module, 4 no attribute, 5 no App."""
    assert sepkit(folder, "inspect", "nothing:app").returncode == 3
    assert sepkit(folder, "inspect", "app:application").returncode == 4
    assert sepkit(folder, "inspect", "app:os").returncode == 5


def test_a_loop_that_is_not_installed_is_said(folder: Path) -> None:
    """A wrong option is a matter of usage, and no traceback."""
    code = "import sys; sys.modules['uvloop'] = None; from sepkit.__main__ import main; main()"
    words = [sys.executable, "-c", code, "run", "--loop", "uvloop", "app:app"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "uvloop is not installed; install it, or leave --loop at auto" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "app:app",
        "path/app.py:app",
        "app:app --log-level debug",
        "--log-level=trace app:app",
        "app:app --loop asyncio --grace 0.5",
        "app:app --grace 5 --max-concurrency 1 --max-frame-bytes=1024",
        "app:app --flag url=x --flag=a.b=c=d --grace 1 --flag empty=",
    ],
)
def test_run_understands_plain_words_as_click_does(words: str) -> None:
    """A host waits for a start, so that plain words are read without click: with the same outcome."""
    assert understood(words.split()) == run.command.make_context("run", words.split()).params


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--help",
        "app:app --help",
        "app:app -h",
        "app:app more",
        "app:app --grace",
        "app:app --grace nan",
        "app:app --grace -1",
        "app:app --grace 1e3",
        "app:app --grace .",
        "app:app --grace \u0665",
        "app:app --loop uvloop",
        "app:app --loop twisted",
        "app:app --log-level DEBUG",
        "app:app --log-level",
        "app:app --max-concurrency 0",
        "app:app --max-concurrency 1_0",
        "app:app --max-concurrency \u00b2",
        "app:app --max-frame-bytes 1023",
        "app:app --max-frame-bytes=",
        "app:app --log debug",
        "app:app --flag",
        "app:app --flag url",
        "app:app --flag =x",
        "app:app --flag n=1 --flag n=2",
        "app:app --grace 1 --grace 2",
        "-- app:app",
        "app:app --",
        "- app:app",
    ],
)
def test_all_other_words_are_left_to_click(words: str) -> None:
    """Help, mistakes, and rare ways to write something."""
    assert understood(words.split()) is None


TASKS = """
import asyncio
from sepkit import App, TaskContext

app = App("busy")

@app.task(name="beat", restart="on-failure", max_restarts=2, initial_delay=0, max_delay=0.5)
async def beats(ctx: TaskContext) -> None:
    await ctx.kv.set("n", 1)
    ctx.report_health(f"n is {await ctx.kv.get('n')}")
    await ctx.wait_stop()

@app.task(restart="on-failure", max_restarts=1, initial_delay=0)
async def crash() -> None:
    raise ValueError("the secret")

@app.task(per_user=True)
async def feed(ctx: TaskContext) -> None:
    await ctx.wait_stop()

@app.tool
async def begin(user: str) -> str:
    app.tasks.start(feed, user_id=user)
    while app.tasks.status()[1].status != "failed" or app.tasks.status()[0].last_health_status is None:
        await asyncio.sleep(0.01)
    return "begun"
"""


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(TASKS, encoding="utf-8")
    return tmp_path


def test_a_call_shows_how_the_tasks_are_after_it(busy: Path) -> None:
    """Background tasks: names, policies, state, restart count, last health with its age; on stderr, beside no data."""
    done = sepkit(busy, "call", "app:app", "begin", "user=ada")
    assert (done.returncode, done.stdout) == (0, "begun\n")
    shown = done.stderr[done.stderr.index("tasks:\n") :].splitlines()
    assert shown[1:4] == [
        "  beat  starts by itself; restart on-failure, at most 2 times, after 0 to 0.5 s",
        "  crash  starts by itself; restart on-failure, at most once, after 0 to 60 s",
        "  feed  per user, started on demand; restart always, after 1 to 60 s",
    ]
    assert re.fullmatch(r"  beat: running, 0 restarts, said 'n is 1' \d+\.\d s ago", shown[4])
    assert shown[5] == "  crash: failed, 1 restart, restarts exhausted (1 of 1); the last run: ValueError"
    assert shown[6] == "  feed:ada (feed) for ada: running, 0 restarts"
    assert "tasks:" not in sepkit(busy, "call", "--quiet", "app:app", "begin", "user=ada").stderr


def test_inspect_runs_the_app_where_it_is_asked_to_and_shows_its_tasks(busy: Path) -> None:
    """Without ``--run`` it shows the policies of tasks; with ``--run`` also how the tasks are then."""
    assert "running" not in sepkit(busy, "inspect", "app:app").stdout
    done = sepkit(busy, "inspect", "app:app", "--run", "1")
    assert done.returncode == 0
    assert re.search(r"\nstarted tasks:\n  beat: running, 0 restarts, said 'n is 1' \d+\.\d s ago\n", done.stdout)
    data = json.loads(sepkit(busy, "inspect", "app:app", "--run", "1", "--json").stdout)
    beat, crash = data["started_tasks"]
    assert (beat["task_id"], beat["status"], beat["last_health_status"]) == ("beat", "running", "n is 1")
    assert (crash["status"], crash["restart_count"]) == ("failed", 1)
    assert sepkit(busy, "inspect", "app:app", "--run", "0").returncode == 2


ODD_TASKS = """
import asyncio
from sepkit import App, TaskContext

app = App("odd")

@app.task
async def steady(ctx: TaskContext) -> None:
    while not ctx.stopping:
        ctx.report_health("fine")
        await ctx.sleep(0.05)
    await asyncio.sleep(1.5)

@app.task(per_user=True)
async def feed(ctx: TaskContext) -> None:
    raise ValueError

@app.tool
async def begin(user: str) -> str:
    app.tasks.start(feed, id=f"feed:{user}", user_id="ada")
    await asyncio.sleep(0.2)
    return "begun"
"""


def test_ages_are_those_of_the_moment_that_is_shown_and_ids_stay_in_their_line(tmp_path: Path) -> None:
    """Nobody is shown how long the end took; nor a line that an id has made up."""
    (tmp_path / "app.py").write_text(ODD_TASKS, encoding="utf-8")
    called = sepkit(tmp_path, "call", "app:app", "begin", "user=ada\nsteady: failed")
    inspected = sepkit(tmp_path, "inspect", "app:app", "--run", "0.5")
    for shown in (called.stderr, inspected.stdout):
        (age,) = re.findall(r"\n  steady: running, 0 restarts, said 'fine' (\d+\.\d) s ago\n", shown)
        assert float(age) < 1
    assert r"'feed:ada\nsteady: failed' (feed) for ada: restarting" in called.stderr
    assert sepkit(tmp_path, "inspect", "app:app", "--run", "nan").returncode == 2


def test_a_task_names_its_author_s_line_when_it_crashes(busy: Path) -> None:
    """The traceback is on stderr, and begins where the author's code does."""
    done = sepkit(busy, "inspect", "app:app", "--run", "1")
    assert "ValueError: the secret" in done.stderr
    assert 'app.py", line 15, in crash' in done.stderr
    assert "supervisor.py" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["inspect", "app:app"], ["inspect", "app:app", "--json"], ["spec"]], ids=" ".join)
def test_a_full_disk_is_said_in_one_line(folder: Path, words: list[str]) -> None:
    """Output that cannot be written is one line with its own exit code, not a traceback and not a success."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sepkit", *words],
            cwd=folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "sepkit: the output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr
