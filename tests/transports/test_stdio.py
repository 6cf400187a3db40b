"""Claiming stdin and stdout, each time in a process of its own: once done, it is never undone."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest

from tests.driver import PATIENCE

# Each process claims, and writes what it then finds to the file that its last argument names.
PROLOGUE: Final = """
import json, os, sys

def identity(fd):
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return [found.st_dev, found.st_ino]

before = [identity(fd) for fd in (0, 1, 2)]
from sepkit.transports import stdio
wire = stdio.claim_stdio()
report = {
    "before": before,
    "after": [identity(fd) for fd in (0, 1, 2)],
    "inheritable": [os.get_inheritable(fd) for fd in (0, 1, 2)],
    "wire": [wire.read_fd, wire.write_fd],
    "wire_identity": [None if fd is None else identity(fd) for fd in (wire.read_fd, wire.write_fd)],
    "wire_inheritable": [fd is not None and os.get_inheritable(fd) for fd in (wire.read_fd, wire.write_fd)],
    "null": identity(os.open(os.devnull, os.O_RDONLY)),
}
"""
EPILOGUE: Final = """
with open(sys.argv[1], "w") as file:
    json.dump(report, file)
"""


class Claim:
    """A process that claims its stdin and stdout, does ``more``, and reports.

    Args:
        more: What it does after its claim, with ``wire`` and ``report`` at hand.
        closed: Which of 0, 1 and 2 are closed when it begins; the others are pipes.
    """

    def __init__(self, folder: Path, more: str = "", closed: tuple[int, ...] = ()) -> None:
        self._file = folder / f"report-{''.join(map(str, closed))}.json"
        closing = " ".join({0: "<&-", 1: ">&-", 2: "2>&-"}[fd] for fd in closed)
        source = PROLOGUE + textwrap.dedent(more) + EPILOGUE
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$0" "$@" {closing}', sys.executable, "-c", source, str(self._file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def end(self, stdin: bytes = b"") -> tuple[dict[str, Any], bytes, bytes]:
        """What it reported, and what came out of its stdout and its stderr."""
        stdout, stderr = self.process.communicate(stdin, PATIENCE)
        assert self.process.returncode == 0, stderr.decode()
        report: dict[str, Any] = json.loads(self._file.read_text())
        return report, stdout, stderr


COMBINATIONS: Final = [closed for count in range(4) for closed in itertools.combinations((0, 1, 2), count)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], dict[str, Any]]:
    """What is found after a claim, for each combination of closed descriptors; made all at once, which is quicker."""
    folder = tmp_path_factory.mktemp("claims")
    # What else opens files after the claim must not get a number that the wire has given up.
    running = {closed: Claim(folder, closed=closed) for closed in COMBINATIONS}
    return {closed: claim.end()[0] for closed, claim in running.items()}


@pytest.mark.parametrize("closed", COMBINATIONS, ids=lambda closed: "closed: " + (" ".join(map(str, closed)) or "none"))
def test_the_wire_moves_to_private_descriptors(
    closed: tuple[int, ...], reports: dict[tuple[int, ...], dict[str, Any]]
) -> None:
    """The descriptors are private and close-on-exec; fd 1 is stderr, fd 0 the null device, in all combinations."""
    report = reports[closed]
    assert [found is None for found in report["before"]] == [fd in closed for fd in (0, 1, 2)], "the test's own set-up"
    # The wire is what was stdin and stdout, and nothing where that was closed.
    assert report["wire_identity"] == report["before"][:2]
    assert report["wire_inheritable"] == [False, False]
    assert all(fd is None or fd > 2 for fd in report["wire"])
    # What stands in its place can be used by anybody, and by children too.
    stdin, stdout, stderr = report["after"]
    assert stdin == report["null"]
    assert stdout == stderr
    assert stderr == (report["null"] if 2 in closed else report["before"][2])
    assert report["inheritable"] == [True, True, True]


def test_the_wire_is_claimed_once_per_process(tmp_path: Path) -> None:
    """A second claim is the first one again, and moves nothing."""
    claim = Claim(
        tmp_path,
        """
        again = stdio.claim_stdio()
        report["same"] = again is wire
        report["after the second"] = [identity(fd) for fd in (0, 1, 2)]
        report["the wire still"] = [identity(fd) for fd in (wire.read_fd, wire.write_fd)]
        """,
    )
    report, _, _ = claim.end()
    assert report["same"]
    assert report["after the second"] == report["after"]
    assert report["the wire still"] == report["wire_identity"]


def test_whatever_is_printed_lands_on_stderr_at_once(tmp_path: Path) -> None:
    """``print()``, ``os.write(1, …)``, libc ``puts``, ``os.system("echo x")`` put no stray byte on the wire."""
    claim = Claim(
        tmp_path,
        r"""
        import ctypes, subprocess
        print("printed \ud800")
        os.write(1, b"written\n")
        libc = ctypes.CDLL(None)
        libc.puts(b"put")
        libc.fflush(None)
        os.system("echo echoed")
        subprocess.run(["sh", "-c", "echo spawned; cat"], close_fds=False, timeout=20)
        os.write(wire.write_fd, b"the wire\n")
        """,
    )
    _, stdout, stderr = claim.end()
    assert stdout == b"the wire\n"
    assert stderr.splitlines() == [b"printed \\ud800", b"written", b"put", b"echoed", b"spawned"]


def test_a_subprocess_reads_nothing_and_holds_no_descriptor_of_the_wire(tmp_path: Path) -> None:
    """A subprocess sees end-of-file on stdin at once and holds no descriptor of the wire."""
    claim = Claim(
        tmp_path,
        """
        import subprocess
        child = '''if True:
            import json, os
            held = []
            for fd in range(100):
                try:
                    found = os.fstat(fd)
                except OSError:
                    continue
                held.append([found.st_dev, found.st_ino])
            print(json.dumps([os.read(0, 100).decode(), held]))
        '''
        found = subprocess.run([sys.executable, "-Sc", child], close_fds=False, stdout=subprocess.PIPE, timeout=20)
        report["read"], report["held"] = json.loads(found.stdout)
        report["stdin"] = os.read(wire.read_fd, 100).decode()
        """,
    )
    report, _, _ = claim.end(b"for the wire only\n")
    assert report["read"] == ""
    assert report["null"] in report["held"]
    assert not [found for found in report["wire_identity"] if found in report["held"]]
    assert report["stdin"] == "for the wire only\n"


def test_a_forked_child_has_no_wire(tmp_path: Path) -> None:
    """A bare fork (multiprocessing) closes the wire in the child, so the host sees its end when the parent is gone."""
    claim = Claim(
        tmp_path,
        """
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            held = [fd for fd in (wire.read_fd, wire.write_fd) if identity(fd)]
            print("the child holds", held, "and has", [identity(fd) is not None for fd in (0, 1, 2)], flush=True)
            os.read(reading, 1)  # until its parent is gone
            os._exit(0)
        report["the parent's"] = [identity(fd) for fd in (wire.read_fd, wire.write_fd)]
        os.write(wire.write_fd, b"the parent still has it\\n")
        """,
    )
    report, stdout, stderr = claim.end()
    assert stdout == b"the parent still has it\n"
    assert stderr == b"the child holds [] and has [True, True, True]\n"
    assert report["the parent's"] == report["wire_identity"]


def test_the_claimed_transport_carries_lines(tmp_path: Path) -> None:
    """The claimed descriptors are the wire: lines in, lines out, then the end."""
    claim = Claim(
        tmp_path,
        """
        import asyncio
        sys.path.insert(0, os.environ["PYTHONPATH"])
        from tests.driver import Recorder

        async def main():
            transport = stdio.stdio_transport(max_frame_bytes=100)
            told = Recorder(lambda line: transport.write(b"<" + line + b">\\n"))
            transport.start(told)
            print("a stray line")
            await told.ended.wait()
            await transport.aclose()
            report["calls"] = told.calls
            report["kinds"] = [type(line).__name__ for line in told.lines]

        asyncio.run(main())
        """,
    )
    report, stdout, stderr = claim.end(b"one\n" + b"x" * 101 + b"\ntwo\n")
    assert stdout == b"<one>\n<two>\n"
    assert stderr == b"a stray line\n"
    assert report["kinds"] == ["bytes", "FrameError", "bytes"]
    assert report["calls"] == ["lines", "ended", "lost"]
