"""Two processes on one store, under SIGKILL: no acknowledged write is lost, none is torn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Find
from tests.backends.children import documents_writer
from tests.backends.children.documents_writer import BATCH, PLACE, USER, WRITERS

SOAK = bool(os.environ.get("SEPKIT_SOAK"))
ROUNDS = 1000 if SOAK else 8
ROOT = Path(__file__).parents[2]


async def check(folder: Path, acknowledged: dict[str, int], begun: dict[str, int]) -> None:
    """What is there is whole, and not older than what was acknowledged; at most one put more has been made."""
    backend = LocalBackend("app", folder)
    for writer in WRITERS:
        numbers = []
        for place in (PLACE, USER):
            found = dict(await backend.documents.find(place, Find(query={"writer": {"$eq": writer}})))
            assert len(found) in (0, BATCH), f"{writer}: a part of a put is there"
            several = {document["number"] for document in found.values()}
            assert len(several) <= 1, f"{writer}: parts of several puts are there: {several}"
            for document in found.values():
                text, number = document["text"], document["number"]
                assert text == chr(97 + number % 26) * document["length"], f"{writer}: a document is torn"
            numbers.append(max(several, default=0))
        apps, users = numbers
        last = max(acknowledged[writer], begun[writer])
        assert acknowledged[writer] <= users <= apps <= last + 1, f"{writer}: a write is lost"
        acknowledged[writer], begun[writer] = users, apps
    await backend.aclose()


@pytest.mark.timeout(1500 if SOAK else 60)
def test_two_processes_that_are_killed_while_they_write_lose_and_tear_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,000 times in `make soak`: both are killed at some moment, one after the other or one alone for a while."""
    chance = random.Random(1)
    acknowledged, begun = dict.fromkeys(WRITERS, 0), dict.fromkeys(WRITERS, 0)
    writes = 0
    folder = tmp_path / "data"
    command = [sys.executable, documents_writer.__file__, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for seed in range(ROUNDS):
            writer.stdin.write(f"{seed}\n".encode())
            writer.stdin.flush()
            killing: list[threading.Timer] = []
            pids: list[int] = []
            while (line := writer.stdout.readline().decode()) != "dead\n":
                assert line, "the writer ended by itself"
                words = line.split()
                if words[0] in WRITERS:
                    writes += int(words[1]) - acknowledged[words[0]]
                    acknowledged[words[0]] = int(words[1])
                else:
                    pids = [int(pid) for pid in words]
                # Killed while it writes; in each fourth round also while it opens the files.
                if pids and not killing and (words[0] in WRITERS or seed % 4 == 0):
                    killing = [threading.Timer(chance.random() * 0.05, os.kill, (pid, signal.SIGKILL)) for pid in pids]
                    for one in killing:
                        one.start()
            for one in killing:
                one.join()
            asyncio.run(check(folder, acknowledged, begun))
        writer.stdin.close()
    assert writes > ROUNDS / 4
    if SOAK:
        with capsys.disabled():
            print(f"\ndocuments, 1,000 kills of two: none of {writes:,} acknowledged puts lost, none torn")
    for path in (folder / "app.sqlite3", folder / "users" / "ada.sqlite3"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
