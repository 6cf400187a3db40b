"""What ``logging`` writes to stderr: whole lines, in order, whoever logs and whenever; and nobody waits for them."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from sepkit.serving.logs import StderrHandler

PATIENCE = 30.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's reading and writing ends."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        os.close(fd)


def record(message: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "name": "author", "levelname": "INFO"})


def test_a_finalizer_may_log_at_any_moment_of_a_record() -> None:
    """The collector runs finalizers wherever something is allocated: also within ``emit``, and in the writing thread.

    asyncio's own "Task was destroyed but it is pending!" comes so.
    """
    program = """
        import gc, logging
        from sepkit.serving.logs import StderrHandler

        class Cycle:
            def __init__(self):
                self.itself = self
            def __del__(self):
                logging.info("collected")

        gc.disable()
        logging.getLogger().setLevel(logging.INFO)
        for threshold in range(1, 200):  # so that the collector's turn comes at each place once
            logging.getLogger().handlers = [StderrHandler()]
            garbage = [Cycle() for _ in range(10)]
            gc.set_threshold(threshold)
            del garbage
            gc.enable()
            for number in range(3):
                logging.info("number %d", number)
            gc.disable()
            gc.collect()
            logging.getLogger().handlers[0].flush_within(20)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    messages = [line.rpartition(": ")[2] for line in ended.stderr.splitlines()]
    assert [x for x in messages if x != "collected"] == [f"number {number}" for number in range(3)] * 199
    assert messages.count("collected") == 1990


def test_a_stderr_that_nobody_reads_holds_up_nobody_and_what_is_lost_is_said(pipe: tuple[int, int]) -> None:
    """Up to 1 MiB waits behind what the pipe holds; the rest is counted."""
    handler = StderrHandler(pipe[1])
    for number in range(4000):
        handler.emit(record(f"{number} {'x' * 1000}"))
    handler.flush_within(0.01)
    read = bytearray()
    while b"dropped here" not in read:
        read += os.read(pipe[0], 65_536)
    handler.emit(record("afterwards"))
    while not read.endswith(b"afterwards\n"):
        read += os.read(pipe[0], 65_536)
    lines = read.decode().splitlines()
    kept = [int(line.split()[-2]) for line in lines if line.endswith("x")]
    assert kept[:1000] == list(range(1000)), "the oldest are kept, whole and in order"
    assert kept == sorted(set(kept))  # a few of the later ones may have found room again
    assert len(kept) >= 1024
    dropped = re.findall(r"^\((\d+) log records were dropped here: nobody read stderr\)$", "\n".join(lines), re.M)
    assert sum(map(int, dropped)) == 4000 - len(kept)


def test_a_record_that_is_longer_than_what_may_wait_reaches_stderr_whole(pipe: tuple[int, int]) -> None:
    """The host gets a part of it; stderr has the whole."""
    handler = StderrHandler(pipe[1])
    text = "x" * (5 * 1024 * 1024)
    handler.emit(record(text))
    read = bytearray()
    while not read.endswith(b"x\n"):  # a second record, while this one waits, would be dropped and counted
        read += os.read(pipe[0], 65_536)
    assert text.encode() in read


def test_a_dead_stderr_is_silence(pipe: tuple[int, int]) -> None:
    """Neither an exception nor a wait."""
    reader, writer = os.pipe()
    os.close(reader)
    handler = StderrHandler(writer)
    for _ in range(3):
        handler.emit(record("nobody hears this"))
        handler.flush_within(PATIENCE)
    os.close(writer)


def test_records_of_many_threads_come_whole(pipe: tuple[int, int]) -> None:
    """No line within another."""
    handler = StderrHandler(pipe[1])

    def say(name: str) -> None:
        for number in range(200):
            handler.handle(record(f"{name} {number}"))

    threads = [threading.Thread(target=say, args=(f"thread-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    read = bytearray()
    while read.count(b"\n") < 800:
        read += os.read(pipe[0], 65_536)
    for thread in threads:
        thread.join()
    said = [line.rpartition("author: ")[2].split() for line in read.decode().splitlines()]
    for index in range(4):
        assert [int(number) for name, number in said if name == f"thread-{index}"] == list(range(200))


def test_a_pipe_that_the_host_has_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    """The flag belongs to both ends; where the pipe is full the writing thread waits, and does not take it for dead."""
    os.set_blocking(pipe[1], False)
    handler = StderrHandler(pipe[1])
    for number in range(500):
        handler.emit(record(f"{number} {'x' * 1000}"))
    handler.flush_within(0.05)  # the pipe is full now
    read = bytearray()
    while read.count(b"\n") < 500:
        read += os.read(pipe[0], 65_536)
    assert [int(line.split()[-2]) for line in read.decode().splitlines()] == list(range(500))
