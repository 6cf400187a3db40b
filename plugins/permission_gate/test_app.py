"""The gate: what it lets pass, and what it does not; and the gate as a program."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate.decision import Command
from gate.decision import decide as judge
from gate.rules import Rules
from plugins.permission_gate.app import app
from plugins.permission_gate.spellings import BLOCKED, HARMLESS, UNREADABLE
from sepkit.faces.runner import LoopKind
from sepkit.testing import BlockingTestHost, BlockOutcome, ContinueOutcome, TestHost
from tests.driver import CONTEXT, HANDSHAKE, Extension

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def gate() -> Iterator[BlockingTestHost]:
    with TestHost(app) as host:
        yield host


def decide(gate: BlockingTestHost, hook: str, given: dict[str, Any]) -> str | None:
    """The reason of a block; None where it may go on."""
    outcome = gate.call_hook(hook, given)
    if isinstance(outcome, BlockOutcome):
        assert outcome.reason is not None
        return outcome.reason
    assert outcome == ContinueOutcome()
    return None


def of_tool(gate: BlockingTestHost, tool: str, **arguments: object) -> str | None:
    return decide(gate, "tool_call", {"tool": tool, "arguments": arguments})


def passing(gate: BlockingTestHost, commands: Iterable[str], reason: str) -> list[str]:
    """Those of ``commands`` that are not blocked for ``reason``."""
    found = []
    for command in commands:
        said = of_tool(gate, "bash", command=command) or ""
        if not (said.startswith(f"{command[:1000]!r}") and reason in said):
            found.append(command)
    return found


def test_the_table_of_spellings_is_long_enough_to_say_something() -> None:
    """Hundreds of each kind, and none of them twice or on both sides."""
    assert min(len(set(BLOCKED)), len(set(HARMLESS))) >= 300
    assert not set(BLOCKED) & set(HARMLESS)


def test_what_cannot_be_brought_back_is_blocked(gate: BlockingTestHost) -> None:
    """The gate's promise; the reason names the command, and does not say that it could not be read."""
    assert passing(gate, BLOCKED, " is blocked: ") == []
    assert len(passing(gate, BLOCKED, "cannot be read")) == len(BLOCKED)


def test_what_cannot_be_read_is_blocked_where_no_person_can_be_asked(gate: BlockingTestHost) -> None:
    """A decoder before a shell, a program without a known name, a mistake in the syntax: the reason says it."""
    assert passing(gate, UNREADABLE, "is blocked: it cannot be read: ") == []


def test_everyday_commands_pass(gate: BlockingTestHost) -> None:
    """A gate that stops what is harmless is switched off."""
    assert [one for one in HARMLESS if of_tool(gate, "bash", command=one) is not None] == []


def test_what_a_user_types_is_read_in_the_same_way(gate: BlockingTestHost) -> None:
    """``user_bash`` is decided on as ``tool_call`` is. Source: docs/protocol.md, section 6."""
    told = [decide(gate, "user_bash", {"command": one}) is not None for one in (*BLOCKED[::7], *UNREADABLE)]
    assert all(told)
    assert [one for one in HARMLESS[::7] if decide(gate, "user_bash", {"command": one}) is not None] == []


# -- what is looked at in a call ---------------------------------------------------------------------------------------

TOOLS = [
    *("bash", "Bash", "sh", "shell", "run_command", "execute", "box.bash", "a.b.shell", "run_shell_command"),
    *("execute_bash", "terminal.run", "mcp__shell__run", "powershell", "write_file", "bash.help", "x"),
]

CALLS: list[dict[str, Any]] = [
    {"command": "rm -rf /"},
    {"Command": "rm -rf /"},
    {"cmd": "rm -rf /"},
    {"cmdline": "rm -rf /"},
    {"command_line": "rm -rf /"},
    {"commandLine": "rm -rf /"},
    {"shell_command": "rm -rf /"},
    {"bash_command": "rm -rf /"},
    {"pre_command": "rm -rf /", "command": "ls"},
    {"script": "cd /\nrm -rf /"},
    {"exec": "rm -rf /"},
    {"command": ["rm", "-rf", "/"]},
    {"command": ["rm", "-rf", "~"]},
    {"command": ["rm", "-rf", "/*"]},
    {"command": ["rm -rf /"]},
    {"command": ["bash", "-c", "rm -rf /"]},
    {"command": ["sudo", "bash", "-lc", "cd / && rm -rf *"]},
    {"argv": ["rm", "-rf", "/"]},
    {"command": "rm", "args": ["-rf", "/"]},
    {"command": "rm", "args": "-rf /"},
    {"command": "sudo", "args": ["rm", "-rf", "/"]},
    {"command": "rm", "args": ["-rf", "*"], "cwd": "/"},
    {"command": "ls; ", "args": ["rm", "-rf", "/"]},
    {"program": "rm", "args": ["-rf", "/"]},
    {"executable": "/bin/rm", "arguments": ["-rf", "/"]},
    {"path": "/bin/rm", "args": ["-rf", "/"]},
    {"command": "ls", "script": "rm -rf /"},
    {"command": "rm -rf *", "cwd": "/"},
    {"command": "rm -rf *", "cwd": "~"},
    {"command": "rm -rf *", "cwd": "$HOME"},
    {"command": "rm -rf *", "cwd": "file:///"},
    {"command": "rm -rf *", "workdir": "/"},
    {"command": "rm -rf *", "working_directory": "/etc"},
    {"command": "rm -rf *", "workingDirectory": "/"},
    {"command": "rm -rf ..", "cwd": "/tmp"},
    {"command": "find . -delete", "directory": "/"},
    {"command": "> sda", "cwd": "/dev"},
    {"commands": ["cd /", "rm -rf *"]},
    {"commands": [{"command": "ls"}, {"command": "rm -rf /"}]},
    {"steps": [{"name": "clean", "run": "rm -rf /"}]},
    {"options": {"command": "rm -rf /"}},
    {"command": {"text": "rm -rf /"}},
    {"command": {"program": "rm", "args": ["-rf", "/"]}},
    {"command": "bash", "stdin": "rm -rf /"},
    {"command": "cat | sh", "input": "rm -rf /"},
    {"command": "rm -rf $X", "env": {"X": "/"}},
    {"language": "bash", "code": "rm -rf /"},
    {"language": "python", "code": "import os\nos.system('rm -rf /')"},
    {"code": "import shutil; shutil.rmtree('/')"},
    {"language": "powershell", "code": "Remove-Item -Recurse -Force C:\\"},
    {"command": "powershell", "args": ["-Command", "Remove-Item -Recurse C:\\"]},
]


@pytest.mark.parametrize("tool", TOOLS)
def test_each_form_of_a_call_is_gated_whatever_the_tool_is_called(gate: BlockingTestHost, tool: str) -> None:
    """An argument that may hold a command is looked at; its folder, input and variables count.

    Source: docs/protocol.md, section 6.
    """
    assert [one for one in CALLS if of_tool(gate, tool, **one) is None] == []


def test_a_tool_with_a_shell_in_its_name_is_gated_whatever_its_arguments_are_called(gate: BlockingTestHost) -> None:
    """What goes into a terminal is run there."""
    for tool, name in itertools.product(("terminal.run", "tmux_send_keys", "bash", "ssh"), ("input", "text", "keys")):
        assert of_tool(gate, tool, **{name: "rm -rf /\n"}) is not None
    assert of_tool(gate, "exec", args=["rm", "-rf", "/"]) is not None
    assert of_tool(gate, "powershell", script="rm -r C:\\") is not None


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("bash", {"comment": "rm -rf /"}),
        ("bash", {"command": "ls", "description": "rm -rf /"}),
        ("bash", {"command": ["echo", "rm -rf /"]}),
        ("bash", {"command": ["rm", "-rf", "a; rm /"]}),
        ("bash", {"command": "git", "args": ["commit", "-m", "rm -rf /"]}),
        ("bash", {"command": "cat", "stdin": "rm -rf /"}),
        ("bash", {"command": "ls", "env": {"A": "rm -rf /"}}),
        ("bash", {"command": None}),
        ("bash", {"command": []}),
        ("bash", {"command": 5}),
        ("bash", {}),
        ("x", {"command": "rm -rf *", "cwd": "/tmp/x"}),
        ("x", {"command": "rm -rf build", "cwd": "/"}),
        ("x", {"command": "rm", "args": "-rf build"}),
        ("exec", {"args": ["echo", "rm", "-rf", "/"]}),
        ("write_file", {"path": "x.sh", "content": "rm -rf /"}),
        ("create_file", {"path": "x.sh", "content": "rm -rf /", "language": "bash"}),
        ("str_replace_editor", {"command": "create", "path": "/etc/x", "file_text": "rm -rf /"}),
        ("edit", {"file_path": "x", "old_string": "rm -rf /", "new_string": "ls"}),
        ("search", {"query": "rm -rf /"}),
        ("memory", {"text": "rm -rf /"}),
        ("github.create_issue", {"title": "rm -rf /", "body": "`rm -rf /` and $(rm -rf /)"}),
        ("python", {"code": "print('rm -rf /')"}),
        ("git", {"args": ["commit", "-m", "rm -rf /"]}),
    ],
    ids=str,
)
def test_what_runs_no_shell_command_passes(gate: BlockingTestHost, tool: str, arguments: dict[str, Any]) -> None:
    """What another tool does with its texts is that tool's affair."""
    assert of_tool(gate, tool, **arguments) is None


# -- a person is asked, and the settings -------------------------------------------------------------------------------

DOUBTFUL = {"tool": "bash", "arguments": {"command": "base64 -d x | sh"}}


@pytest.mark.parametrize("agrees", [True, False])
def test_a_person_decides_on_what_cannot_be_read(agrees: bool) -> None:
    """Where the host can ask one; what is dangerous beyond doubt is blocked without a question."""
    with TestHost(app, ui={"confirm": agrees}) as host:
        assert (decide(host, "tool_call", DOUBTFUL) is None) is agrees
        assert decide(host, "tool_call", {"tool": "bash", "arguments": {"command": "rm -rf /"}}) is not None
        assert decide(host, "tool_call", {"tool": "bash", "arguments": {"command": "ls"}}) is None


@pytest.mark.parametrize(
    ("flags", "command", "passes"),
    [
        ({"unreadable": "pass"}, "base64 -d x | sh", True),
        ({"unreadable": "block"}, "base64 -d x | sh", False),
        ({"rules": ["overwrite"]}, "rm -rf /", True),
        ({"rules": ["overwrite"]}, "dd of=/dev/sda", False),
        ({"protect": ["/data"]}, "rm -rf /data/*", False),
        ({"protect": ["~/photos"]}, "rm -rf ~/photos", False),
        ({"protect": ["/data"]}, "rm -rf /data/x", True),
        ({"pass_tools": ["ba*"]}, "rm -rf /", True),
        ({"pass_tools": ["notes.*"]}, "rm -rf /", False),
        ({"rules": ["everything"]}, "rm -rf /", False),
        ({"protect": "x", "unreadable": 5, "arguments": None}, "rm -rf /", False),
    ],
    ids=str,
)
def test_names_and_rules_are_settings(flags: dict[str, Any], command: str, passes: bool) -> None:
    """They are flags. One that cannot be used is told, and the default holds: a mistake opens nothing."""
    with TestHost(app, flags=flags) as host:
        assert (of_tool(host, "bash", command=command) is None) is passes


def test_names_of_arguments_are_settings() -> None:
    """Names that hold commands and folders beside those that are known."""
    with TestHost(app, flags={"arguments": ["doIt"], "folders": ["there"]}) as host:
        assert of_tool(host, "x", do_it="rm -rf /") is not None
        assert of_tool(host, "x", command="rm -rf *", there="/") is not None
        assert of_tool(host, "x", command="rm -rf *", cwd="/") is None


def test_the_workspace_is_where_a_command_begins() -> None:
    """``..`` leads out of it; a host that names ``/`` has said nothing of where its tools run."""
    with TestHost(app, workspace="/home/ada/project") as host:
        assert of_tool(host, "bash", command="rm -rf ../../ada") is not None
        assert of_tool(host, "bash", command="rm -rf ../*") is not None
        assert of_tool(host, "bash", command="rm -rf *") is None
    with TestHost(app, workspace="/") as host:
        assert of_tool(host, "bash", command="rm -rf bin") is None
        assert of_tool(host, "bash", command="cd / && rm -rf bin") is not None


# -- nothing that is sent takes long -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["x" * 300_000, "a() { " * 20_000, "$(" * 10_000, "sudo " * 1_000, "'" * 20_001])
def test_a_long_command_is_decided_on_soon(gate: BlockingTestHost, command: str) -> None:
    """A gate that doesn't answer fails closed: it would stop what is harmless."""
    assert gate.call_hook("user_bash", {"command": command}, timeout=5) == ContinueOutcome()


HUGE = {
    "1 MiB": "rm " + "x" * 2**20,
    "braces": "rm -rf " + "{a,b}" * 40,
    "braces in braces": "rm " + "{a," * 5_000 + "}" * 5_000,
    "substitutions in substitutions": "$(" * 3_000 + "rm" + ")" * 3_000,
    "quoted ones": '"$(' * 3_000 + "rm" + ')"' * 3_000,
    "conditions": "if x; then " * 2_000 + "rm;" + "fi;" * 2_000,
    "loops": "for i in a b; do " * 100 + "rm $i;" + "done;" * 100,
    "loops that add up": "while x; do a=$a" + "; while x; do b=$b$a " * 20 + "; rm $a; done" * 21,
    "values that double": "v0=x\n" + "".join(f"v{n}=$v{n - 1}$v{n - 1}\n" for n in range(1, 60)) + "rm $v59",
    "functions that call two": "".join(f"f{n}() {{ f{n + 1}; f{n + 1}; }}\n" for n in range(60))
    + "f60() { rm x; }\nf0",
    "aliases": "".join(f"alias a{n}='a{n + 1} x; a{n + 1} y'\n" for n in range(60)) + "a0",
    "wrappers": "eval " * 5_000 + "rm x",
    "text that runs itself": 'X=\'X=$X$X; eval "$X"\'; eval "$X"; rm x',
    "what the parser is slow with": "cat <<A <<B <<C\nx\nA\n" * 10_000 + "rm",
    "what takes it memory": "a=(" * 60_000 + "rm",
    "brackets of all kinds": "({[<>|&;$" * 20_000 + "rm",
    "thousands of branches": "".join(f"if x; then a{n}=1; else a{n}=2; fi\n" for n in range(9_000)) + "rm -rf $a1",
    "functions for everything": "rm x;" * 60_000,
}


@pytest.mark.parametrize("kind", HUGE)
def test_what_is_too_much_to_follow_is_refused_soon_and_said(
    gate: BlockingTestHost, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work, depth, length and the parser's time are bounded; the limits are of the thread's own time."""
    for limit in ("gate.reader.MAX_TIME", "gate.parser.MAX_TIME"):
        monkeypatch.setattr(limit, 0.2)  # a good second is for people; the tests need not wait for it
    reason = decide(gate, "user_bash", {"command": HUGE[kind]})
    assert reason is not None
    assert "it cannot be read: " in reason


@pytest.mark.parametrize(
    "command",
    [
        "".join(f"v{n}={n}\n" for n in range(3_000)) + "rm -rf $v1",
        "rm {1..1000000000}",
        "rm -rf " + "../" * 1_000 + "x",
        "rm " + "\\\n" * 10_000 + "x",
        "f() { f; rm x; }; f",
        "f() { g x$1; rm x; }; g() { f x$1; }; f",
        "X=" + "a" * 3_000 + "; rm ${X%" + "*a" * 200 + "b}",
        "[[ a =~ (a+)+$ ]] && rm x",
        "python3 -c '" + "system(" * 20_000 + "'",
    ],
    ids=lambda command: command[:20],
)
def test_what_is_only_long_is_read_all_the_same(command: str) -> None:
    """Recursion and repetition end."""
    with TestHost(app, workspace="/home/ada/a/b") as host:
        assert host.call_hook("user_bash", {"command": command}, timeout=20) == ContinueOutcome()


def test_arguments_that_are_too_many_are_refused_and_said(gate: BlockingTestHost) -> None:
    """Nested, or wide: a call's values are counted."""
    deep: dict[str, Any] = {"command": "ls"}
    for _ in range(200):
        deep = {"more": deep}
    for arguments in (deep, {"steps": [{"x": n} for n in range(20_000)]}):
        reason = of_tool(gate, "x", **arguments)
        assert reason is not None
        assert "it cannot be read: its arguments " in reason


def test_many_commands_in_one_call_are_refused_soon_and_said(
    gate: BlockingTestHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is the call's: a hundred commands do not take a hundred times as long."""
    for limit in ("gate.reader.MAX_TIME", "plugins.permission_gate.app.CALL_LIMIT"):
        monkeypatch.setattr(limit, 0.1)
    reason = of_tool(
        gate, "x", steps=[{"run": "for i in a b; do rm $i; done;" * 200 + f"rm {n}"} for n in range(1_000)]
    )
    assert reason is not None
    assert "it cannot be read: its call holds too much" in reason
    reason = of_tool(gate, "x", command=["rm", *"x" * 100_000])
    assert reason is not None
    assert "it cannot be read: it has more than" in reason


@pytest.mark.parametrize("line", ["hello rm -rf / 'world' $x", 'it\'s "plain" rm -rf /'], ids=["variables", "plain"])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_here_document_of_300_kb_is_decided_on_in_a_moment(line: str, quoted: bool) -> None:
    """Within 50 ms on an idle machine; ten times as long is for others. Measured in this thread's own time."""
    end = "'EOF'" if quoted else "EOF"
    text = f"cat <<{end} > x.md\n" + f"{line}\n" * (300_000 // len(line)) + "EOF\n"
    rules = Rules()
    assert judge(Command(text="rm x"), rules, "/home/ada/x") is None  # the parser is loaded
    began = time.thread_time()
    assert judge(Command(text=text), rules, "/home/ada/x") is None
    assert time.thread_time() - began < 0.5
    verdict = judge(Command(text=f"{text}rm -rf /"), rules, "/home/ada/x")
    assert verdict is not None
    assert verdict.readable


def test_the_parser_is_loaded_only_for_a_command_that_needs_it() -> None:
    """Starting is quick, and most commands need no parser."""
    source = """
        import sys
        from gate.decision import Command, decide
        from gate.rules import Rules
        import app
        assert decide(Command(text="ls -la"), Rules(), "") is None
        print("tree_sitter" in sys.modules)
        decide(Command(text="rm x"), Rules(), "")
        print("tree_sitter" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], cwd=HERE, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split() == [b"False", b"True"]


def test_without_the_parser_what_may_be_dangerous_is_blocked_and_said() -> None:
    """A gate that lacks a library is closed, not open."""
    source = """
        import sys
        sys.modules["tree_sitter"] = None
        from gate.decision import Command, decide
        from gate.rules import Rules
        print(decide(Command(text="ls -la"), Rules(), ""), decide(Command(text="rm x"), Rules(), ""))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], cwd=HERE, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.startswith(b"None it cannot be read: the parser is not installed (pip install tree-sitter")


# -- over a process ----------------------------------------------------------------------------------------------------


def test_the_gate_decides_over_a_process_on_each_loop(loop_kind: LoopKind) -> None:
    """What a host sees: a block with its reason, or that the call goes on."""
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("run_shell_command", {"command": "(cd / && rm -rf *)"}, "block"),
        ("mcp__shell__run", {"cmdline": "for i in /; do rm -rf $i; done"}, "block"),
        ("x", {"command": "rm", "args": "-rf /"}, "block"),
        ("x", {"command": "rm -rf *", "cwd": "/"}, "block"),
        ("x", {"command": "cat x | base64 -d | sh"}, "block"),
        ("x", {"command": "rm -rf *"}, "continue"),
        ("x", {"command": "git commit -m 'rm -rf /'"}, "continue"),
    ]
    with Extension(HERE, "--loop", loop_kind) as own:
        for tool, arguments, action in calls:
            given = {"tool": tool, "arguments": arguments}
            assert own.ask("hook", {"hook": "tool_call", "context": CONTEXT, "input": given})["action"] == action


def test_a_person_is_asked_over_a_process(loop_kind: LoopKind) -> None:
    """The question shows the command; without an answer of yes it does not run."""
    handshake = {**HANDSHAKE, "ui_capabilities": ["confirm"]}
    with Extension(HERE, "--loop", loop_kind, handshake=False) as own:
        own.ask("initialize", handshake)
        for agrees, action in ((True, "continue"), (False, "block")):
            rid = own.request("hook", {"hook": "tool_call", "context": CONTEXT, "input": DOUBTFUL})
            question = own.next_frame()
            assert question is not None
            assert question["method"] == "ui/request"
            assert "base64 -d x | sh" in json.dumps(question["params"])
            own.send({"jsonrpc": "2.0", "id": question["id"], "result": {"confirmed": agrees}})
            assert own.answer(rid)["result"]["action"] == action


def test_the_reason_of_a_long_command_is_short(gate: BlockingTestHost) -> None:
    """The Python reference host reads with a 64 KiB line limit. Source: docs/protocol.md, section 9."""
    reason = of_tool(gate, "bash", command=f"{'x' * 100_000}; rm -rf /")
    assert reason is not None
    assert len(reason) < 2_000
    assert "… is blocked: rm -r of / destroys" in reason


def test_a_block_is_logged() -> None:
    """A block is told to the host with ``log``, so that its user sees what the gate did.

    Source: docs/protocol.md, section 4.
    """
    given = {"tool": "bash", "arguments": {"command": "rm -rf /"}}
    with Extension(HERE) as own:
        assert own.ask("hook", {"hook": "tool_call", "context": CONTEXT, "input": given})["action"] == "block"
        log = own.next_frame()
        assert log is not None
        assert log["method"] == "log"
        assert "blocked bash" in log["params"]["message"]


def test_it_registers_the_two_hooks_that_fail_closed(gate: BlockingTestHost) -> None:
    """``tool_call`` and ``user_bash`` block if the extension does not answer. Source: docs/protocol.md, section 6."""
    assert gate.registrations.hooks == ["tool_call", "user_bash"]
    assert not gate.registrations.tools


def test_the_manifest_names_the_app() -> None:
    """The manifest, the app and what it registers agree. Source: docs/protocol.md, section 10."""
    manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
    with Extension(HERE, handshake=False) as own:
        info = own.ask("initialize", HANDSHAKE)["extension"]
    assert (manifest["name"], manifest["version"]) == (info["name"], info["version"])
    assert manifest["protocol"] == 1
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]
    assert not manifest["capabilities"]["tools"]
    assert manifest["capabilities"]["events"] == []


def test_the_readme_shows_what_happens() -> None:
    """What a README shows is run by a test."""
    shown = re.findall(r"^```console\n(.*?)^```$", (HERE / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ran = 0
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(shown), re.MULTILINE):
        if command.startswith("python -m sepkit "):
            words = [sys.executable, *shlex.split(command)[1:]]
            done = subprocess.run(
                words, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
            )
            assert done.stdout.decode() == expected
            ran += 1
    assert ran
