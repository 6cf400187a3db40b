"""What is spawned for an extension: its own command, or a microVM that runs it. Nothing is spawned here.

A command with a ``sha256`` is opened once: what is read is hashed and written to a private copy, and the copy is what
runs. The file itself may be another one by then.

Source: docs/protocol.md, section 10.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from sepkit.host.manifest import Manifest, ManifestError, Sandbox, expand, inherited, open_regular, variables_in

MOST_BYTES: Final = 1024 * 1024 * 1024
"""The largest command that is hashed, and copied."""

_AT_ONCE: Final = 1024 * 1024


@frozen
class Launch:
    """What to spawn. :meth:`close` it when its process has ended."""

    command: list[str]
    """The program, as it is told that it is called, and its arguments."""
    environment: dict[str, str]
    executable: Path | None = None
    """The program's file; None: it is looked up by its name."""
    private: Path | None = None
    """The folder of the copy that runs."""

    def close(self) -> None:
        """Remove the copy."""
        if self.private is not None:
            shutil.rmtree(self.private, ignore_errors=True)


def prepared(manifest: Manifest, *, isolation: bool) -> Launch:
    """What to spawn for an extension. Reads files, of which a large one takes its time: not for the loop's thread.

    Args:
        manifest: The extension's.
        isolation: Whether the host may run extensions in a sandbox.

    Raises:
        ManifestError: Its command is not what the manifest says, or not a program; or it wants a sandbox that this host
            cannot give it.
    """
    if manifest.sandbox is not None:
        return _in_sandbox(manifest, manifest.sandbox, isolation=isolation)
    run, environment = manifest.run, manifest.environment()
    command = _expanded(manifest)
    try:
        path = _command_file(manifest.root, command, environment)
    except OSError as error:
        if run.sha256 is not None:
            raise ManifestError(f"{manifest.name}: the command's sha256 cannot be checked: {_said(error)}") from None
        if isinstance(error, FileNotFoundError) and "$" not in command:
            return Launch([command, *run.args], environment)  # who spawns it says where it was looked for
        hint = "; of variables only ${env:NAME} is replaced" if "$" in command else ""
        raise ManifestError(f"{manifest.name}: cannot start {command!r}: {_said(error)}{hint}") from None
    if run.sha256 is None:
        return Launch([command, *run.args], environment, path)
    private = Path(tempfile.mkdtemp(prefix="sepkit-"))
    try:
        try:
            digest = _copied(path, private / path.name)
        except OSError as error:
            why = f"{path}: {error.strerror or error}"
            raise ManifestError(f"{manifest.name}: the command's sha256 cannot be checked: {why}") from None
        if digest != run.sha256.lower():
            raise ManifestError(f"{manifest.name}: {path} has sha256 {digest}, and the manifest allows {run.sha256}")
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise
    return Launch([command, *run.args], environment, private / path.name, private)


def _expanded(manifest: Manifest) -> str:
    """The command, with the variables of the host and the home folder that it names.

    Nothing is replaced by nothing: ``${env:HOME}/bin/x`` would run another program where HOME is not set.
    """
    command = manifest.run.command
    for name in variables_in(command):
        if not os.environ.get(name):
            raise ManifestError(f"{manifest.name}: cannot start {command!r}: the variable {name!r} is not set")
    if command == "~" or command.startswith("~/"):
        home = os.environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            raise ManifestError(f"{manifest.name}: cannot start {command!r}: HOME is not a whole path, but {home!r}")
        return home + expand(command[1:], os.environ)
    if command.startswith("~") and os.sep in command:
        raise ManifestError(f"{manifest.name}: cannot start {command!r}: only ~/ is replaced, by your own home folder")
    return expand(command, os.environ)


def _command_file(root: Path, command: str, environment: Mapping[str, str]) -> Path:
    """The file that the child runs, which is a regular one. Relative places on PATH are looked up in its own folder.

    Raises:
        OSError: There is none.
    """
    if os.sep in command:
        path = root / command
        _check_program(path)
        return path
    for place in os.get_exec_path(environment):
        path = root / place / command
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"no {command!r} on PATH {environment.get('PATH', '')!r}")


def _check_program(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is not a regular file")
    if not os.access(path, os.X_OK):
        raise PermissionError(f"{path} is not executable")


def _copied(path: Path, copy: Path) -> str:
    """Copy a program for the owner of this process alone; the hash of the copy."""
    digest = hashlib.sha256()
    left = MOST_BYTES
    with open_regular(path, MOST_BYTES) as file, open(copy, "xb") as written:
        while data := file.read(_AT_ONCE):
            if (left := left - len(data)) < 0:  # it grows while it is read
                raise OSError(f"has more than {MOST_BYTES} bytes")
            digest.update(data)
            written.write(data)
    copy.chmod(0o500)
    return digest.hexdigest()


def _said(error: OSError) -> str:
    return str(error) if error.strerror is None else f"{error.filename}: {error.strerror}"


def _in_sandbox(manifest: Manifest, sandbox: Sandbox, *, isolation: bool) -> Launch:
    run = manifest.run
    if not isolation:
        raise ManifestError(f"{manifest.name} wants to run in a sandbox, and this host was not asked for isolation")
    if run.sha256 is not None:
        raise ManifestError(f"{manifest.name}: its command is in the sandbox's image, where its sha256 is not checked")
    if run.command.startswith("~") or variables_in(run.command):
        raise ManifestError(f"{manifest.name}: {run.command!r} is in the sandbox, where no part of it is replaced")
    # msb itself runs outside: a PATH or an LD_PRELOAD that the manifest names must not reach it.
    outside = inherited()
    path = outside.get("PATH", "")
    if (msb := shutil.which("msb", path=path)) is None:
        raise ManifestError(f"{manifest.name} wants to run in a sandbox, and there is no msb on PATH {path!r}")
    return Launch([msb, *_sandbox_options(sandbox, manifest.named()), "--", run.command, *run.args], outside)


def _sandbox_options(sandbox: Sandbox, environment: dict[str, str]) -> list[str]:
    options = ["run", "--image", sandbox.image, "--network", sandbox.network]
    if sandbox.memory is not None:
        options += ["--memory", str(sandbox.memory)]
    if sandbox.cpus is not None:
        options += ["--cpus", str(sandbox.cpus)]
    for domain in sandbox.allow_domains:
        options += ["--allow-domain", domain]
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    return options
