"""The report: what counts, what a person reads, what a machine reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sepkit.conformance import Report, Requirement, Status, Verdict, requirements
from sepkit.conformance.requirement import Process

PLAIN = (sys.executable, str(Path(__file__).parent / "extension.py"))


def verdict(name: str, status: Status, *, advice: bool = False, **more: Any) -> Verdict:
    title = f"what {name} is about"
    return Verdict(Requirement(name, "3", title, advice, Process.RECORD, lambda e: None), status, **more)


def report(*verdicts: Verdict) -> Report:
    return Report(command=("run", "me"), extension="ada 1.0", verdicts=verdicts, seconds=1.25)


PASSED = verdict("frames.null", Status.PASSED)
FAILED = verdict(
    "frames.array",
    Status.FAILED,
    sent=("[1]",),
    expected="that it lives on",
    came=("the process ended with exit code 1",),
    stderr="Traceback\nTypeError",
)
LEFT_OUT = verdict("hooks.outcome", Status.NOT_APPLICABLE, note="it registers no hooks")
UNTESTED = verdict("tools.result", Status.UNTESTED, note="the handshake failed")
ADVICE = verdict("frames.crlf", Status.FAILED, advice=True, expected="an answer", came=("nothing",))


@pytest.mark.parametrize(
    ("verdicts", "ok"),
    [
        ((PASSED,), True),
        ((PASSED, LEFT_OUT), True),
        ((PASSED, ADVICE), True),
        ((PASSED, FAILED), False),
        ((PASSED, UNTESTED), False),
    ],
)
def test_only_a_requirement_that_is_not_met_or_not_tested_fails(verdicts: tuple[Verdict, ...], ok: bool) -> None:
    """Advice fails no run, what does not apply is not a fault, and what was not judged is not good."""
    assert report(*verdicts).ok is ok


def test_the_counts_tell_advice_from_requirements() -> None:
    """What does not apply is never counted as passed."""
    counts = report(PASSED, FAILED, LEFT_OUT, UNTESTED, ADVICE).counts()
    assert counts == {"passed": 1, "failed": 1, "not_applicable": 1, "untested": 1, "advice": 1}


def test_the_table_says_what_was_sent_what_was_expected_and_what_came() -> None:
    """Grouped, with the section of the protocol and the last words on stderr; the sum in its last line."""
    table = report(PASSED, FAILED, LEFT_OUT, ADVICE).table()
    assert table == "\n".join(
        [
            "ada 1.0: run me",
            "",
            "frames",
            "  ✔ frames.null    what frames.null is about",
            "  ✘ frames.array   what frames.array is about",
            "       section  3",
            "          sent  [1]",
            "      expected  that it lives on",
            "          came  the process ended with exit code 1",
            "        stderr  Traceback",
            "                TypeError",
            "",
            "hooks",
            "  – hooks.outcome  what hooks.outcome is about (it registers no hooks)",
            "",
            "advice (the protocol leaves it open; it never makes the run fail)",
            "",
            "advice: frames",
            "  ! frames.crlf    what frames.crlf is about",
            "       section  3",
            "      expected  an answer",
            "          came  nothing",
            "",
            "1 passed, 1 failed, 1 not applicable, 1 piece of advice not followed; 1.2 s",
            "",
        ]
    )


def test_the_json_holds_every_verdict_and_why_it_failed() -> None:
    """The shape that the docs show."""
    made = json.loads(json.dumps(report(PASSED, FAILED).as_dict()))
    assert made["ok"] is False
    assert made["counts"]["failed"] == 1
    assert made["verdicts"][0] == {
        "id": "frames.null",
        "title": "what frames.null is about",
        "section": "3",
        "advice": False,
        "status": "passed",
    }
    assert made["verdicts"][1] == {
        "id": "frames.array",
        "title": "what frames.array is about",
        "section": "3",
        "advice": False,
        "status": "failed",
        "sent": ["[1]"],
        "expected": "that it lives on",
        "came": ["the process ended with exit code 1"],
        "stderr": "Traceback\nTypeError",
    }


def test_there_are_enough_requirements_and_each_says_where_it_comes_from() -> None:
    """Ids are group.name and unique. Each names a section of docs/protocol.md from 1 to 8, since 9 requires nothing."""
    every = requirements()
    assert len({x.id for x in every}) == len(every)
    assert sum(not x.advice for x in every) >= 100
    for one in every:
        assert re.fullmatch(r"[a-z]+\.[a-z0-9-]+", one.id), one.id
        assert one.section in set("12345678"), one.id
        assert one.title


# ------------------------------------------------------------------------------------------------ on the command line
def sepkit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sepkit", "conformance", *arguments], capture_output=True, text=True, timeout=50
    )


def test_the_command_prints_the_table_and_exits_0_where_all_is_well() -> None:
    """The table is on stdout, and the exit code has a name."""
    done = sepkit("--only", "frames.null", "--", *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✔ frames.null" in done.stdout
    assert "1 passed, 0 failed" in done.stdout


def test_the_command_exits_1_where_a_requirement_is_not_met_and_tells_it_as_json() -> None:
    """For a build that is to stop there."""
    done = sepkit("--json", "--only", "frames.null", "--", *PLAIN, "--fault", "dies-on-null")
    assert done.returncode == 1, done.stdout + done.stderr
    made = json.loads(done.stdout)
    assert made["ok"] is False
    assert made["extension"] == "plain 1.0.0"
    failed = [one for one in made["verdicts"] if one["status"] == "failed" and not one["advice"]]
    assert [one["id"] for one in failed] == ["frames.null"]
    assert failed[0]["sent"][0] == "null"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--", "no-such-command"), r"cannot start 'no-such-command'.*searched PATH: "),
        ((), r"give the command that starts the extension, after --"),
        (("--only", "framse", "--", "true"), r"called framse; the groups are"),
        (("--arguments", "greet", "--", "true"), r"write TOOL="),
        (("--arguments", "greet={", "--", "true"), r"is not valid JSON"),
        (("--arguments", "greet=[]", "--", "true"), r"write TOOL="),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_write(arguments: tuple[str, ...], told: str) -> None:
    """A command that cannot be started is reported with the PATH; a mistyped option with its usage."""
    done = sepkit(*arguments)
    assert done.returncode == 2
    assert re.search(told, done.stderr), done.stderr
    assert not done.stdout


def test_the_list_names_every_requirement_with_its_section() -> None:
    """One a line, so that it can be searched."""
    done = sepkit("--list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [one.id for one in requirements()]
    assert all(re.search(r" §[1-8]  \S", line) for line in lines)
    assert len(sepkit("--list", "--only", "ids").stdout.splitlines()) < len(lines)
