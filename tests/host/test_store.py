"""What extensions keep under keys: nothing acknowledged is ever lost, and whatever goes wrong is said to who asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepkit.capabilities import database as database_module
from sepkit.capabilities import store as store_module
from sepkit.capabilities.database import Database
from sepkit.capabilities.store import KvStore
from sepkit.errors import StoreError
from tests.host.children.kv_writer import KEYS, NAMESPACE, is_whole

SOAK = bool(os.environ.get("SEPKIT_SOAK"))
WRITER = Path(__file__).with_name("children") / "kv_writer.py"
PATIENCE = 20.0
MIB = 1024 * 1024

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "kv.sqlite3"


async def patiently(work: Awaitable[Any]) -> Any:
    """What is not answered at all fails the test, and does not hang it."""
    return await asyncio.wait_for(work, PATIENCE)


# -- what it keeps -----------------------------------------------------------------------------------------------------


def test_what_was_set_is_read_until_it_is_deleted(path: Path, run: Run) -> None:
    """``kv/get``, ``kv/set``, ``kv/delete`` and ``kv/list`` work as described. Source: docs/protocol.md, section 4."""

    async def main() -> None:
        store = KvStore(path)
        assert await store.get("ext", "key") is None
        await store.set("ext", "key", {"a": [1, None, "ä"]})
        await store.set("ext", "other", 2)
        assert await store.get("ext", "key") == {"a": [1, None, "ä"]}
        await store.set("ext", "key", False)
        assert await store.get("ext", "key") is False
        assert await store.keys("ext") == ["key", "other"]
        await store.delete("ext", "key")
        await store.delete("ext", "never there")
        assert await store.get("ext", "key") is None
        assert await store.keys("ext") == ["other"]
        await store.aclose()

    run(main())


def test_each_extension_has_a_namespace_of_its_own(path: Path) -> None:
    """Host: one namespace an extension."""

    async def main() -> None:
        store = KvStore(path)
        await store.set("a", "b", 1)
        await store.set("b", "b", 2)
        await store.set("", "ab", 3)
        await store.set("ab", "", 4)
        await store.delete("b", "b")
        assert [await store.get("a", "b"), await store.get("b", "b")] == [1, None]
        assert [await store.keys(name) for name in ("a", "b", "", "ab")] == [["b"], [], ["ab"], [""]]
        await store.aclose()

    asyncio.run(main())


def test_a_store_without_a_path_is_gone_when_it_is_closed() -> None:
    """KvStore(None) is in memory."""

    async def main() -> None:
        store = KvStore()
        await store.set("ext", "key", 1)
        assert await store.get("ext", "key") == 1
        await store.aclose()
        again = KvStore()
        assert await again.get("ext", "key") is None
        await again.aclose()

    asyncio.run(main())


def test_what_is_written_is_there_in_the_next_process(path: Path) -> None:
    """Keys outlive a session; the file is SQLite with a write-ahead log. Source: docs/protocol.md, section 4."""

    async def write() -> None:
        store = KvStore(path)
        await store.set("ext", "key", [1])
        await store.aclose()

    async def read() -> Any:
        store = KvStore(path)
        try:
            return await store.get("ext", "key")
        finally:
            await store.aclose()

    asyncio.run(write())
    assert asyncio.run(read()) == [1]
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_is_kept_is_for_its_users_eyes(path: Path) -> None:
    """Extensions keep tokens: the file, and the log beside it, can be read by nobody else."""

    async def main() -> None:
        store = KvStore(path)
        await store.set("ext", "token", "secret")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == dict.fromkeys(["kv.sqlite3", "kv.sqlite3-wal", "kv.sqlite3-shm"], 0o600)
        await store.aclose()

    before = os.umask(0o022)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)


ODD_KEYS = ["", " ", "a\0b", "a\0c", "a", "%", "%a", "_", "_a", "'; DROP TABLE kv; --", "é", "e\u0301", "日本", "😀",
            "\x7f", "\uffff", "\U0010ffff", "\U0010ffffx", "k" * 10_000, "9223372036854775808", "\r\n"]  # fmt: skip


def test_any_text_is_a_key(path: Path) -> None:
    """Any string is a key. Source: docs/protocol.md, section 4."""

    async def main() -> None:
        store = KvStore(path)
        await asyncio.gather(*(store.set("ext", key, number) for number, key in enumerate(ODD_KEYS)))
        await store.aclose()
        store = KvStore(path)
        assert [await store.get("ext", key) for key in ODD_KEYS] == list(range(len(ODD_KEYS)))
        for prefix in ODD_KEYS:  # the first one is empty
            assert await store.keys("ext", prefix) == sorted(key for key in ODD_KEYS if key.startswith(prefix))
        for key in ODD_KEYS:
            await store.delete("ext", key)
            assert await store.get("ext", key) is None
        await store.aclose()

    asyncio.run(main())


texts = st.text(st.sampled_from("ab%_*?[]^\\'\0é\ud7ff\ue000\U0010ffff"), max_size=4)


@given(keys=st.sets(texts, max_size=12), prefix=texts)
@settings(max_examples=150, deadline=None)
def test_a_list_has_exactly_the_keys_with_that_prefix(keys: set[str], prefix: str) -> None:
    """``kv/list`` knows no wildcards in a prefix, and a NUL does not end one. Source: docs/protocol.md, section 4."""

    async def main() -> None:
        store = KvStore()
        await asyncio.gather(*(store.set("ext", key, None) for key in keys), store.set("other", prefix, 1))
        assert await store.keys("ext", prefix) == sorted(key for key in keys if key.startswith(prefix))
        await store.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 2**64 - 1, 1.5, 1e308, "", "\0", "ü" * 1000, [], {}, {"": {"": []}}, [[[[1]]]]],
    ids=repr,
)
def test_any_json_is_a_value(value: object) -> None:
    """Any JSON is a value. Source: docs/protocol.md, section 4."""

    async def main() -> None:
        store = KvStore()
        await store.set("ext", "key", value)
        back = await store.get("ext", "key")
        assert (back, type(back)) == (value, type(value))
        await store.aclose()

    asyncio.run(main())


def test_a_value_of_10_mib_comes_back_whole(path: Path) -> None:
    """10 MiB pass: the store keeps whatever fits in a frame."""

    async def main() -> None:
        store = KvStore(path)
        large = {"text": "x" * (10 * MIB)}
        await store.set("ext", "large", large)
        assert await store.get("ext", "large") == large
        await store.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "bad", ["\ud800", {"\ud800": 1}, 2**64, {1, 2}, object(), {"a": b""}], ids=lambda bad: type(bad).__name__
)
def test_a_value_that_is_no_json_is_refused_and_harms_nobody(bad: object) -> None:
    """KvStore.set: said to who asked, and the next one is served."""

    async def main() -> None:
        store = KvStore()
        await store.set("ext", "key", 1)
        with pytest.raises(TypeError):
            await store.set("ext", "key", bad)
        assert await store.get("ext", "key") == 1
        await store.aclose()

    asyncio.run(main())


def test_a_key_that_has_no_bytes_fails_alone(path: Path) -> None:
    """A lone surrogate: of many writes in one transaction only its own fails."""

    async def main() -> None:
        store = KvStore(path)
        keys = ["\ud800" if number == 7 else f"k{number}" for number in range(20)]
        outcomes = await patiently(asyncio.gather(*(store.set("ext", key, 1) for key in keys), return_exceptions=True))
        assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [7]
        assert isinstance(outcomes[7], StoreError)
        assert len(await store.keys("ext")) == 19
        await store.aclose()

    asyncio.run(main())


# -- death -------------------------------------------------------------------------------------------------------------


class Writer:
    """A process that writes until it is killed, again and again."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WRITER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=WRITER.parents[3]
        )

    def killed_while_it_wrote(self, kind: str, path: Path, chance: random.Random) -> dict[str, int]:
        """Let it write to a file, kill it at some moment; the last number acknowledged of each key."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind} {path} {chance.randrange(1000)}\n".encode())
        self._process.stdin.flush()
        read = self._process.stdout.readline
        pid = int(read())
        said = [read()]  # it writes now
        killing = threading.Timer(chance.random() * 0.03, os.kill, (pid, signal.SIGKILL))
        killing.start()
        while said[-1] != b"dead\n":
            said.append(read())
            assert said[-1], "the writer ended by itself"
        killing.join()
        return {key: int(number) for key, number in (line.decode().split() for line in said[:-1])}

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE)


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    writer = Writer()
    yield writer
    writer.close()


def check(path: Path, acknowledged: dict[str, int]) -> None:
    """Nothing that was acknowledged is lost, nothing is torn; what is there now is what counts from here on."""

    async def stored() -> dict[str, Any]:
        store = KvStore(path)
        found = {key: await patiently(store.get(NAMESPACE, key)) for key in KEYS}
        await store.aclose()
        return found

    found = asyncio.run(stored())
    for key, number in acknowledged.items():
        if number or found[key]:
            assert is_whole(found[key]), f"{key} is torn"
            # One more may have been written whose acknowledgement was never said.
            assert number <= found[key]["number"] <= number + 1, f"{key}: a write is lost"
            acknowledged[key] = found[key]["number"]


@pytest.mark.timeout(1200 if SOAK else 60)
def test_what_was_acknowledged_survives_a_sigkill_and_is_whole(
    path: Path, writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Host: 1,000 times SIGKILL while it writes, no acknowledged write lost, none torn; one file for all rounds."""
    chance = random.Random(1)
    acknowledged = dict.fromkeys(KEYS, 0)
    writes = 0
    for _ in range(1000 if SOAK else 15):
        before = sum(acknowledged.values())
        acknowledged |= writer.killed_while_it_wrote("sqlite", path, chance)
        writes += sum(acknowledged.values()) - before
        check(path, acknowledged)
    if SOAK:
        with capsys.disabled():
            print(f"\nSQLite, 1,000 kills: none of {writes:,} acknowledged writes lost, none torn")
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.timeout(600 if SOAK else 60)
def test_what_an_extension_was_told_is_stored_survives_the_death_of_its_host(path: Path) -> None:
    """Host: the same for a whole host, whose extension writes with ``kv/set``."""
    chance = random.Random(2)
    acknowledged = dict.fromkeys(KEYS, 0)
    for seed in range(50 if SOAK else 3):
        command = [sys.executable, "-m", "tests.host.children.host_writer", str(path), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=WRITER.parents[3]) as host:
            assert host.stdout is not None
            said = [host.stdout.readline()]
            killing = threading.Timer(chance.random() * 0.1, host.kill)
            killing.start()
            said += host.stdout.readlines()
            killing.join()
            assert host.wait(PATIENCE) == -signal.SIGKILL
        acknowledged |= {key: int(number) for key, number in (line.decode().split() for line in said)}
        check(path, acknowledged)
    assert all(acknowledged.values())


@pytest.mark.skipif(not SOAK, reason="a measure for the documentation, and a proof that the check above can fail")
@pytest.mark.timeout(1200)
def test_a_json_file_that_is_rewritten_in_place_loses_under_the_same_kills(
    tmp_path: Path, writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Why the store is a database."""
    chance = random.Random(1)
    path = tmp_path / "kv.json"
    torn = lost = 0
    for _ in range(1000):
        path.unlink(missing_ok=True)
        acknowledged = writer.killed_while_it_wrote("json", path, chance)
        try:
            found = json.loads(path.read_text())
        except ValueError:
            torn += 1
            continue
        lost += any(key not in found or found[key]["number"] < number for key, number in acknowledged.items())
    with capsys.disabled():
        print(f"\na JSON file, 1,000 kills: torn {torn}, acknowledged writes lost {lost}")
    assert torn + lost


# -- what fails --------------------------------------------------------------------------------------------------------


def test_a_corrupt_file_is_said_and_left_as_it_is(path: Path) -> None:
    """StoreError says which file, and why; somebody may still want to look at it."""
    path.parent.mkdir()
    path.write_bytes(b"no database at all\n" * 1000)

    async def main() -> None:
        store = KvStore(path)
        for work in (store.set("ext", "key", 1), store.get("ext", "key"), store.keys("ext")):
            with pytest.raises(StoreError, match=r"kv\.sqlite3 failed: it is damaged.*file is not a database"):
                await patiently(work)
        await store.aclose()

    asyncio.run(main())
    assert path.read_bytes().startswith(b"no database")


def test_a_page_that_is_corrupt_fails_who_reads_it(path: Path) -> None:
    """SQLite finds it out later than at its opening."""

    async def fill() -> None:
        store = KvStore(path)
        await asyncio.gather(*(store.set("ext", f"k{number:04}", "x" * 500) for number in range(500)))
        await store.aclose()

    async def read() -> None:
        store = KvStore(path)
        with pytest.raises(StoreError, match="malformed"):
            await patiently(store.keys("ext"))
        with pytest.raises(StoreError, match="malformed"):
            await patiently(store.keys("ext"))
        await store.aclose()

    asyncio.run(fill())
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    asyncio.run(read())


def the_path_is_a_folder(place: Path) -> Path:
    (place / "kv").mkdir()
    return place / "kv"


def the_folder_is_a_file(place: Path) -> Path:
    (place / "file").write_text("")
    return place / "file" / "kv"


def the_folder_cannot_be_made(place: Path) -> Path:
    return Path("/dev/null/sepkit/kv")


def the_path_has_a_nul(place: Path) -> Path:
    return place / "a\0b" / "kv"


@pytest.mark.parametrize(
    "wrong", [the_path_is_a_folder, the_folder_is_a_file, the_folder_cannot_be_made, the_path_has_a_nul]
)
def test_a_path_that_cannot_be_opened_is_said_each_time(wrong: Callable[[Path], Path], tmp_path: Path) -> None:
    """Every request is answered; a store that failed is no reason to wait for ever."""

    async def main() -> None:
        store = KvStore(wrong(tmp_path))
        for _ in range(2):
            with pytest.raises(StoreError, match=r"the store .* failed"):
                await patiently(store.set("ext", "key", 1))
        await patiently(store.aclose())

    asyncio.run(main())


@contextlib.contextmanager
def nobody_special() -> Iterator[None]:
    """To root all folders are writable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_said_and_may_become_writable() -> None:
    """The file is tried again with each request."""

    async def main(place: Path) -> None:
        store = KvStore(place / "kv.sqlite3")
        with nobody_special(), pytest.raises(StoreError, match=r"kv\.sqlite3 failed: .*[Pp]ermission"):
            await patiently(store.set("ext", "key", 1))
        os.chmod(place, 0o777)
        with nobody_special():
            await patiently(store.set("ext", "key", 2))
            assert await store.get("ext", "key") == 2
            await store.aclose()

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        asyncio.run(main(Path(folder)))


FULL_DISK = """
import asyncio, resource, signal, sys
from sepkit.errors import StoreError
from sepkit.capabilities.store import KvStore

async def main():
    store = KvStore(sys.argv[1])
    await store.set("ext", "small", 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (262_144, resource.RLIM_INFINITY))
    for attempt in range(3):
        try:
            await asyncio.wait_for(store.set("ext", "large", "x" * 1_000_000), 20)
        except StoreError as error:
            print("failed:", error)
    assert await store.get("ext", "small") == 1, "what was there is gone"
    assert await store.get("ext", "large") is None, "half a write"
    await store.set("ext", "small", 2)
    outcomes = await asyncio.gather(
        store.set("ext", "a", 1), store.set("ext", "large", "x" * 1_000_000), store.set("ext", "b", 2),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [type(None), StoreError, type(None)], outcomes
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.set("ext", "large", "x" * 1_000_000)
    print(await store.keys("ext"))
    await store.aclose()

asyncio.run(main())
"""


def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(path: Path) -> None:
    """A limit of the file's size stands for the disk; SQLite meets both as a write that fails."""
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines[:3]:
        assert line.startswith(f"failed: the store {path} failed: ")
    assert lines[3] == "['a', 'b', 'large', 'small']"


def test_a_file_that_somebody_else_locks_fails_all_that_wait_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host: the lock is waited for once, not once for each write of the batch."""
    monkeypatch.setattr(database_module, "_PATIENCE", 0.5)

    async def main() -> None:
        store = KvStore(path)
        await store.set("ext", "key", 1)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            before = time.perf_counter()
            writes = (store.set("ext", f"k{number}", 1) for number in range(100))
            outcomes = await patiently(asyncio.gather(*writes, return_exceptions=True))
            assert all(isinstance(one, StoreError) and "locked" in str(one) for one in outcomes)
            assert time.perf_counter() - before < 15  # one wait, not a hundred
            other.execute("ROLLBACK")
        await patiently(store.set("ext", "key", 2))
        assert await store.keys("ext") == ["key"]
        await store.aclose()

    asyncio.run(main())


MANY_WRITES = """
import asyncio, sys
from sepkit.capabilities.store import KvStore

async def main():
    store = KvStore(sys.argv[1])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for batch in range(20):
        await asyncio.gather(*(store.set("ext", f"{sys.argv[2]} {batch} {n}", n) for n in range(20)))
        await store.set("ext", "shared", sys.argv[2])
    await store.aclose()

asyncio.run(main())
"""


def test_two_processes_write_to_one_file(path: Path) -> None:
    """Two hosts of one user have the same file by default; it is made by both at the same moment."""
    processes = [
        subprocess.Popen([sys.executable, "-c", MANY_WRITES, str(path), name], stdin=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]

    async def main() -> None:
        store = KvStore(path)
        assert len(await store.keys("ext")) == 2 * 400 + 1
        assert await store.get("ext", "shared") in ("one", "two")
        await store.aclose()

    asyncio.run(main())


# -- many at once, and the end -----------------------------------------------------------------------------------------


def test_ten_thousand_sets_at_once_share_their_syncs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group commit: many writers at once share few transactions, and all are there."""
    transactions = 0

    async def main() -> None:
        store = KvStore(path)
        write = store._database._write

        def counted(*args: Any) -> None:
            nonlocal transactions
            transactions += 1
            write(*args)

        monkeypatch.setattr(store._database, "_write", counted)
        await asyncio.gather(*(store.set("ext", f"k{number}", {"n": number}) for number in range(10_000)))
        assert len(await store.keys("ext")) == 10_000
        assert transactions < 1_000
        await store.aclose()

    asyncio.run(main())


def test_writes_of_one_key_count_in_the_order_in_which_they_were_asked(path: Path) -> None:
    """KvStore: one thread, one queue."""

    async def main() -> None:
        store = KvStore(path)
        got = await asyncio.gather(
            *(work for number in range(300) for work in (store.set("ext", "key", number), store.get("ext", "key")))
        )
        assert got[1::2] == list(range(300))
        await store.aclose()

    asyncio.run(main())


def test_what_was_asked_before_the_close_is_written(path: Path) -> None:
    """KvStore.aclose: writes what waits; what comes later is refused."""

    async def main() -> None:
        store = KvStore(path)
        writes = [asyncio.ensure_future(store.set("ext", f"k{number}", number)) for number in range(2000)]
        await asyncio.sleep(0)
        await patiently(store.aclose())
        await patiently(store.aclose())
        assert await patiently(asyncio.gather(*writes)) == [None] * 2000
        with pytest.raises(StoreError, match="closed"):
            await store.set("ext", "key", 1)
        again = KvStore(path)
        assert len(await again.keys("ext")) == 2000
        await again.aclose()

    asyncio.run(main())


def test_a_store_that_nobody_used_closes_and_makes_no_file(path: Path) -> None:
    """KvStore opens its file when it is first asked."""

    async def main() -> None:
        await KvStore(path).aclose()

    asyncio.run(main())
    assert not path.parent.exists()


def test_a_caller_that_is_cancelled_breaks_nothing(path: Path, run: Run) -> None:
    """Its write is done or not; whoever comes after it is served."""

    async def main() -> None:
        store = KvStore(path)
        writes = [asyncio.ensure_future(store.set("ext", f"k{number}", number)) for number in range(200)]
        await asyncio.sleep(0)
        for write in writes[::2]:
            write.cancel()
        outcomes = await patiently(asyncio.gather(*writes, return_exceptions=True))
        assert all(isinstance(one, asyncio.CancelledError) for one in outcomes[::2])
        assert outcomes[1::2] == [None] * 100
        keys = await store.keys("ext")
        assert {f"k{number}" for number in range(1, 200, 2)} <= set(keys)
        for key in keys:
            assert await store.get("ext", key) == int(key[1:])
        await store.aclose()

    run(main())


def test_a_loop_that_was_closed_meanwhile_does_not_end_the_store(path: Path) -> None:
    """Whoever asked has gone, its loop with it; the next one is served by the same thread."""
    store = KvStore(path)

    async def ask_and_go() -> None:
        asyncio.ensure_future(store.set("ext", "key", 1))  # noqa: RUF006  (nobody waits for it)
        await asyncio.sleep(0)

    async def ask() -> None:
        await patiently(store.set("ext", "other", 2))
        await patiently(store.aclose())

    with asyncio.Runner() as runner:
        runner.run(ask_and_go())
    asyncio.run(ask())


# -- room --------------------------------------------------------------------------------------------------------------


def size_of(path: Path) -> tuple[int, int]:
    """Of the file, and of its log."""
    log = Path(f"{path}-wal")
    return path.stat().st_size, log.stat().st_size if log.exists() else 0


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


def test_the_log_of_writes_shrinks_again(path: Path, run: Run) -> None:
    """48 MiB written for 24 bytes that stay: the file and its log are small again, without another request."""

    async def main() -> None:
        store = KvStore(path)
        await asyncio.gather(*(store.set("ext", "key", f"{number}" * (4 * MIB)) for number in range(8)))
        await store.set("ext", "key", "small")
        await until(lambda: max(size_of(path)) <= 1.5 * MIB)
        assert await store.get("ext", "key") == "small"
        await store.aclose()

    run(main())


@pytest.mark.parametrize("how", ["deleted", "overwritten"])
def test_deleted_space_comes_back(path: Path, how: str, run: Run) -> None:
    """Many values, or one that is large; what is left is whole."""

    async def main() -> None:
        store = KvStore(path)
        keys = [f"k{number}" for number in range(400)]
        await asyncio.gather(*(store.set("ext", key, key * 10_000) for key in keys))
        await store.set("ext", "stays", ["x"] * 100)
        await until(lambda: size_of(path)[0] > 10 * MIB)
        if how == "deleted":
            await asyncio.gather(*(store.delete("ext", key) for key in keys))
        else:
            await asyncio.gather(*(store.set("ext", key, 1) for key in keys))
        await until(lambda: max(size_of(path)) <= 1.5 * MIB)
        assert await store.get("ext", "stays") == ["x"] * 100
        await store.aclose()

    run(main())
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_that_is_never_idle_gives_space_back_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little after each transaction, while others wait already."""
    course: list[str] = []
    write, give_back = Database._write, Database._give_back

    def written(store: Database, *arguments: Any) -> None:
        course.append("write")
        write(store, *arguments)

    def given_back(store: Database, *arguments: Any) -> bool:
        course.append("give back")
        return give_back(store, *arguments)

    monkeypatch.setattr(Database, "_write", written)
    monkeypatch.setattr(Database, "_give_back", given_back)
    monkeypatch.setattr(database_module, "_MOST_AT_ONCE", 1)

    async def main() -> None:
        store = KvStore(path)
        await asyncio.gather(*(store.set("ext", "key", number) for number in range(20)))
        await store.aclose()

    asyncio.run(main())
    assert course.count("write") == 20
    assert "write write" not in " ".join(course)


def test_a_file_of_an_earlier_version_gives_space_back_too(path: Path, run: Run) -> None:
    """It was made without the setting that this needs."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(store_module._SCHEMA)
        database.executemany(
            "INSERT INTO kv VALUES ('ext', ?, ?)", [(f"k{n}", b'"' + b"x" * 50_000 + b'"') for n in range(80)]
        )
        database.commit()

    async def main() -> None:
        store = KvStore(path)
        assert await store.get("ext", "k7") == "x" * 50_000
        await asyncio.gather(*(store.delete("ext", f"k{number}") for number in range(79)))
        await until(lambda: max(size_of(path)) <= 1.5 * MIB)
        assert await store.keys("ext") == ["k79"]
        await store.aclose()

    run(main())


def test_giving_space_back_waits_for_no_other_host(path: Path) -> None:
    """One that reads for long has a lock on the log: it stays long meanwhile, and requests are answered."""

    async def main() -> None:
        store = KvStore(path)
        await store.set("ext", "key", 1)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM kv").fetchone()
            for number in range(4):
                await asyncio.wait_for(store.set("ext", "key", f"{number}" * (2 * MIB)), 2.0)
                await asyncio.wait_for(store.delete("ext", "key"), 2.0)
            assert size_of(path)[1] > 4 * MIB
            other.execute("COMMIT")
        await store.set("ext", "key", 2)
        await until(lambda: max(size_of(path)) <= 1.5 * MIB)
        await store.aclose()

    asyncio.run(main())


def fill(path: Path, count: int, key: str = "k{:07}") -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(store_module._SCHEMA)
        rows = (("ext", key.format(number), b"1") for number in range(count))
        database.executemany("INSERT INTO kv VALUES (?, ?, ?)", rows)
        database.commit()


def test_a_list_of_200_000_keys_delays_no_neighbour(path: Path, run: Run) -> None:
    """It is read in pages: each request of a neighbour waits for one page, and not for the list."""
    fill(path, 200_000)
    pages: list[int] = []
    real = store_module._page

    def page(*arguments: Any) -> list[str]:
        found = real(*arguments)
        pages.append(len(found))
        return found

    async def main() -> None:
        store = KvStore(path)
        assert await store.get("ext", "k0000001") == 1
        listing = asyncio.ensure_future(store.keys("ext"))
        served = 0
        while not listing.done():
            before = len(pages)
            await store.get("neighbour", "key")
            assert len(pages) - before <= 3
            served += 1
        assert await listing == [f"k{number:07}" for number in range(200_000)]
        assert served > 50
        assert max(pages) == 1000
        await store.aclose()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_page", page)
        run(main())


def test_a_list_has_each_key_that_is_there_all_the_time_once(path: Path) -> None:
    """Also where others come and go before, behind and at the place that has been read."""
    fill(path, 5_000)

    async def main() -> None:
        store = KvStore(path)
        listing = asyncio.ensure_future(store.keys("ext", "k"))
        number = 0
        while not listing.done():
            number += 1
            await asyncio.gather(
                store.set("ext", f"k{number % 5000:07}x", 1),
                store.delete("ext", f"k{(number - 1) % 5000:07}x"),
                store.delete("ext", "k0000999y"),
            )
        keys = await listing
        assert [key for key in keys if len(key) == 8] == [f"k{number:07}" for number in range(5_000)]
        assert len(set(keys)) == len(keys)
        await store.aclose()

    asyncio.run(main())


def test_more_keys_than_fit_into_a_list_are_refused_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not gathered first: memory is bounded, with long keys, too."""
    fill(path, 3_000, "k{:04}" + "x" * 1_000)
    monkeypatch.setattr(store_module, "_MOST_LISTED", MIB)
    monkeypatch.setattr(store_module, "_PAGE_SIZE", 100_000)

    async def main() -> None:
        store = KvStore(path)
        with pytest.raises(StoreError, match="too many for one list: use a longer prefix"):
            await store.keys("ext")
        assert len(await store.keys("ext", "k00")) == 100
        await store.aclose()

    asyncio.run(main())
