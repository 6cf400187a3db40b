"""Jobs of real processes on one store, which are killed while they work. What is promised is in docs/jobs.md."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Final

import orjson
import pytest

from tests.driver import HANDSHAKE

SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
ROUNDS: Final = 1000 if SOAK else 6
LEASE: Final = 0.6
PATIENCE: Final = 40.0

APP = f"""
import asyncio, os, signal, sys, time
from datetime import timedelta
import sepkit.serving.jobs as engine
from sepkit import App, JobContext
engine.LEASE = {LEASE}
app = App("two")

def note(what, ctx):
    fd = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{{what}} {{ctx.job_id}} {{ctx.scheduled_for.timestamp():.3f}} {{os.getpid()}}\\n".encode())
    os.close(fd)

async def work(ctx: JobContext) -> None:
    note("begin", ctx)
    await asyncio.sleep(0.03)
    note("end", ctx)

if os.environ["MODE"] == "many":
    app.every(0.05, name="once")(work)
    app.every(0.08, name="again", retry=True)(work)

async def deadly(ctx: JobContext) -> None:
    note("begin", ctx)
    if not os.path.exists(ctx.job_id):
        open(ctx.job_id, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    note("end", ctx)

app.job(name="gone")(deadly)
app.job(name="repeated", retry=True)(deadly)

if os.environ["MODE"] == "killed between the claim and the start":
    from sepkit.capabilities.local.jobs import LocalJobs
    async def start(*args):
        os.kill(os.getpid(), signal.SIGKILL)
    LocalJobs.start = start

@app.on("turn_start")
async def plan(payload: dict) -> None:
    await app.schedule.at(timedelta(0), payload["name"], id=payload["name"])
"""


class Process:
    """A process that serves the app: hands have been shaken."""

    def __init__(self, folder: Path, mode: str = "") -> None:
        env = {**os.environ, "SEPKIT_DATA_DIR": str(folder / "data"), "MODE": mode}
        self._stderr: IO[bytes] = (folder / "stderr").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sepkit", "run", "two.py:app"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
        )
        self.send({"id": 1, "method": "initialize", "params": HANDSHAKE})

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frame: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"jsonrpc": "2.0", **frame}) + b"\n")
        self._process.stdin.flush()

    def plan(self, name: str) -> None:
        """Have a job run at once."""
        context = {"token": "x", "tier": "event"}
        params = {"event": "turn_start", "context": context, "payload": {"name": name}, "seq": 1}
        self.send({"method": "event", "params": params})

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE) == 0
        self._stderr.close()

    def wait(self) -> int:
        code = self._process.wait(PATIENCE)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._stderr.close()
        return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "two.py").write_text(APP, encoding="utf-8")
    (tmp_path / "ran").touch()
    return tmp_path


def ran(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "ran").read_text(encoding="utf-8").splitlines()]


def told(folder: Path, text: str) -> list[str]:
    return [line for line in (folder / "stderr").read_text(encoding="utf-8").splitlines() if text in line]


def until(found: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.timeout(60 + 3 * ROUNDS)
def test_two_processes_on_one_store_start_no_time_twice_whenever_one_is_killed(folder: Path) -> None:
    """A run that was cut is logged as failed, and repeated only with ``retry=True``; the store stays whole."""
    dice = random.Random(None if SOAK else 5)
    two = [Process(folder, "many"), Process(folder, "many")]
    until(lambda: len(ran(folder)) > 4, "jobs run")
    for _ in range(ROUNDS):
        begun = len(ran(folder))
        until(lambda begun=begun: len(ran(folder)) > begun, "jobs run")  # type: ignore[misc]
        time.sleep(dice.random() * 0.1)
        number = dice.randrange(2)
        two[number].kill()
        two[number] = Process(folder, "many")
    time.sleep(2 * LEASE)  # what was cut last is seen
    begun = len(ran(folder))
    until(lambda: len(ran(folder)) > begun + 4, "jobs run again")
    for process in two:
        process.end()

    runs: dict[tuple[str, str], list[str]] = {}
    for what, job, when, _ in ran(folder):
        runs.setdefault((job, when), []).append(what)
    for (job, when), course in runs.items():
        if job == "once":
            assert course in (["begin", "end"], ["begin"]), (job, when, course)
        else:  # each run but the last was cut; one may have been cut after its last line
            assert course[0] == "begin", (job, when, course)
            assert course[-1] == "end", (job, when, course)
    cut = {(job, when) for (job, when), course in runs.items() if course.count("end") != course.count("begin")}
    failed = told(folder, "has failed: its process has ended in the middle of it")
    names = [re.search(r"job '(\w+)': the run for (\S+ \S+)", line) for line in failed]
    said = {(found[1], f"{datetime.fromisoformat(found[2]).timestamp():.3f}") for found in names if found}
    missing = cut - said
    assert len(missing) <= ROUNDS // 100, "the killed process may have taken its last line with it"
    assert any(line.endswith("it is repeated") for line in failed) or not SOAK
    with sqlite3.connect(folder / "data" / "two" / "app.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        held = "SELECT count(*) FROM jobs WHERE running IS NOT NULL OR owner IS NOT NULL"
        assert database.execute(held).fetchone() == (0,)
    database.close()


@pytest.mark.parametrize(("name", "then"), [("gone", "it is not repeated"), ("repeated", "it is repeated")])
def test_a_run_that_ends_its_process_is_repeated_only_with_retry(folder: Path, name: str, then: str) -> None:
    """It is killed by its own handler; the next process logs it as failed."""
    process = Process(folder)
    process.plan(name)
    assert process.wait() == -signal.SIGKILL
    last = Process(folder)
    until(lambda: told(folder, "its process has ended in the middle of it"), "it is said")
    if name == "repeated":
        until(lambda: ["end", name] in [line[:2] for line in ran(folder)], "it is repeated")
    else:
        time.sleep(2 * LEASE)
    last.end()
    (line,) = told(folder, "has failed")
    assert line.endswith(then)
    assert [line[0] for line in ran(folder)] == (["begin"] if name == "gone" else ["begin", "begin", "end"])
    assert len({line[2] for line in ran(folder)}) == 1, "with the same scheduled time"


def test_a_job_that_was_claimed_and_never_begun_begins_once_its_lease_is_over(folder: Path) -> None:
    """Its process was killed between the two."""
    first = Process(folder, "killed between the claim and the start")
    first.plan("gone")
    assert first.wait() == -signal.SIGKILL
    assert ran(folder) == []
    (folder / "gone").touch()  # it ends no process now
    second = Process(folder)
    third = Process(folder)
    until(lambda: ran(folder), "it begins")
    time.sleep(2 * LEASE)
    second.end()
    third.end()
    assert [line[:2] for line in ran(folder)] == [["begin", "gone"], ["end", "gone"]]
    assert not told(folder, "has failed")
