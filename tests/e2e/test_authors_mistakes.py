"""What ``python -m sepkit run`` makes of an app with a mistake in it: an exit code, one message, nothing on the wire.

A message says what happened, where, and what to do. Where the author's own code raised, its traceback stands above the
message, and only its own: no frame of sepkit's.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

import sepkit
from sepkit.cli import ExitCode
from sepkit.loader import user_traceback
from tests.driver import PATIENCE, Extension

PACKAGE: Final = str(Path(sepkit.__file__).parent)
# Processes start in threads while other tests run, which change the variables of this process: a child that was just
# reading them then fails with EFAULT.
_ENVIRONMENT: Final = dict(os.environ)
HEAD: Final = "from sepkit import *\napp = App('x')\n"  # two lines: what is added begins at line 3


def sepkit_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sepkit", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in ``folder``, with nothing to read."""
    return subprocess.run(
        sepkit_command(*arguments),
        cwd=folder,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=2 * PATIENCE,
    )


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@dataclass(frozen=True)
class Mistake:
    """An app, and what is said of it; ``{here}`` is its folder."""

    code: ExitCode
    says: tuple[str, ...]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    target: str = "app:app"
    traceback: tuple[str, ...] = ()  # what is shown of the author's own code; nothing: no traceback at all
    hides: tuple[str, ...] = ()


Outcome = tuple[Path, subprocess.CompletedProcess[str]]
"""The folder, and what came of the run."""


def app(source: str) -> dict[str, str | bytes]:
    return {"app.py": HEAD + source}


MISTAKES: Final[dict[str, Mistake]] = {
    # -- the target itself
    "no colon": Mistake(
        ExitCode.USAGE, ("'app' names no app", "module:attribute or file.py:attribute", "app:app"), app(""), "app"
    ),
    "a file without an attribute": Mistake(ExitCode.USAGE, ("'app.py' names no app",), app(""), "app.py"),
    "nothing behind the colon": Mistake(ExitCode.USAGE, ("'app:' names no app",), app(""), "app:"),
    "nothing before the colon": Mistake(ExitCode.USAGE, ("':app' names no app",), app(""), ":app"),
    "an empty target": Mistake(ExitCode.USAGE, ("'' names no app",), app(""), ""),
    "an attribute with a space": Mistake(
        ExitCode.USAGE, ("'my app' in 'app:my app'", "app:app"), app(""), "app:my app"
    ),
    "a module with a space": Mistake(
        ExitCode.USAGE, ("'my app' in 'my app:app' is no module name", "module:attribute"), target="my app:app"
    ),
    "a module with a dash, whose file is there": Mistake(
        ExitCode.USAGE,
        ("'my-app' in 'my-app:app' is no module name", "write my-app.py:app"),
        {"my-app.py": HEAD},
        "my-app:app",
    ),
    "a file that is no .py": Mistake(
        ExitCode.USAGE, ("app.txt is no Python file", "ends with .py"), {"app.txt": HEAD}, "app.txt:app"
    ),
    "a folder": Mistake(ExitCode.USAGE, ("sub is no Python file",), {"sub/app.py": HEAD}, "sub/:app"),
    # -- modules and files that are not there
    "a module that is not there": Mistake(
        ExitCode.NO_MODULE, ("there is no module 'nothing'", "{here}", "path/to/app.py:app"), target="nothing:app"
    ),
    "a submodule that is not there": Mistake(
        ExitCode.NO_MODULE,
        ("there is no module 'package.nothing'",),
        {"package/__init__.py": ""},
        "package.nothing:app",
    ),
    "a submodule of what is no package": Mistake(
        ExitCode.NO_MODULE, ("there is no module 'app.nothing'",), app(""), "app.nothing:app"
    ),
    "a file that is not there": Mistake(
        ExitCode.NO_MODULE, ("there is no file gone/app.py", "looked in {here}"), target="gone/app.py:app"
    ),
    # -- attributes
    "no attribute, but an App of another name": Mistake(
        ExitCode.NO_ATTRIBUTE,
        ("app ({here}/app.py) has no attribute 'app'", "an App named 'server': write app:server"),
        {"app.py": "from sepkit import App\nserver = App('x')\n"},
    ),
    "no attribute, in a file": Mistake(
        ExitCode.NO_ATTRIBUTE,
        ("has no attribute 'application'", "write app.py:app"),
        app(""),
        "app.py:application",
    ),
    "no attribute and no App": Mistake(
        ExitCode.NO_ATTRIBUTE, ("has no attribute 'app'", "write `app = App(...)` in it"), {"app.py": "x = 1\n"}
    ),
    "a module that is found elsewhere": Mistake(
        ExitCode.NO_ATTRIBUTE, ("json (", "__init__.py) has no attribute 'app'"), target="json:app"
    ),
    "an attribute that is no App": Mistake(
        ExitCode.NOT_AN_APP,
        ("'app' in app ({here}/app.py) is no sepkit.App, but a dict", "write `app = App(...)`"),
        {"app.py": "app = {}\n"},
    ),
    "the class App": Mistake(
        ExitCode.NOT_AN_APP,
        ("is no sepkit.App, but the class itself", "write `app = App(...)`"),
        {"app.py": "from sepkit import App\napp = App\n"},
    ),
    "a Router": Mistake(
        ExitCode.NOT_AN_APP,
        ("is no sepkit.App, but a Router", "an App named 'main': write app:main"),
        {"app.py": "from sepkit import App, Router\napp = Router()\nmain = App('x')\n"},
    ),
    # -- imports that fail
    "an exception at import": Mistake(
        ExitCode.IMPORT_FAILED,
        ("app ({here}/app.py) could not be imported: ZeroDivisionError: division by zero",),
        app("def f():\n    return 1 / 0\nf()\n"),
        traceback=('File "{here}/app.py", line 5, in <module>', 'File "{here}/app.py", line 4, in f', "return 1 / 0"),
    ),
    "an exception at import, in a file": Mistake(
        ExitCode.IMPORT_FAILED,
        ("{here}/app.py could not be imported: ZeroDivisionError: division by zero",),
        app("def f():\n    return 1 / 0\nf()\n"),
        "app.py:app",
        traceback=('File "{here}/app.py", line 5, in <module>', 'File "{here}/app.py", line 4, in f'),
    ),
    "an exception in what the app imports, with its cause": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: RuntimeError: no settings",),
        {
            "app.py": "import settings\n",
            "settings.py": "try:\n    {}['x']\nexcept KeyError as e:\n    raise RuntimeError('no settings') from e\n",
        },
        traceback=(
            'File "{here}/app.py", line 1',
            'File "{here}/settings.py", line 4',
            'File "{here}/settings.py", line 2',
            "KeyError: 'x'",
            "direct cause",
        ),
    ),
    "a refusal of sepkit's that the author raises from": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: RuntimeError: mine",),
        app("try:\n    app.flag('a b')\nexcept Exception as error:\n    raise RuntimeError('mine') from error\n"),
        traceback=(
            'File "{here}/app.py", line 4',
            "RegistrationError: flag name 'a b'",
            'File "{here}/app.py", line 6',
        ),
    ),
    "a callback of the author's that sepkit calls": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: ZeroDivisionError",),
        app(
            "class Template(dict):\n    def items(self):\n        return 1 / 0\n"
            "app.renderer('x', Template(kind='markdown'))\n"
        ),
        traceback=('File "{here}/app.py", line 6, in <module>', 'File "{here}/app.py", line 5, in items'),
    ),
    "a module that is not installed": Mistake(
        ExitCode.IMPORT_FAILED,
        ("ModuleNotFoundError: No module named 'no_such_library'", f"install what it is in for {sys.executable}"),
        app("import no_such_library.part\n"),
        traceback=('File "{here}/app.py", line 3', "import no_such_library.part"),
    ),
    "a name that a module does not have": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: ImportError: cannot import name 'Nothing'",),
        app("from json import Nothing\n"),
        traceback=('File "{here}/app.py", line 3',),
        hides=("install",),
    ),
    "a submodule of the app, which is no package": Mistake(
        ExitCode.IMPORT_FAILED,
        ("ModuleNotFoundError: No module named 'app.part'",),
        app("import app.part\n"),
        traceback=('File "{here}/app.py", line 3',),
        hides=("install", "there is no module"),
    ),
    "a syntax error": Mistake(
        ExitCode.IMPORT_FAILED,
        ("app ({here}/app.py) could not be imported: SyntaxError",),
        app("def f(:\n    pass\n"),
        traceback=('File "{here}/app.py", line 3', "def f(:"),
    ),
    "a syntax error in what the app imports": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: IndentationError",),
        {"app.py": "import part\n", "part.py": "x = 1\n  y = 2\n"},
        traceback=('File "{here}/app.py", line 1', 'File "{here}/part.py", line 2'),
    ),
    "NUL bytes in the file": Mistake(
        ExitCode.IMPORT_FAILED,
        ("app ({here}/app.py) could not be imported: SyntaxError", "null bytes"),
        {"app.py": b"x = 1\0\n"},
        traceback=("SyntaxError",),
    ),
    "binary garbage in the file": Mistake(
        ExitCode.IMPORT_FAILED,
        ("{here}/app.py could not be imported: SyntaxError",),
        {"app.py": bytes(range(1, 256)) * 3},
        "app.py:app",
        traceback=("SyntaxError",),
    ),
    "a file in Latin-1": Mistake(
        ExitCode.IMPORT_FAILED,
        ("app ({here}/app.py) could not be imported: SyntaxError", "utf-8"),
        {"app.py": "x = 'é'\n".encode("latin-1")},
        traceback=("SyntaxError",),
    ),
    "SystemExit at import": Mistake(
        ExitCode.IMPORT_FAILED,
        ("app ({here}/app.py) calls sys.exit(3) when it is imported", 'below `if __name__ == "__main__":`'),
        app("import sys\nsys.exit(3)\n"),
        traceback=('File "{here}/app.py", line 4', "sys.exit(3)"),
    ),
    "SystemExit without a code": Mistake(
        ExitCode.IMPORT_FAILED,
        ("calls sys.exit() when it is imported",),
        app("raise SystemExit\n"),
        traceback=('File "{here}/app.py", line 3',),
    ),
    "an exception that is no Exception": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: Odd: text",),
        app("class Odd(BaseException): pass\nraise Odd('text')\n"),
        traceback=('File "{here}/app.py", line 4',),
    ),
    "an exception without a text that could be made": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: Odd: (its text could not be made)",),
        app("class Odd(Exception):\n    def __str__(self):\n        return 5\nraise Odd\n"),
        traceback=('File "{here}/app.py", line 6',),
    ),
    "an exception whose text is no UTF-8": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: ValueError: \\udcff",),
        app("raise ValueError('\\udcff')\n"),
        traceback=('File "{here}/app.py", line 3',),
    ),
    "a module that reads stdin": Mistake(
        ExitCode.IMPORT_FAILED, ("could not be imported: EOFError",), app("input('name? ')\n"), traceback=("line 3",)
    ),
    "an option that no decorator has": Mistake(
        ExitCode.IMPORT_FAILED,
        ("could not be imported: TypeError:", "nme="),
        app("@app.tool(nme='x')\nasync def f(): pass\n"),
        traceback=('File "{here}/app.py", line 3',),
    ),
    # -- registrations
    "an App's name with a space": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("App name 'my app'", "letters, digits", "write 'my-app'", "{here}/app.py:2"),
        {"app.py": "from sepkit import App\napp = App('my app')\n"},
    ),
    "two tools of one name": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' is registered twice", "app.py:3)", "{here}/app.py:5", "give one of them another name"),
        app("@app.tool\nasync def a(): pass\n@app.tool(name='a')\nasync def b(): pass\n"),
    ),
    "a router's tool of a name that is taken": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' is registered twice", "app.py:4)", "{here}/app.py:8"),
        app("r = Router()\n@app.tool\nasync def a(): pass\n@r.tool(name='a')\nasync def b(): pass\napp.include(r)\n"),
    ),
    "parameters without annotations": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' ({here}/app.py:3)", "'x' has no annotation; write its type", "'y' has no annotation"),
        app("@app.tool\nasync def a(x, y): pass\n"),
    ),
    "a parameter that takes a function": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' ({here}/app.py:4)", "parameter 'f'", "a function can't be sent; take a name"),
        app("from collections.abc import Callable\n@app.tool\nasync def a(f: Callable[[int], int]): pass\n"),
    ),
    "a recursive type": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' ({here}/app.py:7)", "parameter 'x'", "Node holds itself", "dict[str, Any]"),
        app(
            "from dataclasses import dataclass\n@dataclass\nclass Node:\n    children: list['Node']\n"
            "@app.tool\nasync def a(x: Node): pass\n"
        ),
    ),
    "an annotation that leads nowhere": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' ({here}/app.py:4)", "parameter 'x'", "'Nothing', which is not defined", "import it"),
        {"app.py": "from __future__ import annotations\n" + HEAD + "@app.tool\nasync def a(x: Nothing): pass\n"},
    ),
    "an unknown hook": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("there is no hook 'tool_cal'", "did you mean 'tool_call'?", "{here}/app.py:3"),
        app("@app.hook('tool_cal')\nasync def a(x: dict): pass\n"),
    ),
    "a hook without its name": Mistake(
        ExitCode.BAD_REGISTRATION,
        ('@app.hook("tool_call")', "app.py:3"),
        app("@app.hook\nasync def a(x: dict): pass\n"),
    ),
    "a misspelt event": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("there is no event 'turn_stert'", "did you mean 'turn_start'?", "{here}/app.py:3"),
        app("@app.on('turn_stert')\nasync def a(x: dict): pass\n"),
    ),
    "a context that is not given there": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("tool 'a' ({here}/app.py:3)", "is a CommandContext, which is not given here; write ToolContext"),
        app("@app.tool\nasync def a(ctx: CommandContext): pass\n"),
    ),
    "a completer of an unknown command": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("completer of command 'gret' (app.py:5)", "did you mean 'greet'?", "{here}/app.py"),
        app("@app.command\nasync def greet(): pass\n@app.complete('gret')\nasync def a(x: str): return []\n"),
    ),
    "a shortcut to an unknown command": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("shortcut 'ctrl+p'", "no command 'greet'", "{here}/app.py"),
        app("app.shortcut('ctrl+p', 'greet')\n"),
    ),
    "a policy that makes no sense": Mistake(
        ExitCode.BAD_REGISTRATION,
        ("max_restarts must be a whole number", "not -1", "{here}/app.py:3"),
        app("@app.task(max_restarts=-1)\nasync def a(): pass\n"),
    ),
}


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """What comes of each mistake that is asked for; two at a time, since most of it is Python's start."""

    def make(name: str, here: Path) -> Outcome:
        write(here, MISTAKES[name].files)
        return here, run(here, "run", MISTAKES[name].target)

    names = [item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(2) as pool:
        wanted = [name for name in MISTAKES if name in names]
        yield {name: pool.submit(make, name, tmp_path_factory.mktemp("mistake").resolve()) for name in wanted}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_exit_code_and_one_message(outcomes: dict[str, Future[Outcome]], name: str) -> None:
    """A mistake is reported at once, with its place, with what to do, and with the exit code of its kind.

    Nothing reaches the wire, and no traceback shows sepkit's own frames.
    """
    mistake = MISTAKES[name]
    here, outcome = outcomes[name].result()
    assert outcome.returncode == mistake.code, outcome.stderr
    assert outcome.stdout == ""
    for expected in (*mistake.says, *mistake.traceback):
        assert expected.replace("{here}", str(here)) in outcome.stderr, outcome.stderr
    for hidden in mistake.hides:
        assert hidden not in outcome.stderr
    assert PACKAGE not in outcome.stderr
    assert "importlib" not in outcome.stderr
    traceback, *messages = re.split("^sepkit: ", outcome.stderr, flags=re.MULTILINE)
    assert len(messages) == 1
    assert bool(traceback) == bool(mistake.traceback)


def test_each_kind_of_mistake_has_an_exit_code_of_its_own() -> None:
    """Exit codes have names, so a script can tell one kind of failure from another."""
    others = (ExitCode.OK, ExitCode.FAILED, ExitCode.LIFESPAN_ENDED, ExitCode.BAD_SETTINGS, ExitCode.INTERRUPTED)
    codes = [code for code in ExitCode if code not in others]
    assert {mistake.code for mistake in MISTAKES.values()} == set(codes)
    assert len({int(code) for code in ExitCode}) == len(ExitCode)


def test_the_authors_folder_may_begin_like_sepkits_own() -> None:
    """A folder ``sepkit-apps`` beside ``sepkit`` is the author's: its frames are shown, and sepkit's are not."""
    theirs = f"{PACKAGE}-apps/app.py"
    scope: dict[str, object] = {}
    exec(compile("def f():\n    raise ValueError('boom')", theirs, "exec"), scope)
    exec(compile("def g(f):\n    f()", f"{PACKAGE}/app.py", "exec"), scope)
    exec(compile("def h(g, f):\n    g(f)", theirs, "exec"), scope)
    with pytest.raises(ValueError, match="boom") as caught:
        scope["h"](scope["g"], scope["f"])  # type: ignore[operator]
    shown = user_traceback(caught.value)
    assert shown.count(f'File "{theirs}"') == 2
    assert f'File "{PACKAGE}/' not in shown


def test_a_file_may_be_named_like_a_module_of_pythons(tmp_path: Path) -> None:
    """A target in a file is that file, and takes no module away from those who need the one that Python has."""
    write(tmp_path, {"sub/json.py": HEAD + "import json\nassert json.loads('1') == 1\n", "sub/my app.py": HEAD})
    for target in ("sub/json.py:app", "sub/my app.py:app"):
        outcome = run(tmp_path, "run", target)
        assert (outcome.returncode, outcome.stdout) == (ExitCode.OK, ""), outcome.stderr


def test_what_an_import_prints_stays_off_the_wire() -> None:
    """``print()``, ``os.write(1, …)``, ``os.system("echo x")`` at import put no stray byte on the wire."""
    source = """
        import os, subprocess, sys
        print("printed")
        os.write(1, b"written\\n")
        os.system("echo echoed")
        subprocess.run([sys.executable, "-c", "print('spawned')"])
        sys.__stdout__.write("dunder\\n")
        from sepkit import App
        app = App("prints")
    """
    with Extension(source) as extension:
        assert extension.ask("ping", {}) == {}
        assert extension.end() == 0
        assert extension.rest() == []
        for word in ("printed", "written", "echoed", "spawned", "dunder"):
            assert f"{word}\n" in extension.stderr


def test_what_is_printed_before_a_failed_import_stays_off_the_wire(tmp_path: Path) -> None:
    """If the import fails later, stdout stays empty and the printed text stands above the message."""
    write(tmp_path, {"app.py": "print('printed')\nimport os\nos.write(1, b'written\\n')\nraise ValueError('boom')\n"})
    outcome = run(tmp_path, "run", "app:app")
    assert (outcome.returncode, outcome.stdout) == (ExitCode.IMPORT_FAILED, "")
    assert outcome.stderr.startswith("printed\nwritten\nTraceback")


def test_a_failed_import_ends_the_process_whatever_threads_it_has_started(tmp_path: Path) -> None:
    """A module that cannot be imported is reported at once, not by a time-out; its threads are left behind."""
    source = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\nraise ValueError('boom')\n"
    )
    write(tmp_path, {"app.py": source})
    outcome = run(tmp_path, "run", "app:app")
    assert outcome.returncode == ExitCode.IMPORT_FAILED
    assert "ValueError: boom" in outcome.stderr


SLOW_IMPORT: Final = {
    "in the app": {"app.py": "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(3600)\n"},
    "in what the app imports": {
        "app.py": "try:\n    import part\nexcept Exception:\n    pass\n",
        "part.py": "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(3600)\n",
    },
    "with a thread": {
        "app.py": "import sys, threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "print('importing', file=sys.stderr, flush=True)\ntime.sleep(3600)\n",
    },
}


@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("app:app", SLOW_IMPORT["in the app"]),
        ("app.py:app", SLOW_IMPORT["in what the app imports"]),
        ("app:app", SLOW_IMPORT["with a thread"]),
    ],
    ids=list(SLOW_IMPORT),
)
def test_ctrl_c_during_a_slow_import_ends_it_without_a_traceback(
    tmp_path: Path, target: str, files: dict[str, str]
) -> None:
    """One Ctrl+C ends it without a traceback, with the shell's exit code for it, 130."""
    write(tmp_path, files)
    with subprocess.Popen(
        sepkit_command("run", target),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            assert process.stderr.readline() == b"importing\n"
            os.kill(process.pid, signal.SIGINT)
            assert process.wait() == ExitCode.INTERRUPTED
            assert process.stdout.read() == b""
            assert process.stderr.read() == b""
        finally:
            watchdog.cancel()
            process.kill()


# ------------------------------------------------------------------------------------------------- the command line
def test_help_says_what_there_is(tmp_path: Path) -> None:
    """The help is on stdout and lists each verb with what it does."""
    outcome = run(tmp_path, "--help")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for expected in ("Usage:", "run", "Serve MODULE:APP", "call", "inspect", "--version"):
        assert expected in outcome.stdout


def test_version_is_the_packages(tmp_path: Path) -> None:
    """``--version`` prints the version that is imported, and nothing else."""
    outcome = run(tmp_path, "--version")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.split() == ["sepkit,", "version", sepkit.__version__]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum", "app:app"], ["No such command", "rum", "--help"]),
        ([], ["Usage:", "run"]),
        (["run"], ["Missing argument", "MODULE:APP", "--help"]),
        (["run", "app:app", "more"], ["unexpected extra argument", "more"]),
        (["run", "--nothing", "app:app"], ["No such option", "--nothing"]),
        (["run", "--loop", "trio", "app:app"], ["--loop", "trio", "asyncio", "uvloop"]),
        (["run", "--max-frame-bytes", "0", "app:app"], ["--max-frame-bytes", "1024"]),
        (["run", "--grace", "-1", "app:app"], ["--grace", "-1"]),
        (["run", "--max-concurrency", "many", "app:app"], ["--max-concurrency", "many"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_said_on_stderr(tmp_path: Path, arguments: list[str], says: list[str]) -> None:
    """The message is on stderr, without a traceback, with exit code 2; the app is not loaded."""
    outcome = run(tmp_path, *arguments)
    assert (outcome.returncode, outcome.stdout) == (ExitCode.USAGE, "")
    for expected in says:
        assert expected in outcome.stderr
    assert "Traceback" not in outcome.stderr
