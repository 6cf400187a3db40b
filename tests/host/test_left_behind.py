"""Nothing of an extension outlives its unloading, its death, or the death of its host.

What is left all the same is in docs/hosting.md, "What is left of it".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from sepkit.host import Host, KvStore, Manifest
from sepkit.host.manifest import Run as Command
from sepkit.transports.process import MARK

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")

LEAVER: Final = Path(__file__).with_name("children") / "leaver.py"
ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 20.0
WAYS: Final = ["a session", "setsid", "nohup", "two forks", "variables that are gone"]

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In which each process that is left has a file; none of them outlives the test."""
    place = tmp_path / "pids"
    place.mkdir()
    yield place
    for pid in living(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def living(folder: Path) -> list[int]:
    """The processes in the folder that have not ended."""
    return [pid for pid in (int(file.name) for file in folder.iterdir()) if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def until(found: Callable[[], object], what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what()
        time.sleep(0.005)


async def eventually(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


def leaver(folder: Path, *ways: str, name: str = "leaver") -> Manifest:
    return Manifest(name, "1", folder.parent, Command(sys.executable, [str(LEAVER), str(folder), *ways]))


def hosting(**options: Any) -> Host:
    return Host(store=KvStore(), **{"shutdown_grace": 0.5, **options})


def guards() -> list[int]:
    """The guards of this process's hosts."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
            if int(parent) == os.getpid() and b"sepkit-guard" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


# -- unloaded, or dead -------------------------------------------------------------------------------------------------


def test_what_has_left_the_session_ends_with_the_unloading(folder: Path, run: Run) -> None:
    """New sessions, double forks and nohup: none of 30 is left, however the child ends."""

    async def main() -> None:
        async with hosting() as host:
            assert await host.load([leaver(folder, *WAYS * 6)]) == []
            await eventually(lambda: len(living(folder)) == 30)
            await host.unload("leaver")
            await eventually(lambda: living(folder) == [])

    run(main())


def test_what_has_left_the_session_ends_with_a_crash_and_before_the_next_life(folder: Path, run: Run) -> None:
    """The next life of an extension does not meet the processes of the last one."""

    async def main() -> None:
        async with hosting(restart_delays=(0.0,)) as host:
            assert await host.load([leaver(folder, *WAYS)]) == []
            await eventually(lambda: len(living(folder)) == 5)
            before = set(living(folder))
            pid = host.status()[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: host.status()[0].epoch == 2 and host.status()[0].state == "ready")
            assert not before & set(living(folder))

    run(main())


def test_what_has_left_the_session_of_an_extension_that_cannot_be_started_ends_too(folder: Path, run: Run) -> None:
    """The handshake fails, and the process is killed: what it has started by then is not left."""
    silent = 'setsid -f sh -c \'touch "$0/$$"; exec sleep 600\' "$0"; exec sleep 600'

    async def main() -> None:
        async with hosting(initialize_timeout=1.0) as host:
            (problem,) = await host.load([Manifest("silent", "1", folder, Command("sh", ["-c", silent, str(folder)]))])
            assert "no answer" in str(problem)
            await eventually(lambda: living(folder) == [])

    run(main())


def test_a_process_that_forks_on_and_on_does_not_get_away(folder: Path, run: Run) -> None:
    """Its child goes on in a session of its own before it is found, again and again."""
    hops = """
import os, sys, time
if os.fork() == 0:
    while True:
        os.setsid()
        open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
        time.sleep(0.003)
        if os.fork():
            os._exit(0)
"""
    answer = (
        'import json; rid = json.loads(sys.stdin.readline())["id"]; print(json.dumps({"jsonrpc": "2.0", "id": rid, '
    )
    answer += '"result": {"protocol_version": 1, "extension": {"name": "h", "version": "1"}}}), flush=True); '
    answer += "sys.stdin.read()"

    async def main() -> None:
        async with hosting(shutdown_grace=0.1) as host:
            source = ["-c", hops + answer, str(folder)]
            assert await host.load([Manifest("hops", "1", folder, Command(sys.executable, source))]) == []
            await eventually(lambda: len(os.listdir(folder)) > 10)
            await host.unload("hops")
            await eventually(lambda: living(folder) == [])
            before = os.listdir(folder)
            await asyncio.sleep(0.05)
            assert sorted(os.listdir(folder)) == sorted(before)

    run(main())


def test_a_manifest_does_not_take_the_mark_away(folder: Path, run: Run) -> None:
    """The variable's value is the host's, whatever the manifest says."""

    async def main() -> None:
        async with hosting() as host:
            found = leaver(folder, "setsid")
            found = attrs.evolve(found, run=attrs.evolve(found.run, env={MARK: "/another/"}))
            assert await host.load([found]) == []
            await eventually(lambda: len(living(folder)) == 1)
            await host.unload("leaver")
            await eventually(lambda: living(folder) == [])

    run(main())


def mark_of(pid: int | None) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    (mark,) = (one.removeprefix(f"{MARK}=") for one in variables if one.startswith(MARK))
    return mark


def stranger(folder: Path, env: dict[str, str]) -> None:
    """A process that is none of an extension, in a session of its own."""
    command = ["setsid", "-f", "sh", "-c", 'touch "$0/$$"; exec sleep 600', str(folder)]
    subprocess.run(command, env={**os.environ, **env}, check=True)


def test_the_processes_of_other_extensions_and_strangers_live_on(folder: Path, tmp_path: Path, run: Run) -> None:
    """Those of a neighbour, of another host, of this program, and one whose mark only looks like the extension's."""
    others = tmp_path / "others"
    others.mkdir()

    async def main() -> None:
        async with hosting() as host, hosting() as other:
            assert await host.load([leaver(folder, "setsid"), leaver(others, "setsid", name="neighbour")]) == []
            assert await other.load([leaver(others, "setsid", name="leaver")]) == []
            mark = mark_of(host.status()[0].pid)
            looks_alike = f"{mark.rstrip('/')}0/"  # the tenth of a host is not its first
            for env in ({}, {MARK: looks_alike}, {"OTHER": mark.strip("/")}):
                stranger(others, env)
            await eventually(lambda: len(living(others)) == 5 and len(living(folder)) == 1)
            await host.unload("leaver")
            await eventually(lambda: living(folder) == [])
            assert len(living(others)) == 5

    run(main())
    for pid in living(others):
        os.kill(pid, signal.SIGKILL)


# -- its host is dead --------------------------------------------------------------------------------------------------

HOST: Final = """
import asyncio, os, sys, time
from tests.host.test_left_behind import Path, hosting, leaver

async def main():
    host = hosting(shutdown_grace=float(sys.argv[2]))
    for problem in await host.load([leaver(Path(sys.argv[1]), *sys.argv[4:])]):
        raise problem.error
    match sys.argv[3]:
        case "exits":
            os._exit(0)
        case "raises":
            raise SystemExit(3)
        case "execs":
            os.execvp("sleep", ["sleep", "600"])
        case "forks":
            if os.fork() == 0:
                os.write(1, b"%d\\n" % os.getpid())
                time.sleep(600)
    os.write(1, b"0\\n")
    await asyncio.sleep(600)

asyncio.run(main())
"""


def a_host(folder: Path, how: str, *ways: str, grace: float = 0.2) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOST, str(folder), str(grace), how, *ways]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)


def test_an_extension_that_ignores_the_end_of_its_input_ends_when_its_host_is_killed(folder: Path) -> None:
    """SIGKILL of the host, or of its whole group: nothing of the extension is left, and the guard goes as well."""
    with a_host(folder, "waits", "stubborn", *WAYS) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"0\n"
        until(lambda: len(living(folder)) == 6)
        children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
        (guard,) = (int(pid) for pid in children if b"sepkit-guard" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.killpg(host.pid, signal.SIGKILL)
        until(lambda: living(folder) == [])
        until(lambda: not is_alive(guard))


@pytest.mark.parametrize("how", ["exits", "raises", "execs"])
def test_an_extension_ends_however_its_host_comes_to_an_end(folder: Path, how: str) -> None:
    """A host that ends without closing itself, or becomes another program."""
    with a_host(folder, how, "deaf", "two forks") as host:
        until(lambda: len(list(folder.iterdir())) == 2)
        until(lambda: living(folder) == [])
        host.kill()


def test_a_fork_of_the_host_that_lives_on_does_not_keep_its_extensions_alive(folder: Path) -> None:
    """A worker that the program has forked holds copies of the host's descriptors, but not that of the guard."""
    with a_host(folder, "forks", "deaf") as host:
        assert host.stdout is not None
        until(lambda: len(living(folder)) == 1)
        forked = max(int(host.stdout.readline()) for _ in range(2))
        host.kill()
        until(lambda: living(folder) == [])
        assert is_alive(forked)
        os.kill(forked, signal.SIGKILL)


def test_an_extension_that_ends_with_its_input_has_its_grace_when_its_host_is_killed(folder: Path) -> None:
    """The guard does not hurry one that ends in order: it waits as long as the host would have."""
    clean_up = f"""
import json, sys, time
frame = json.loads(sys.stdin.readline())
result = {{"protocol_version": 1, "extension": {{"name": "orderly", "version": "1"}}}}
print(json.dumps({{"jsonrpc": "2.0", "id": frame["id"], "result": result}}), flush=True)
sys.stdin.read()
time.sleep(0.3)
open({str(folder / "0")!r}, "w").close()
"""
    source = HOST.replace("leaver(Path(sys.argv[1]), *sys.argv[4:])", "orderly()")
    source = source.replace(
        "async def main",
        f"""
from sepkit.host import Manifest
from sepkit.host.manifest import Run
orderly = lambda: Manifest("orderly", "1", Path("/"), Run(sys.executable, ["-c", {clean_up!r}]))

async def main""",
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(folder), "5", "waits"], cwd=ROOT, stdout=subprocess.PIPE
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"0\n"
        host.kill()
        until(lambda: (folder / "0").exists())


def test_the_extensions_of_a_host_within_an_extension_end_with_that(folder: Path, run: Run) -> None:
    """An extension may host others: they are marked as its own."""
    run_host = ["-c", HOST, str(folder), "5", "waits", "deaf", "two forks"]
    answer = 'import sys, os; print(\'{"jsonrpc":"2.0","id":1,"result":{"protocol_version":1,"extension":'
    answer += '{"name":"n","version":"1"}}}\', flush=True); '
    outer = f"{answer} os.execv(sys.executable, [sys.executable, *{run_host!r}])"

    async def main() -> None:
        async with hosting() as host:
            manifest = Manifest("outer", "1", ROOT, Command(sys.executable, ["-c", outer]))
            assert await host.load([manifest]) == []
            await eventually(lambda: len(living(folder)) == 2)
            await host.unload("outer")
            await eventually(lambda: living(folder) == [])

    run(main())


# -- the guard ---------------------------------------------------------------------------------------------------------


def test_a_host_has_one_guard_and_only_while_it_has_extensions(folder: Path, run: Run) -> None:
    """One for all of them: started with the first, and gone with the last, its descriptor too."""

    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        async with hosting() as host:
            assert guards() == []
            assert await host.load([leaver(folder), leaver(folder, name="second")]) == []
            assert len(guards()) == 1
            await host.unload("second")
            assert len(guards()) == 1
            await host.unload("leaver")
            assert guards() == []
            assert len(await host.load([Manifest("none", "1", folder, Command("no-such-command"))])) == 1
            assert guards() == []
            assert await host.load([leaver(folder)]) == []
            assert len(guards()) == 1
        assert guards() == []
        assert set(os.listdir("/proc/self/fd")) == before

    run(main())


def test_a_guard_that_was_killed_is_replaced_with_the_next_extension(folder: Path, run: Run) -> None:
    """Whatever ended it, what is started later is not without one."""

    async def main() -> None:
        async with hosting() as host:
            assert await host.load([leaver(folder)]) == []
            (first,) = guards()
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: not is_alive(first))
            assert await host.load([leaver(folder, name="second")]) == []
            (second,) = guards()
            assert second != first

    run(main())


def test_a_host_that_can_have_no_guard_says_so_once_and_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A system without a shell, or without room for another process."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    async def main() -> None:
        async with hosting() as host:
            with monkeypatch.context() as patch:
                patch.setattr("sepkit.host.guard.subprocess.Popen", refuse)
                host._setting.guard.begin()
            assert await host.load([leaver(folder), leaver(folder, "setsid", name="second")]) == []
            await eventually(lambda: len(living(folder)) == 1)
            await host.unload("second")
            await eventually(lambda: living(folder) == [])

    asyncio.run(main())
    said = [record.getMessage() for record in caplog.records if "will outlive this host" in record.getMessage()]
    assert len(said) == 1
