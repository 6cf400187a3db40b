"""The watch as a program: real folders, real processes, and a host whose kv outlives them.

Longer where ``SEPKIT_SOAK`` is set.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import queue
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.folder_watch import app as plugin
from sepkit.testing import TestHost
from tests.driver import HANDSHAKE, PATIENCE, Extension

HERE = Path(__file__).parent
WORKSPACE = HERE.parent
SOAK = bool(os.environ.get("SEPKIT_SOAK"))
LINE_LIMIT = 64 * 1024
EXACT = 2**53  # past this a host in JavaScript rounds a number

Change = tuple[str, str]


class Memory:
    """What of a host outlives an extension: its kv, and what was published."""

    def __init__(self) -> None:
        self.store: dict[str, Any] = {}
        self.published: list[dict[str, Any]] = []

    def numbered(self, since: int = 0) -> list[dict[str, Any]]:
        """What was published: each number once, and none left out. One that came again must say the same."""
        first: dict[int, dict[str, Any]] = {}
        for payload in self.published[since:]:
            assert first.setdefault(payload["seq"], payload) == payload
        assert list(first) == list(range(since + 1, since + len(first) + 1))
        return list(first.values())

    def changes(self, since: int = 0) -> list[Change]:
        """What has changed, of which file."""
        return [(payload["change"], payload["path"]) for payload in self.numbered(since)]


class Harm:
    """What happens to a call at one of its requests: its end, and what the host makes of that request.

    Args:
        kind: One of KINDS, or "cancelled, and done late".
        call: The call's id.
        at: The number of the request, from 1; 0 is none. Of the many keys that are written at once, two count.
    """

    KINDS = "cancelled before the answer", "cancelled after the answer", "refused", "done, and refused"

    def __init__(self, kind: str, call: int, at: int) -> None:
        self.kind = kind
        self.call = call
        self.left = at  # requests until it happens
        self.held: dict[str, Any] | None = None  # an answer, given once the call has been answered
        self.late: dict[str, Any] | None = None  # a request for the test to serve

    def is_due(self, method: str, params: dict[str, Any]) -> bool:
        """Count a request; whether it is the one. What a watch asks when it begins to run is not the call's."""
        key = params.get("key", "")
        if key == "watches" or (method != "kv/get" and not re.search(r"/[1-9]\d?$", key.removesuffix("/63"))):
            self.left -= 1
            return self.left == 0
        return False


class Host(Extension):
    """Runs the plugin and answers what it asks, in a thread of its own.

    Args:
        memory: Its kv, and what is published.
        lacks: Methods that it does not know.
        enabled: ``capabilities_enabled``.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        lacks: tuple[str, ...] = (),
        enabled: dict[str, bool] | None = None,
        python: tuple[str, ...] = (sys.executable,),
    ) -> None:
        self.memory = memory
        self.longest = 0  # bytes of a line
        self._lacks = lacks
        self._frames: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._deaf = False
        self.dies_at: tuple[str, int] | None = None  # a method, and how often it is called until it is killed
        self.harm: Harm | None = None
        super().__init__(HERE, handshake=False, python=python)
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._threads.append(self._serving)
        self._serving.start()
        params = {**HANDSHAKE, "workspace": {"root": str(WORKSPACE), "trusted": True}}
        try:
            self.introduction = self.ask("initialize", params | {"capabilities_enabled": enabled or {}})
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Host:
        return self

    def write(self, data: bytes) -> None:
        with self._writing:
            super().write(data)

    def _read_frame(self, seconds: float) -> dict[str, Any] | None:
        try:
            return self._frames.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no frame within {seconds} s; stderr:\n{self.stderr}") from None

    def _serve(self) -> None:
        while (line := self.lines.get()) is not None:
            self.longest = max(self.longest, len(line))
            try:
                frame = json.loads(line)
            except ValueError:  # killed in the middle of a line, which is the last then
                assert self.lines.get() is None
                break
            if self._deaf:
                continue
            if "method" in frame and "id" in frame:
                try:
                    self._serve_one(frame)
                except (OSError, ValueError):  # it is dead, and never hears that this was done
                    continue
            else:
                if self.harm is not None and frame.get("id") == self.harm.call:
                    if self.harm.held is not None:
                        self.send(self.harm.held)
                    self.harm = None
                self._frames.put(frame)
        self._frames.put(None)

    def _serve_one(self, frame: dict[str, Any]) -> None:
        harm = self.harm
        kind = harm.kind if harm is not None and harm.is_due(frame["method"], frame["params"]) else ""
        if harm is not None and kind == "cancelled, and done late":
            harm.late = frame
            self.notify("$/cancel", {"id": harm.call})
            return
        outcome = {"error": {"code": -32603, "message": "the disk is full"}}
        if kind != "refused":
            done = self._answer(frame["method"], frame["params"])
            outcome = outcome if kind == "done, and refused" else done
        answer = {"jsonrpc": "2.0", "id": frame["id"], **outcome}
        if harm is not None and kind == "cancelled before the answer":
            harm.held = answer
        else:
            self.send(answer)
        if harm is not None and kind.startswith("cancelled"):
            self.notify("$/cancel", {"id": harm.call})

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        store = self.memory.store
        if self.dies_at is not None and self.dies_at[0] == method:
            self.dies_at = method, self.dies_at[1] - 1
            if self.dies_at[1] == 0:
                os.killpg(self.process.pid, signal.SIGKILL)
        if method in self._lacks:
            return {"error": {"code": -32601, "message": f"{method} is not known"}}
        if method == "kv/get":
            return {"result": {"value": store.get(params["key"])}}
        if method == "kv/set":
            store[params["key"]] = params["value"]
        elif method == "kv/delete":
            store.pop(params["key"], None)
        elif method == "bus/publish":
            assert params["topic"] == "folder-watch/change"
            self.memory.published.append(params["payload"])
        else:
            return {"error": {"code": -32601, "message": f"{method} is not known"}}
        return {"result": {}}

    def kill(self, *, forget: bool = False) -> None:
        """SIGKILL. What it had sent is done, or forgotten as by a host that sees the death first."""
        self._deaf = forget
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._serving.join(PATIENCE)
        assert not self._serving.is_alive()
        self.process.wait(PATIENCE)  # its pipes close a moment before

    def shut_down(self) -> int:
        """Ask it to end, and answer it until it has; the exit code."""
        assert self.ask("shutdown", {}) == {}
        return self.wait()

    def start_watch(self, path: Path, user: str = "ada") -> str:
        result = self.tool("start_watch", path=str(path), user=user)
        assert not result.get("is_error"), result
        watch: str = result["details"]["id"]
        return watch

    def watches(self, user: str = "ada") -> list[dict[str, Any]]:
        result = self.tool("list_watches", user=user)
        found: list[dict[str, Any]] = json.loads(result["content"])
        return found

    def wait_for_health(self, text: str, user: str = "ada") -> dict[str, Any]:
        """Wait until the only watch of ``user`` says ``text`` of itself."""
        found: dict[str, Any] = until(
            lambda: next((one for one in self.watches(user) if text in one.get("health", "")), None), self
        )
        return found

    def wait_for_changes(self, expected: list[Change], since: int = 0, *, in_order: bool = True) -> None:
        until(lambda: len(self.memory.changes(since)) >= len(expected), self, lambda: self.memory.changes(since))
        told = self.memory.changes(since)
        assert told == expected if in_order else sorted(told) == sorted(expected)


def until(found: Callable[[], Any], host: Extension, shown: Callable[[], Any] = lambda: None) -> Any:
    """Wait until there is something to be found."""
    deadline = time.monotonic() + PATIENCE
    while not (something := found()):
        assert time.monotonic() < deadline, f"it did not happen; there is: {shown()}; stderr:\n{host.stderr}"
        time.sleep(0.01)
    return something


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def running() -> Iterator[list[Host]]:
    """The host that most tests share, or none yet: a process takes a while to start."""
    with contextlib.ExitStack() as stack:
        hosts: list[Host] = []
        yield hosts
        for host in hosts:
            stack.enter_context(host)


@pytest.fixture
def host(running: list[Host], memory: Memory) -> Iterator[Host]:
    if not running or running[-1].process.poll() is not None:  # a test has killed it
        running.append(Host(memory))
    host = running[-1]
    host.memory = memory
    yield host
    if host.process.poll() is None:
        for watch, entry in memory.store.get("watches", {}).items():
            host.tool("stop_watch", id=watch, user=entry["user"])
        assert not memory.store.get("watches")
        assert "restarting" not in host.stderr  # nothing here is a reason to fail, and to wait for the supervisor
        host.kept()


def refusal(host: Host, tool: str, **arguments: object) -> str:
    result = host.tool(tool, **arguments)
    assert result["is_error"]
    content: str = result["content"]
    return content


# -- what is told ------------------------------------------------------------------------------------------------------


def test_changes_are_told_in_their_order(host: Host, memory: Memory, folder: Path) -> None:
    """Background tasks: a task watches a folder and publishes changes on the bus; what was there before is not told."""
    (folder / "old").write_text("old")
    watch = host.start_watch(folder)
    expected: list[Change] = []
    began = time.monotonic()

    def expect(*changes: Change) -> None:
        expected.extend(changes)
        host.wait_for_changes(expected)

    (folder / "a").write_text("a")
    expect(("added", "a"))
    (folder / "old").write_text("older")
    expect(("modified", "old"))
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "b").write_text("bcd")
    expect(("added", "sub/deep/b"))
    (folder / "a").rename(folder / "sub" / "a")
    expect(("deleted", "a"), ("added", "sub/a"))
    shutil.rmtree(folder / "sub")
    expect(("deleted", "sub/a"), ("deleted", "sub/deep/b"))
    (folder / "sub").write_text("a file where a folder was")
    expect(("added", "sub"))
    assert time.monotonic() - began < plugin.EVERY  # by notices: without them each would have waited for so long
    assert memory.published[0] == {
        "watch": watch,
        "user": "ada",
        "folder": str(folder),
        "seq": 1,
        "change": "added",
        "path": "a",
        "size": 1,
    }
    assert [payload["seq"] for payload in memory.published] == list(range(1, 9))


def test_a_folder_that_comes_anew_under_its_name_is_watched(host: Host, folder: Path) -> None:
    """The system's notices belong to a folder, not to its name: after a removal they are asked for again."""
    (folder / "sub").mkdir()
    host.start_watch(folder)
    expected: list[Change] = []
    for number in range(2):
        shutil.rmtree(folder / "sub")
        (folder / "sub").mkdir()
        time.sleep(0.3)  # the look that this leads to is over: without notices the next one is 10 s away
        began = time.monotonic()
        (folder / "sub" / f"new-{number}").write_text("x")
        expected += [("deleted", f"sub/new-{number - 1}")] if number else []
        expected += [("added", f"sub/new-{number}")]
        host.wait_for_changes(expected)
        assert time.monotonic() - began < plugin.EVERY / 2


def test_a_folder_that_comes_anew_with_its_parent_is_watched(host: Host, folder: Path) -> None:
    """The notices stay with the folder that was moved away, and nobody tells of its parent: a look finds it out."""
    inside = folder / "inside"
    inside.mkdir()
    host.start_watch(inside)
    (inside / "a").write_text("a")
    host.wait_for_changes([("added", "a")])
    away = folder.rename(folder.parent / "away")
    inside.mkdir(parents=True)
    time.sleep(0.3)
    (away / "inside" / "b").write_text("b")  # leads to a look, which without it is up to 10 s away
    expected = [("added", "a"), ("deleted", "a")]
    host.wait_for_changes(expected)
    began = time.monotonic()
    for name in "cd":
        time.sleep(0.3)
        (inside / name).write_text(name)
        expected.append(("added", name))
        host.wait_for_changes(expected)
    assert time.monotonic() - began < plugin.EVERY / 2


def test_a_file_that_is_written_on_and_on_is_told_now_and_then_and_at_rest(host: Host, folder: Path) -> None:
    """Two writes within a tick of the file system's clock look alike: a file is told when it has come to rest."""
    host.start_watch(folder)
    began = time.monotonic()
    with (folder / "log").open("wb", buffering=0) as log:
        while len(host.memory.changes()) < 1:
            log.write(b"x" * 10)
            time.sleep(0.002)
            assert time.monotonic() - began < PATIENCE
        size = log.tell()
    assert host.memory.published[0]["size"] <= size
    until(lambda: host.memory.published[-1]["size"] == size, host, lambda: host.memory.published)
    assert host.memory.changes() == [("added", "log")] + [("modified", "log")] * (len(host.memory.published) - 1)


def test_names_that_are_not_utf8_are_told_exactly(host: Host, memory: Memory, folder: Path) -> None:
    """A name is bytes. watchfiles gives up where it hears of such a name; the watch does not."""
    odd = os.fsencode(folder) + b"/\xff\xfe"
    host.start_watch(folder)
    expected: list[Change] = []
    began = time.monotonic()
    for number in range(3):
        Path(os.fsdecode(odd + b"%d" % number)).write_text("x")
        (folder / f"fine {number} é \n").write_text("x")
        expected += [("added", f"\\xff\\xfe{number}"), ("added", f"fine {number} é \n")]
        host.wait_for_changes(expected, in_order=False)
    assert time.monotonic() - began < plugin.EVERY  # not each by a look that was due anyway
    told = {base64.b64decode(p["path_base64"]) for p in memory.published if "path_base64" in p}
    assert told == {b"\xff\xfe0", b"\xff\xfe1", b"\xff\xfe2"}
    host.kill()
    os.unlink(odd + b"0")
    with Host(memory) as again:
        until(lambda: ("deleted", "\\xff\\xfe0") in memory.changes(), again)


def test_links_are_told_and_not_followed(host: Host, memory: Memory, folder: Path) -> None:
    """A link to a folder above would have no end, and one to / would be the whole disk."""
    outside = folder.parent / "outside"
    outside.mkdir()
    host.start_watch(folder)
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to(outside)
    (folder / "nowhere").symlink_to("does not exist")
    host.wait_for_changes([("added", "loop"), ("added", "nowhere"), ("added", "out")])
    (outside / "x").write_text("x")
    (folder / "y").write_text("y")
    host.wait_for_changes([("added", "loop"), ("added", "nowhere"), ("added", "out"), ("added", "y")])


def test_what_comes_and_goes_between_two_looks_is_not_told(host: Host, folder: Path) -> None:
    """The watch tells differences, and is no log of writes; nor does it trip over what has gone."""
    host.start_watch(folder)
    for number in range(300):
        (folder / f"brief {number}").write_text("x")
        (folder / f"brief {number}").unlink()
    (folder / "end").write_text("x")
    host.wait_for_changes([("added", "end")])


def test_a_folder_that_cannot_be_read_is_said_and_its_files_are_not_called_deleted(
    memory: Memory, folder: Path
) -> None:
    """What cannot be seen may be there still; it is told of again when it can be seen."""
    python: tuple[str, ...] = (sys.executable,)
    if os.geteuid() == 0:  # root may read everything, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root reads every folder, and there is no setpriv to forbid it")
        python = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", *python)
    (folder / "closed").mkdir()
    (folder / "closed" / "a").write_text("a")
    with Host(memory, python=python) as host:
        host.start_watch(folder)
        (folder / "closed").chmod(0)
        try:
            (folder / "b").write_text("b")
            host.wait_for_changes([("added", "b")])
            host.wait_for_health("1 cannot be read: closed")
        finally:
            (folder / "closed").chmod(0o700)
        (folder / "closed" / "a").unlink()
        host.wait_for_changes([("added", "b"), ("deleted", "closed/a")])


def test_a_folder_that_has_gone_is_waited_for(host: Host, memory: Memory, folder: Path) -> None:
    """Its health says so, nothing is called deleted meanwhile, and what is different when it is back is told."""
    for name in "abc":
        (folder / name).write_text(name)
    host.start_watch(folder)
    away = folder.parent / "away"
    folder.rename(away)
    host.wait_for_health("waiting: ")
    assert memory.published == []
    (away / "b").write_text("changed")
    (away / "c").unlink()
    away.rename(folder)
    host.wait_for_changes([("deleted", "c"), ("modified", "b")])
    host.wait_for_health("2 files in 1 folders; 2 changes told")
    (folder / "d").write_text("d")
    host.wait_for_changes([("deleted", "c"), ("modified", "b"), ("added", "d")])


def test_a_folder_that_goes_while_it_is_read_is_not_called_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what was seen of it would say that the other half is deleted."""
    (folder / "sub").mkdir()
    (folder / "sub" / "a").touch()
    listed = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("sub"):
            folder.rename(folder.parent / "away")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(FileNotFoundError):
        plugin.look(str(folder))


def test_five_thousand_files_are_told_in_short_lines(host: Host, memory: Memory, folder: Path) -> None:
    """The Python reference host reads with a 64 KiB line limit. Source: docs/protocol.md, section 9."""
    host.start_watch(folder)
    names = {f"{number % 50:02}/a file with a name of some length, and its number {number}" for number in range(5_000)}
    for number in range(50):
        (folder / f"{number:02}").mkdir()
    for name in names:
        (folder / name).touch()
    until(lambda: len(memory.published) >= 5_000, host, lambda: len(memory.published))
    assert sorted(memory.changes()) == sorted(("added", name) for name in names)
    host.wait_for_health("5000 files in 51 folders; 5000 changes told")
    host.kill()
    assert host.longest < LINE_LIMIT
    assert max(len(json.dumps(value)) for value in memory.store.values()) < LINE_LIMIT - 1_000
    with Host(memory) as again:
        (folder / "one more").touch()
        again.wait_for_changes([("added", "one more")], since=5_000)


def test_no_number_is_stored_that_a_host_would_round(host: Host, memory: Memory, folder: Path) -> None:
    """Nanoseconds are past 2**53: a host in JavaScript would give other ones back, and each file would be told anew."""
    (folder / "a").write_text("a")
    host.start_watch(folder)
    (folder / "b").write_text("b")
    host.wait_for_changes([("added", "b")])

    def numbers(value: Any) -> Iterator[float]:
        if isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                yield from numbers(one)
        elif isinstance(value, int | float):
            yield value

    assert all(number < EXACT for number in numbers(memory.store))
    assert all(number < EXACT for number in numbers(memory.published))


# -- the tools ---------------------------------------------------------------------------------------------------------


def test_a_watch_is_listed_with_its_health(host: Host, folder: Path) -> None:
    """Background tasks: it reports health, and a tool lists the watches; each user has his own."""
    (folder / "a").write_text("a")
    assert host.watches() == []
    watch = host.start_watch(folder)
    host.start_watch(folder, user="grace")
    state = host.wait_for_health("1 files in 1 folders; 0 changes told")
    assert 0 <= state.pop("health_age") < PATIENCE
    state.pop("health")
    assert state == {"id": watch, "path": str(folder), "status": "running"}
    assert len(host.watches("grace")) == 1
    assert host.watches("nobody") == []


def test_a_folder_is_watched_once_for_a_user(host: Host, folder: Path) -> None:
    """However it is written; another user may watch it too."""
    watch = host.start_watch(folder)
    link = folder.parent / "link"
    link.symlink_to(folder)
    for path in (folder, link, folder / ".." / "watched"):
        assert f"is watched for ada already, by {watch}" in refusal(host, "start_watch", path=str(path), user="ada")
    host.start_watch(folder, user="grace")


def test_what_is_no_folder_is_refused(host: Host, folder: Path) -> None:
    """A tool says what is wrong, and leaves nothing behind."""
    (folder / "file").write_text("x")
    for path in (folder / "missing", folder / "file"):
        assert refusal(host, "start_watch", path=str(path), user="ada") == f"There is no folder {path}."
    assert "needs its user" in refusal(host, "start_watch", path=str(folder), user=" ")
    assert host.watches() == []
    assert not host.memory.store.get("watches")


def test_a_relative_path_begins_at_the_workspace(host: Host, folder: Path) -> None:
    """The handshake names the workspace's root. Source: docs/protocol.md, section 3."""
    host.start_watch(Path(os.path.relpath(folder, WORKSPACE)))
    assert [one["path"] for one in host.watches()] == [str(folder)]


def test_a_user_stops_his_own_watches_only(host: Host, folder: Path) -> None:
    """Another user's watch is as good as unknown."""
    watch = host.start_watch(folder)
    own = host.start_watch(folder, user="grace")
    assert refusal(host, "stop_watch", id=watch, user="grace") == f"grace has no watch '{watch}'; there are: {own}."
    assert refusal(host, "stop_watch", id="x", user="eve") == "eve has no watch 'x'; there are: none."
    assert len(host.watches()) == 1


def test_a_stopped_watch_tells_nothing_and_leaves_nothing(host: Host, memory: Memory, folder: Path) -> None:
    """Stop ends promptly; no thread, no descriptor and no key stays behind, and the folder can be watched again."""
    proc = Path(f"/proc/{host.process.pid}")

    def held() -> tuple[int, int]:
        return (len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir()))) if proc.exists() else (0, 0)

    def start_and_stop() -> float:
        watch = host.start_watch(folder)
        host.wait_for_health("changes told")
        began = time.monotonic()
        host.tool("stop_watch", id=watch, user="ada")
        took = time.monotonic() - began
        assert memory.store == {"watches": {}}
        return took

    start_and_stop()  # which also fills the pools that are kept
    time.sleep(0.2)
    threads, descriptors = held()
    assert min(start_and_stop() for _ in range(3)) < 1.0
    # The thread that hears from the system ends a moment after it was told to.
    until(lambda: held()[0] <= threads and held()[1] <= descriptors, host, held)
    assert host.watches() == []
    (folder / "a").write_text("a")
    host.start_watch(folder)
    (folder / "b").write_text("b")
    host.wait_for_changes([("added", "b")])


def test_so_many_watches_as_are_allowed_all_hear_of_changes(host: Host, memory: Memory, tmp_path: Path) -> None:
    """Each keeps a thread waiting, of which there are 40: with more they would take turns, five seconds each."""
    folders = [tmp_path / str(number) for number in range(plugin.MAX_WATCHES + 1)]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:-1]:
        host.start_watch(folder)
    assert "no more are allowed" in refusal(host, "start_watch", path=str(folders[-1]), user="grace")
    until(lambda: all("changes told" in one.get("health", "") for one in host.watches()), host)
    took = []
    for name in "abc":
        began = time.monotonic()
        (folders[-2] / name).write_text(name)
        until(lambda: memory.published and memory.published[-1]["path"] == name, host)  # noqa: B023  (used at once)
        took.append(time.monotonic() - began)
    assert min(took) < 1.5
    for folder in folders[:-2]:
        (folder / "a").write_text("a")
    until(lambda: {payload["folder"] for payload in memory.published} == set(map(str, folders[:-1])), host)
    host.kill()  # to stop them one by one takes longer


# -- hosts that offer less ---------------------------------------------------------------------------------------------


def test_without_a_bus_changes_wait_for_one(memory: Memory, folder: Path) -> None:
    """A host may have no bus. The health says so, and what was not told is not lost.

    Source: docs/protocol.md, section 9.
    """
    with Host(memory, lacks=("bus/publish",)) as host:
        host.start_watch(folder)
        (folder / "a").write_text("a")
        host.wait_for_health("the host has no bus, so that changes wait")
    with Host(memory, enabled={"bus": False}) as host:
        (folder / "b").write_text("b")
        host.wait_for_health("the host has no bus, so that changes wait")
    assert memory.published == []
    with Host(memory) as host:
        host.wait_for_changes([("added", "a"), ("added", "b")])


def test_without_kv_a_watch_is_refused(memory: Memory, folder: Path) -> None:
    """It could not keep its promise; and the extension lives on."""
    with Host(memory, lacks=("kv/get", "kv/set")) as host:
        assert "no kv store" in refusal(host, "start_watch", path=str(folder), user="ada")
        assert "no kv store" in refusal(host, "list_watches", user="ada")
        assert host.ping() < PATIENCE


def test_kv_that_can_only_get_and_set_is_enough(memory: Memory, folder: Path) -> None:
    """The reference hosts answer -32601 to ``kv/delete`` and ``kv/list``. Source: docs/protocol.md, section 9."""
    with Host(memory, lacks=("kv/delete", "kv/list")) as host:
        host.tool("stop_watch", id=host.start_watch(folder), user="ada")
        assert all(not value for value in memory.store.values())
        host.start_watch(folder)
        (folder / "a").write_text("a")
        host.wait_for_changes([("added", "a")])


def test_a_host_that_knows_tasks_starts_a_watch_itself(memory: Memory, folder: Path) -> None:
    """The cursor belongs to the task's id, so the next start goes on from there.

    Source: docs/tasks.md, "On the wire".
    """
    params = {"name": "watch_folder", "user_id": "ada", "payload": {"path": str(folder)}}
    for number in range(2):
        with Host(memory, enabled={"tasks": True}) as host:
            if number:
                (folder / "meanwhile").write_text("x")
            assert host.ask("task/start", params)["task_id"] == "watch_folder:ada"
            if not number:
                until(lambda: "changes told" in str(host.ask("task/list", {})), host)
                (folder / "a").write_text("a")
            host.wait_for_changes([("added", "a"), ("added", "meanwhile")][: number + 1])
            host.kill()


# -- over a restart ----------------------------------------------------------------------------------------------------


def test_watches_come_back_with_the_process(memory: Memory, folder: Path) -> None:
    """Tasks come back with the process; what changed meanwhile is told once."""
    other = folder.parent / "other"
    other.mkdir()
    (folder / "a").write_text("a")
    with Host(memory) as host:
        watch = host.start_watch(folder)
        stopped = host.start_watch(other)
        (folder / "b").write_text("b")
        host.wait_for_changes([("added", "b")])
        host.tool("stop_watch", id=stopped, user="ada")
        assert host.shut_down() == 0
    (folder / "a").write_text("changed")
    (folder / "b").unlink()
    (folder / "c").write_text("c")
    (other / "x").write_text("x")
    expected = [("added", "b"), ("deleted", "b"), ("modified", "a"), ("added", "c")]
    for _ in range(2):
        with Host(memory) as host:
            host.wait_for_changes(expected)
            host.wait_for_health("3 files" if (folder / "d").exists() else "2 files")
            assert [one["id"] for one in host.watches()] == [watch]
            (folder / "d").write_text(str(time.time_ns()))
            expected.append(("added" if ("added", "d") not in expected else "modified", "d"))
            host.wait_for_changes(expected)
            assert host.shut_down() == 0
    assert len(memory.published) == len(expected)  # an orderly end repeats nothing


def test_what_a_broken_off_call_has_left_is_cleaned_up(memory: Memory, folder: Path) -> None:
    """A watch is on, or it is not: killed in the middle of starting or stopping it, nothing half done comes back."""
    arguments: dict[str, object] = {"path": str(folder), "user": "ada"}
    for tool, method in (("start_watch", "kv/set"), ("stop_watch", "kv/delete")):
        with Host(memory) as host:
            if tool == "stop_watch":
                until(lambda: memory.store == {"watches": {}}, host, lambda: memory.store)
                arguments = {"id": host.start_watch(folder), "user": "ada"}
            host.dies_at = method, 10
            host.start_tool(tool, **arguments)
            host.wait()
            host.kill()
        (entry,) = memory.store["watches"].values()
        assert not entry["on"]
    with Host(memory) as host:
        assert host.watches() == []
        until(lambda: memory.store == {"watches": {}}, host, lambda: memory.store)


@pytest.mark.parametrize("kind", Harm.KINDS)
def test_wherever_a_call_breaks_off_the_list_is_what_runs_and_what_comes_back(
    memory: Memory, folder: Path, kind: str
) -> None:
    """A call that is cancelled, or whose host fails, at any of its requests leaves no watch half begun or half ended.

    It is answered at once, while its request is under way; the next call finds things settled.
    """

    def break_off(host: Host, at: int, tool: str, **arguments: object) -> bool:
        """Whether it had so many requests."""
        rid = host._next_id + 1
        harm = host.harm = Harm(kind, rid, at)
        assert host.start_tool(tool, **arguments) == rid
        if at == 0:
            host.notify("$/cancel", {"id": rid})
        answer = host.answer(rid)
        happened = harm.left <= 0
        if happened and kind == "cancelled before the answer" and at > 0:
            assert answer["error"]["code"] == -32800
        return happened

    def agreed(host: Host) -> list[str]:
        listed = [one["id"] for one in host.watches()]
        tasks = [task for task in host.ask("task/list", {})["tasks"] if task["name"] == "watch_folder"]
        assert listed == [task["task_id"] for task in tasks if task["status"] in ("pending", "running")]
        assert {key.split("/")[1] for key in memory.store if "/" in key} == set(listed)
        entries = memory.store.get("watches", {})
        assert listed == list(entries)
        assert all(entry["on"] for entry in entries.values())  # and so this is what a restart would start
        return listed

    with Host(memory, enabled={"tasks": True}) as host:
        until(lambda: "0 watches are on" in str(host.ask("task/list", {})), host)  # what that asks is not the call's
        watches: list[str] = []
        asked = {}
        for tool in ("start_watch", "stop_watch"):
            for at in range(100):  # 0: it is cancelled as soon as it is called
                if tool == "start_watch":
                    for watch in watches:
                        host.tool("stop_watch", id=watch, user="ada")
                    happened = break_off(host, at, tool, path=str(folder), user="ada")
                else:
                    watch = watches[0] if watches else host.start_watch(folder)
                    happened = break_off(host, at, tool, id=watch, user="ada")
                watches = agreed(host)
                if not happened:
                    break
                asked[tool] = at
        # Read; write it down; two of the 64 keys and the head, and read again in between where it is ended; write.
        assert asked == {"start_watch": 6, "stop_watch": 7}


def test_what_a_cancelled_call_was_writing_is_not_written_over_what_came_later(host: Host, folder: Path) -> None:
    """A host may still be busy with it, and need not keep to an order: the next call waits until it is done."""
    other = folder.parent / "other"
    other.mkdir()
    rid = host._next_id + 1
    harm = host.harm = Harm("cancelled, and done late", rid, 2)
    host.start_tool("start_watch", path=str(folder), user="ada")
    assert host.answer(rid)["error"]["code"] == -32800
    later = host.start_tool("start_watch", path=str(other), user="ada")
    time.sleep(0.1)
    assert harm.late is not None
    host._serve_one(harm.late)
    assert "result" in host.answer(later)
    assert [one["path"] for one in host.watches()] == [str(folder), str(other)]


class Kv:
    """A kv and a bus whose process dies at its n-th request, before or after that was done."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.dies_at = 0
        self.done_first = False

    async def _do(self, what: Callable[[], Any]) -> Any:
        self.dies_at -= 1
        if self.dies_at == 0 and not self.done_first:
            raise ConnectionError
        result = what()
        if self.dies_at == 0:
            raise ConnectionError
        return result

    async def get(self, key: str, default: Any = None) -> Any:
        found = await self._do(lambda: self.memory.store.get(key))
        return default if found is None else json.loads(found)

    async def set(self, key: str, value: Any) -> None:
        await self._do(lambda: self.memory.store.update({key: json.dumps(value)}))

    async def publish(self, topic: str, payload: dict[str, Any]) -> bool:
        await self._do(lambda: self.memory.published.append(json.loads(json.dumps(payload))))
        return True


class Context:
    """As much of a TaskContext as telling takes."""

    task_id, user_id, stopping = "w", "ada", False

    def __init__(self, kv: Kv, folder: Path) -> None:
        self.kv = self.bus = kv
        self.payload = {"path": str(folder)}

    def report_health(self, text: str) -> None:
        pass


def test_a_file_in_motion_is_not_taken_for_what_it_will_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second write of the same size in the same tick has the same stamp, and would never be noticed."""
    (folder / "a").write_text("1")
    moving = plugin.look(str(folder))
    assert moving.in_motion == {"a"}
    time.sleep(2 * plugin.AT_REST)
    at_rest = plugin.look(str(folder))
    assert at_rest == moving._replace(in_motion=set())

    async def told(*sights: plugin.Sight) -> list[Change]:
        kv = Kv(Memory())
        watch = plugin.Watch(Context(kv, folder))  # type: ignore[arg-type]
        for sight in sights:
            await watch._tell(sight)
        return kv.memory.changes()

    assert asyncio.run(told(moving, moving)) == []
    assert asyncio.run(told(moving, at_rest, at_rest)) == [("added", "a")]
    monkeypatch.setattr(plugin, "MOTION", 0.0)
    assert asyncio.run(told(moving, at_rest, at_rest)) == [("added", "a"), ("modified", "a")]


def test_where_the_system_tells_of_nothing_it_looks_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its watches may be used up: to ask again at once, and to look at all the files each time, helps nobody."""

    class Running(Context):
        said = ""

        def report_health(self, text: str) -> None:
            self.said = text

        async def wait_stop(self) -> None:
            await asyncio.Event().wait()

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    async def refused(*folders: str, **options: object) -> AsyncIterator[set[Any]]:
        if folders:
            raise OSError("no more watches")
        yield set()

    looks = 0

    def look(root: str) -> plugin.Sight:
        nonlocal looks
        looks += 1
        return seen(root)

    seen = plugin.look
    monkeypatch.setattr(plugin, "look", look)
    monkeypatch.setattr(plugin, "awatch", refused)
    monkeypatch.setattr(plugin, "EVERY", 0.3)

    async def watch() -> str:
        ctx = Running(Kv(Memory()), folder)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await plugin.Watch(ctx).run()  # type: ignore[arg-type]
        return ctx.said

    assert "looks every 0.3 s, for the system tells of no changes: no more watches" in asyncio.run(watch())
    assert 2 <= looks <= 7  # not twenty a second


@pytest.mark.parametrize("done_first", [False, True])
def test_death_at_any_request_loses_nothing_and_renumbers_nothing(folder: Path, done_first: bool) -> None:
    """Background tasks: nothing is lost or told twice. Each request is a place to die at."""
    for name in ("changed", "deleted"):
        (folder / name).write_text(name)
    before = plugin.look(str(folder))
    for name in ("a", "b", "c", "changed"):
        (folder / name).write_text("new")
    (folder / "deleted").unlink()
    after = plugin.look(str(folder))._replace(in_motion=set())
    later = after._replace(files={path: stamp for path, stamp in after.files.items() if path != "b"})

    async def live(kv: Kv, sight: plugin.Sight) -> None:
        watch = plugin.Watch(Context(kv, folder))  # type: ignore[arg-type]
        assert await watch._cursor.load()
        await watch._tell(sight)

    async def scenario(dies_at: int) -> bool:
        kv = Kv(Memory())
        await plugin.Cursor(kv, "w", str(folder)).begin(before.files)  # type: ignore[arg-type]
        kv.dies_at, kv.done_first = dies_at, done_first
        died = False
        try:
            await live(kv, after)
        except ConnectionError:
            died = True
        kv.dies_at = 0  # never
        await live(kv, later)
        told = kv.memory.numbered()
        assert told_state(told, before.files) == dict.fromkeys(later.files, 3)
        assert len(told) == 4 + 2 * (("added", "b") in kv.memory.changes())
        assert died or len(kv.memory.published) == 6
        return died

    loading = 1 + 64
    dies_at = loading + 1
    while asyncio.run(scenario(dies_at)):
        dies_at += 1
    assert dies_at - loading > 1 + 5 + 1 + 1  # the batch, five changes, the keys of what was told, and that it was


class Storm:
    """Changes a folder without end, in a thread, and knows what it did."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.once: dict[str, int] = {}  # files that appear whole and are never touched again; with their sizes
        self._dice = random.Random(seed)
        self._aside = folder.parent / "aside"
        self._aside.mkdir()
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            number = 0
            while not self._over.wait(self._dice.choice([0, 0.001, 0.004])):
                number += 1
                self._change(number)
        except BaseException as error:
            self._failure = error

    def _change(self, number: int) -> None:
        dice = self._dice
        place = self.folder / dice.choice([".", "one", "one/two", "three"])
        place.mkdir(parents=True, exist_ok=True)
        if dice.random() < 0.3:
            (self._aside / "file").write_bytes(b"x" * (number % 100))
            (self._aside / "file").rename(place / f"once {number}")
            self.once[os.path.normpath(place.relative_to(self.folder) / f"once {number}")] = number % 100
            return
        churned = place / f"churned {dice.randrange(8)}"
        match dice.choice(["write", "append", "append", "delete", "rename", "folder"]):
            case "write":
                churned.write_bytes(b"x" * dice.randrange(100))
            case "append":
                with churned.open("ab") as file:
                    file.write(b"more")
            case "delete":
                churned.unlink(missing_ok=True)
            case "rename" if churned.exists():
                churned.rename(self.folder / f"churned {dice.randrange(8)}")
            case "folder":
                brief = self.folder / f"folder {dice.randrange(3)}"
                if brief.exists():
                    shutil.rmtree(brief)
                else:
                    brief.mkdir()
                    (brief / "inside").write_bytes(b"x" * dice.randrange(100))

    def stop(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        assert self._failure is None

    def files(self) -> dict[str, int]:
        """What there is now, with the sizes."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.stat().st_size for path in found}


def told_state(told: list[dict[str, Any]], before: Iterable[str] = ()) -> dict[str, int]:
    """What there is, by what was told, with the sizes; each change must fit what was told before."""
    state = dict.fromkeys(before, -1)
    for payload in told:
        assert (payload["path"] in state) == (payload["change"] != "added"), payload
        if payload["change"] == "deleted":
            del state[payload["path"]]
        else:
            state[payload["path"]] = payload["size"]
    return state


@pytest.mark.parametrize("seed", range(40 if SOAK else 1))
def test_killed_in_a_storm_of_changes_it_misses_nothing(memory: Memory, folder: Path, seed: int) -> None:
    """Background tasks: killed with SIGKILL in the middle and started again, it misses nothing."""
    dice = random.Random(seed)
    kills = 12 if SOAK else 5
    with Host(memory) as host:
        host.start_watch(folder)
        storm = Storm(folder, seed)
        time.sleep(dice.uniform(0.1, 0.4))
        host.kill(forget=dice.random() < 0.5)
    for _ in range(kills - 1):
        with Host(memory) as host:
            if dice.random() < 0.5:
                time.sleep(dice.choice([dice.uniform(0, 0.1), dice.uniform(0.1, 0.5)]))
                host.kill(forget=dice.random() < 0.5)
            else:  # in the middle of telling
                host.dies_at = "bus/publish", dice.randrange(1, 40)
                host.wait()
                host.kill()
    with Host(memory) as host:
        time.sleep(0.2)
        storm.stop()
        real = storm.files()
        until(lambda: told_state(memory.numbered()) == real, host, lambda: memory.numbered()[-3:])
        host.wait_for_health(f"{len(real)} files")
        assert host.shut_down() == 0
    told = memory.numbered()
    assert told_state(told) == real
    of_path: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for payload in told:
        of_path[payload["path"]].append((payload["change"], payload.get("size", 0)))
    assert len(storm.once) > 20
    assert {path: of_path[path] for path in storm.once} == {
        path: [("added", size)] for path, size in storm.once.items()
    }


# -- what cannot be watched ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["", " ", "\t\n", "/tmp/\0x", "\0", "~/\0", "x" * 5_000, "/" + "x/" * 3_000, "~unknown-user/x"]
)
def test_a_path_that_leads_to_no_folder_is_refused_and_said(host: Host, path: str) -> None:
    """An answer for the model, and not an unexpected error; nothing is watched."""
    result = host.tool("start_watch", path=path, user="ada")
    assert result["is_error"]
    assert "unexpected" not in result["content"]
    assert host.watches() == []


def test_the_payload_of_a_watch_that_a_host_starts_is_looked_at_too(folder: Path) -> None:
    """What cannot be a path is refused before it reaches the system."""
    for path in ("", "relative", f"{folder}/\0x", 5, None):
        ctx = Context(Kv(Memory()), folder)
        ctx.payload = {"path": path}  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="an/absolute/folder"):
            plugin.Watch(ctx)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["in one folder", "in many folders", "folders alone"])
def test_a_folder_with_too_much_in_it_is_refused_and_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """As a home folder with 250,000 files: it is not read to its end."""
    for number in range(60):
        place = folder if shape == "in one folder" else folder / f"d{number}"
        place.mkdir(exist_ok=True)
        if shape != "folders alone":
            (place / f"f{number}").touch()
    monkeypatch.setattr(plugin, "MAX_ENTRIES", 50)
    looked = 0
    real = os.scandir

    def counted(path: str) -> Any:
        nonlocal looked
        looked += 1
        return real(path)

    async def main() -> None:
        async with TestHost(plugin.app, kv={}) as host:
            refused = await host.call_tool("start_watch", {"path": str(folder), "user": "ada"})
            assert refused.is_error
            assert "has more than 50 files and folders; watch a smaller one" in refused.content
            assert (await host.call_tool("list_watches", {"user": "ada"})).details == []

    asyncio.run(main())
    monkeypatch.setattr(os, "scandir", counted)
    with pytest.raises(plugin.TooMuch):
        plugin.look(str(folder))
    assert looked == 1 or shape == "in many folders"
    monkeypatch.setattr(plugin, "MAX_ENTRIES", 120)
    assert len(plugin.look(str(folder)).place.folders) in (1, 61)


def test_a_folder_that_grows_past_the_bound_says_so_and_is_told_of_when_it_is_smaller(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch goes on, looks now and then, and calls nothing deleted meanwhile."""
    monkeypatch.setattr(plugin, "MAX_ENTRIES", 10)
    monkeypatch.setattr(plugin, "EVERY", 0.02)
    said: list[str] = []

    class Running(Context):
        def report_health(self, text: str) -> None:
            said.append(text)

        async def wait_stop(self) -> None:
            await asyncio.Event().wait()

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    async def heard(text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not any(text in one for one in said):  # noqa: ASYNC110  (nothing would set an event)
                await asyncio.sleep(0.005)
        said.clear()

    async def main() -> None:
        kv = Kv(Memory())
        (folder / "first").touch()
        watching = asyncio.create_task(plugin.Watch(Running(kv, folder)).run())  # type: ignore[arg-type]
        await heard("1 files in 1 folders; 0 changes told")
        for number in range(20):
            (folder / f"f{number}").touch()
        await heard("has more than 10 files and folders")
        for number in range(19):
            (folder / f"f{number}").unlink()
        await heard("2 files in 1 folders")
        watching.cancel()
        assert "deleted" not in {change for change, path in kv.memory.changes() if path == "first"}

    asyncio.run(main())


# -- the program -------------------------------------------------------------------------------------------------------


def test_the_manifest_names_the_app(host: Host) -> None:
    """The manifest, the app and what it registers agree. Source: docs/protocol.md, section 10."""
    manifest = tomllib.loads((HERE / "extension.toml").read_text(encoding="utf-8"))
    answer = host.introduction
    assert (manifest["name"], manifest["version"]) == (answer["extension"]["name"], answer["extension"]["version"])
    assert manifest["protocol"] == 1
    assert manifest["run"]["args"] == ["-m", "sepkit", "run", "app:app"]
    assert manifest["capabilities"]["tools"] is bool(answer["registrations"]["tools"])
    assert manifest["capabilities"]["events"] == []
    assert manifest["capabilities"]["kv"]
    assert manifest["capabilities"]["bus"]


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
