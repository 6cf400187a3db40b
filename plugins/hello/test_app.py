"""The example as a program: its tool, its observer and its command, over the real pipes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.hello.app import app
from sepkit.testing import TestHost
from tests.driver import CONTEXT, EVENT_CONTEXT, HANDSHAKE, Extension

HERE = Path(__file__).parent


@pytest.fixture
def hello() -> Iterator[Extension]:
    with Extension(HERE) as extension:
        yield extension


def turns(hello: Extension, **arguments: object) -> str:
    params = {"command": "turns", "arguments": arguments, "context": CONTEXT}
    content: str = hello.ask("command/execute", params)["content"]
    return content


def complete(hello: Extension, partial: str) -> list[str]:
    found = hello.ask("command/complete", {"command": "turns", "partial": partial, "context": CONTEXT})
    return [completion["value"] for completion in found["completions"]]


def test_the_manifest_names_the_app() -> None:
    """The manifest, the app and what it registers agree. Source: docs/protocol.md, section 10."""
    manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
    with Extension(HERE, handshake=False) as hello:
        answer = hello.ask("initialize", HANDSHAKE)
    assert (manifest["name"], manifest["version"]) == (answer["extension"]["name"], answer["extension"]["version"])
    assert manifest["protocol"] == 1
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]
    assert manifest["capabilities"]["events"] == answer["registrations"]["subscriptions"]
    assert manifest["capabilities"]["tools"] is bool(answer["registrations"]["tools"])
    assert manifest["capabilities"]["commands"] is bool(answer["registrations"]["commands"])


def test_the_tool_tells_its_progress_before_it_answers(hello: Extension) -> None:
    """Progress arrives in order, and all of it before the result. Source: docs/protocol.md, section 4."""
    rid = hello.start_tool("greet", name="Ada", language="de", times=2)
    frames = [hello.next_frame() for _ in range(4)]
    told = [frame["params"] for frame in frames[:3] if frame]
    assert [update["call_id"] for update in told] == [f"call-{rid}"] * 3
    assert [update["progress"] for update in told] == [0.0, 0.5, 1.0]
    assert [update["message"] for update in told] == ["greeting Ada", "greeting Ada", "done"]
    assert frames[3] is not None
    assert frames[3]["id"] == rid
    assert frames[3]["result"] == {"content": "Hallo, Ada!\nHallo, Ada!"}


def test_arguments_outside_the_schema_are_refused(hello: Extension) -> None:
    """The schema says one to ten times, in one of three languages, and the call holds to it.

    Source: docs/protocol.md, section 8.
    """
    (tool,) = hello.registrations["tools"]
    assert tool["parameters"]["required"] == ["name"]
    assert tool["parameters"]["properties"]["times"]["maximum"] == 10
    for arguments in ({"times": 11}, {"times": 0}, {"language": "it"}):
        result = hello.tool("greet", name="Ada", **arguments)
        assert result["is_error"]
        assert next(iter(arguments)) in result["content"]


def test_the_command_tells_the_turns_that_were_observed(hello: Extension) -> None:
    """Each event reaches the observer, which logs it; the command tells the sum.

    Source: docs/protocol.md, section 7.
    """
    assert turns(hello) == "0 turns"
    for number in range(1, 4):
        event = {"event": "turn_start", "context": EVENT_CONTEXT, "payload": {"agent_id": "main"}, "seq": number}
        hello.notify("event", event)
        log = hello.next_frame()
        assert log is not None
        assert log["method"] == "log"
        assert log["params"]["message"] == f"turn {number} of main begins"
    assert turns(hello) == "3 turns"
    assert turns(hello, unit="dozens") == "0.2 dozen turns"


def test_the_command_is_completed(hello: Extension) -> None:
    """What is typed after the command is completed with ``command/complete``. Source: docs/protocol.md, section 3."""
    assert complete(hello, "") == ["turns", "dozens"]
    assert complete(hello, "d") == ["dozens"]
    assert complete(hello, "x") == []


def test_the_tool_greets_as_often_as_it_is_asked_to() -> None:
    """The same app without a process: what takes no pipes to see is quicker to test this way."""
    with TestHost(app) as host:
        answer = host.call_tool("greet", {"name": "Ada", "times": 3})
        assert answer.content.splitlines() == ["Hello, Ada!"] * 3
        assert [update.progress for update in answer.updates] == [0.0, 1 / 3, 2 / 3, 1.0]


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
