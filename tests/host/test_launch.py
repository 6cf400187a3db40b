"""The command of an extension: what is looked at is what runs, and what is not a program is said before it is opened.

Source: docs/protocol.md, section 10.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from sepkit.host import Host, KvStore, Manifest, ManifestError
from sepkit.host import launch as launch_module
from sepkit.host import manifest as manifest_module
from sepkit.host.launch import prepared
from sepkit.host.manifest import Run as Command
from sepkit.host.manifest import Sandbox
from tests.host.test_processes import ill

PLAIN: Final = Path(__file__).with_name("children") / "plain.py"
PATIENCE: Final = 20.0

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private copies are made."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A command that leaves a mark when it is run."""
    command = tmp_path / "marks"
    command.write_text(f"#!/bin/sh\ntouch {tmp_path}/mark\n")
    command.chmod(0o755)
    return command


def extension(root: Path, command: str, sha256: str | None = None, *args: str) -> Manifest:
    root.mkdir(exist_ok=True)
    return Manifest("ext", "1", root, Command(command, list(args), sha256=sha256))


def hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def prepare(manifest: Manifest) -> launch_module.Launch:
    return prepared(manifest, isolation=False)


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def a_script(folder: Path) -> Path:
    """An extension that is a script; it looks for nothing beside itself."""
    script = folder / "answers.py"
    script.write_text(f"#!{sys.executable}\n{PLAIN.read_text()}")
    script.chmod(0o755)
    return script


# -- what was hashed is what runs --------------------------------------------------------------------------------------


def test_a_command_that_hashes_as_it_should_passes(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash is checked for a command by path, in the folder or on PATH; upper-case digits are accepted."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for text in (hash_of(marked), hash_of(marked).upper()):
        for command in (str(marked), "../marks", "./../marks", "marks"):
            launch = prepare(extension(tmp_path / "ext", command, text))
            assert launch.executable is not None
            assert (launch.command, launch.executable.read_bytes()) == ([command], marked.read_bytes())
            launch.close()


def test_the_command_that_is_hashed_is_the_one_that_will_run(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child starts in its own folder: a relative place on PATH is looked for there, not where the host is."""
    for folder in ("elsewhere/bin", "ext/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "elsewhere" / "bin" / "tool").write_bytes(marked.read_bytes())
    (tmp_path / "ext" / "bin" / "tool").write_text("another")
    for folder in ("elsewhere/bin", "ext/bin"):
        (tmp_path / folder / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", "bin")
    with pytest.raises(ManifestError, match="the manifest allows"):
        prepare(extension(tmp_path / "ext", "tool", hash_of(marked)))


@pytest.mark.parametrize("sha256", ["00", "", "0" * 64])
def test_a_command_that_hashes_otherwise_is_refused(tmp_path: Path, marked: Path, sha256: str, temporary: Path) -> None:
    """A command with another hash is refused, and its copy is gone."""
    with pytest.raises(ManifestError, match=hash_of(marked)):
        prepare(extension(tmp_path / "ext", str(marked), sha256))
    assert list(temporary.iterdir()) == []


def test_a_refused_command_is_not_run(tmp_path: Path, marked: Path) -> None:
    """The host does not start a command that it refused."""

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            problems = await host.load([extension(tmp_path / "ext", str(marked), "0" * 64)])
            assert [type(one.error) for one in problems] == [ManifestError]
            (status,) = host.status()
            assert (status.state, status.epoch, status.pid) == ("failed", 0, None)
        assert not (tmp_path / "mark").exists()

    asyncio.run(main())


def in_place(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def renamed(file: Path, other: Path) -> None:
    shutil.copy(other, f"{file}.new")
    os.rename(f"{file}.new", file)


def as_a_link(file: Path, other: Path) -> None:
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize("exchange", [in_place, renamed, as_a_link])
@pytest.mark.parametrize("kind", ["script", "binary"])
def test_what_was_hashed_is_what_runs_though_the_file_is_another_one_by_then(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[Path, Path], None], kind: str
) -> None:
    """The file is exchanged after it was hashed, in the last moment before the process is started."""
    root = tmp_path / "ext"
    root.mkdir()
    if kind == "script":
        command, args = a_script(root), []
    else:
        command, args = root / "python", [str(PLAIN)]
        shutil.copy(os.path.realpath(sys.executable), command)
    real = subprocess.Popen

    def exchanged(words: list[str], **options: Any) -> Any:
        if words[0] == str(command):
            exchange(command, marked)
        return real(words, **options)

    monkeypatch.setattr(subprocess, "Popen", exchanged)

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([extension(root, str(command), hash_of(command), *args)]) == []
            assert hash_of(command) == hash_of(marked)
            assert host.status()[0].state == "ready"

    asyncio.run(main())
    assert not (tmp_path / "mark").exists()


def test_a_file_that_is_exchanged_while_it_is_read_is_not_taken_for_another(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened once; what is read from it is hashed and copied, chunk by chunk."""
    right = hash_of(marked)
    monkeypatch.setattr(launch_module, "_AT_ONCE", 8)
    real, opened = manifest_module.open_regular, []

    def opening(path: Path, most_bytes: int) -> Any:
        opened.append(path)
        file = real(path, most_bytes)
        path.unlink()
        path.write_text("another")
        return file

    monkeypatch.setattr(launch_module, "open_regular", opening)
    launch = prepare(extension(tmp_path / "ext", str(marked), right))
    assert launch.executable is not None
    assert (hash_of(launch.executable), opened) == (right, [marked])


def test_the_copy_is_for_this_user_alone_and_gone_with_the_process(tmp_path: Path, temporary: Path, run: Run) -> None:
    """Also where the process dies, or a start is given up; a restart makes its own."""
    script = a_script(tmp_path)

    async def main() -> None:
        async with Host(store=KvStore(), restart_delays=(0.0,)) as host:
            assert await host.load([extension(tmp_path / "ext", str(script), hash_of(script))]) == []
            (folder,) = inside(temporary)
            (copy,) = inside(folder)
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, copy)]
            assert (modes, copy.name) == ([0o700, 0o500], "answers.py")
            pid = host.status()[0].pid
            assert pid is not None
            os.kill(pid, 9)
            async with asyncio.timeout(PATIENCE):
                while host.status()[0].epoch != 2 or host.status()[0].state != "ready":
                    await asyncio.sleep(0.005)
            assert not folder.exists()
            assert len(inside(temporary)) == 1
            await host.unload("ext")
            assert inside(temporary) == []

    run(main())


def test_a_large_command_is_hashed_off_the_loop_and_a_start_that_is_given_up_leaves_no_copy(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """While one is read, however long that takes, its neighbour is called."""
    script = a_script(tmp_path)
    going_on, real = threading.Event(), launch_module._copied

    def slow(path: Path, copy: Path) -> str:
        assert going_on.wait(PATIENCE)
        return real(path, copy)

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([ill()]) == []
            monkeypatch.setattr(launch_module, "_copied", slow)
            loading = asyncio.ensure_future(host.load([extension(tmp_path / "ext", str(script), hash_of(script))]))
            for number in range(20):
                assert (await host.call_tool("ill.echo", {"text": str(number)})).content == str(number)
            assert not loading.done()
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            going_on.set()
            async with asyncio.timeout(PATIENCE):
                while os.listdir(temporary):
                    await asyncio.sleep(0.005)

    run(main())


# -- what is not a program ---------------------------------------------------------------------------------------------


def a_folder(place: Path) -> None:
    place.mkdir()


def a_pipe(place: Path) -> None:
    os.mkfifo(place)


def an_endless_device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def a_dangling_link(place: Path) -> None:
    place.symlink_to(place.parent / "gone")


def a_link_to_itself(place: Path) -> None:
    place.symlink_to(place)


def nothing(place: Path) -> None:
    pass


def what_may_not_be_run(place: Path) -> None:
    place.write_text("#!/bin/sh\n")


def what_is_sparse_and_huge(place: Path) -> None:
    place.touch(mode=0o755)
    os.truncate(place, 1 << 42)


NOT_PROGRAMS: Final = [
    *(a_folder, a_pipe, an_endless_device, a_dangling_link, a_link_to_itself, nothing, what_may_not_be_run),
    what_is_sparse_and_huge,
]


@pytest.mark.parametrize("sha256", [None, "0" * 64])
@pytest.mark.parametrize("make", NOT_PROGRAMS)
@pytest.mark.timeout(10)
def test_what_is_not_a_program_is_said_and_not_opened(
    tmp_path: Path, make: Callable[[Path], None], sha256: str | None, run: Run
) -> None:
    """A pipe, a device, a folder or a file of 4 TiB: the start fails at once, with the command's name."""
    root = tmp_path / "ext"
    root.mkdir()
    make(root / "run")

    async def main() -> None:
        async with Host(store=KvStore(), initialize_timeout=1.0) as host:
            (problem,) = await host.load([extension(root, "./run", sha256)])
            assert "run" in str(problem)
            if sha256 is not None:
                assert "sha256 cannot be checked" in str(problem)

    run(main())


def test_a_command_that_grows_while_it_is_read_is_not_read_for_ever(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is looked at before; what it has become is counted."""
    monkeypatch.setattr(launch_module, "MOST_BYTES", 100)
    monkeypatch.setattr(launch_module, "_AT_ONCE", 50)
    real = manifest_module.open_regular

    def growing(path: Path, most_bytes: int) -> Any:
        file = real(path, most_bytes)
        with path.open("ab") as more:
            more.write(b"#" * 100)
        return file

    monkeypatch.setattr(launch_module, "open_regular", growing)
    marked.write_text("#!/bin/sh\n")
    with pytest.raises(ManifestError, match="more than 100 bytes"):
        prepare(extension(tmp_path / "ext", str(marked), "00"))


def test_the_hash_of_a_command_in_a_sandbox_is_not_pretended_to_be_checked(tmp_path: Path, marked: Path) -> None:
    """It is the image's file that runs, and not the one of the same name outside."""
    manifest = attrs.evolve(extension(tmp_path / "ext", str(marked), hash_of(marked)), sandbox=Sandbox("python:3.12"))
    with pytest.raises(ManifestError, match="sha256 is not checked"):
        prepared(manifest, isolation=True)


# -- how it is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    ["~/bin/x", "${env:HOME}/bin/x", "${env:BIN}/x", "${env:NEAR}/x", "~/bin/${env:NAME}", "${env:HOME}/${env:DEEP}/x"],
)
def test_a_home_folder_and_variables_in_a_command_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, run: Run
) -> None:
    """The host's, and once only; the arguments are left as they are."""
    (tmp_path / "home" / "bin").mkdir(parents=True)
    shutil.copy(a_script(tmp_path), tmp_path / "home" / "bin" / "x")
    for name, value in {"HOME": "home", "BIN": "home/bin"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    for name, value in {"NEAR": "../home/bin", "NAME": "x", "DEEP": "bin"}.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([extension(tmp_path / "ext", written)]) == []
            launch = prepare(extension(tmp_path / "ext", written, None, "~/${env:HOME}"))
            assert launch.command[1:] == ["~/${env:HOME}"]

    run(main())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("${env:UNSET}/bin/x", "the variable 'UNSET' is not set"),
        ("${env:EMPTY}/bin/x", "the variable 'EMPTY' is not set"),
        ("${env:}/x", "the variable '' is not set"),
        ("~/x", "HOME is not a whole path, but 'somewhere'"),
        ("~root/x", "only ~/ is replaced"),
        ("$HOME/x", "only ${env:NAME} is replaced"),
        ("${HOME}/x", "only ${env:NAME} is replaced"),
        ("${env:HOME/x", "only ${env:NAME} is replaced"),
        ("${env:NESTED}/x", "only ${env:NAME} is replaced"),
    ],
)
def test_what_is_not_replaced_in_a_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    """A variable that is not set would leave another path, which might lead to another program."""
    monkeypatch.delenv("UNSET", raising=False)
    for name, value in {"EMPTY": "", "HOME": "somewhere", "NESTED": "${env:HOME}"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ManifestError) as caught:
        prepare(extension(tmp_path / "ext", written))
    assert said in str(caught.value)


def test_nothing_is_replaced_in_the_command_of_a_sandbox(tmp_path: Path) -> None:
    """The host's folders and variables mean nothing in there."""
    for written in ("~/x", "${env:HOME}/x"):
        manifest = attrs.evolve(extension(tmp_path / "ext", written), sandbox=Sandbox("python:3.12"))
        with pytest.raises(ManifestError, match="no part of it is replaced"):
            prepared(manifest, isolation=True)
