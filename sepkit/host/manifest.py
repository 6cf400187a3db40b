"""``extension.toml``: found, read and checked. Pure but for reading files; nothing is spawned here.

Source: docs/protocol.md, section 10.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal

from attrs import field, frozen

from sepkit.errors import Fault, InvalidData, SepkitError
from sepkit.wire.converter import structure
from sepkit.wire.faults import step
from sepkit.wire.messages import Bounds
from sepkit.wire.methods import PROTOCOL_VERSION

FILE: Final = "extension.toml"
Scope = Literal["global", "project"]

# What every child's environment has; its manifest must name all else.
INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM", "SystemRoot")

GROUPS: Final = ("tools", "commands", "ui", "exec", "kv", "bus", "session", "providers")

_ENV: Final = re.compile(r"\$\{env:([^}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOST_HOOK_TIMEOUT_MS: Final = 600_000
_MOST_BYTES: Final = 32 * 1024  # tomllib takes quadratic time for a key with many dots: seconds at this size


class ManifestError(SepkitError):
    """A manifest cannot be read, or does not say what it must; the message names the file and every fault."""


@frozen
class Run:
    """How an extension is started, in its own folder."""

    command: str
    args: list[str] = field(factory=list)
    env: dict[str, str] = field(factory=dict, repr=False)  # may hold secrets
    sha256: str | None = None
    """What the command's file must hash to. A private copy of what was hashed is what runs."""


@frozen
class Capabilities:
    """What an extension may do: a group that is not granted is refused. ``events`` [] is without a bound."""

    events: list[str] = field(factory=list)
    tools: bool = False
    commands: bool = False
    ui: bool = False
    exec: bool = False
    kv: bool = False
    bus: bool = False
    session: bool = False
    providers: bool = False
    hooks: bool | list[str] | None = None
    """The hooks that it may intercept; None and True are all of them, [] and False none."""

    def grants(self) -> dict[str, bool]:
        """Each group, and whether it is granted."""
        return {group: getattr(self, group) for group in GROUPS}

    def may_intercept(self, hook: str) -> bool:
        """Whether it may have this hook."""
        return hook in self.hooks if isinstance(self.hooks, list) else self.hooks is not False


@frozen
class Sandbox:
    """The microVM that an extension wants to run in."""

    image: str
    memory: int | str | None = None
    cpus: int | None = None
    network: Literal["none", "egress"] = "none"
    allow_domains: list[str] = field(factory=list)


@frozen
class _File:
    """The fields of ``extension.toml``, as they are written."""

    name: str
    version: str
    run: Run
    protocol: Annotated[int, Bounds(ge=1)] = PROTOCOL_VERSION
    hook_timeout_ms: Annotated[int, Bounds(ge=1, le=_MOST_HOOK_TIMEOUT_MS)] | None = None
    disabled: bool = False
    capabilities: Capabilities = field(factory=Capabilities)
    resources: dict[str, Any] = field(factory=dict)
    sandbox: Sandbox | None = None


@frozen
class Manifest:
    """An extension, as its folder describes it."""

    name: str
    version: str
    root: Path
    """Its folder, in which it is started."""
    run: Run
    scope: Scope = "global"
    protocol: int = PROTOCOL_VERSION
    hook_timeout: float | None = None
    """Seconds; None: what the protocol says of the hook."""
    disabled: bool = False
    capabilities: Capabilities = field(factory=Capabilities)
    resources: dict[str, Path] = field(factory=dict)
    """Folders of skills, prompts and themes: in its own folder, and without links on the way."""
    sandbox: Sandbox | None = None

    def environment(self, host: Mapping[str, str] | None = None) -> dict[str, str]:
        """The child's whole environment: a few variables of the host's, and what the manifest names."""
        return {**inherited(host), **self.named(host)}

    def named(self, host: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables that the manifest names."""
        host = os.environ if host is None else host
        return {name: expand(value, host) for name, value in self.run.env.items()}


@frozen
class Problem:
    """An extension that cannot be loaded, and why."""

    name: str
    """Its name, or its folder's where the manifest does not tell."""
    error: Exception

    def __str__(self) -> str:
        return f"{self.name}: {self.error}"


@frozen
class Discovery:
    """What has been found: all manifests, in both scopes, and those that cannot be read."""

    manifests: tuple[Manifest, ...] = ()
    problems: tuple[Problem, ...] = ()

    def chosen(self, *, trusted: bool) -> list[Manifest]:
        """What is to be loaded, by name. On the same name the project's wins, where the workspace is trusted.

        An untrusted project takes no part: it must not replace a gate that the user relies on.
        """
        by_name = {found.name: found for found in self.manifests if found.scope == "global"}
        if trusted:
            by_name.update({found.name: found for found in self.manifests if found.scope == "project"})
        return [by_name[name] for name in sorted(by_name) if not by_name[name].disabled]

    def untrusted(self) -> list[Manifest]:
        """The project's extensions, which are not loaded where the workspace is not trusted."""
        return [found for found in self.manifests if found.scope == "project" and not found.disabled]


def inherited(host: Mapping[str, str] | None = None) -> dict[str, str]:
    """The few variables of the host's that every child has."""
    host = os.environ if host is None else host
    return {name: host[name] for name in INHERITED if name in host}


def home_folder(environ: Mapping[str, str] | None = None) -> Path:
    """``$SMOOTH_HOME``, else ``~/.smooth``."""
    environ = os.environ if environ is None else environ
    return Path(environ["SMOOTH_HOME"]) if environ.get("SMOOTH_HOME") else Path.home() / ".smooth"


def discover(workspace: Path | str | None = None, *, home: Path | str | None = None) -> Discovery:
    """Find the extensions of a user, and of a workspace.

    Args:
        workspace: Whose ``.smooth/extensions/`` is looked at.
        home: Whose ``extensions/`` is looked at; ``$SMOOTH_HOME`` by default, else ``~/.smooth``.
    """
    places: list[tuple[Path, Scope]] = [(Path(home or home_folder()) / "extensions", "global")]
    if workspace is not None:
        project = Path(workspace) / ".smooth" / "extensions"
        if project.resolve() != places[0][0].resolve():  # in the home folder they are the same
            places.append((project, "project"))
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for place, scope in places:
        try:
            folders = _folders(place)
        except OSError as error:
            problems.append(Problem(str(place), ManifestError(f"cannot be looked at: {error.strerror or error}")))
            continue
        owners: dict[str, Path] = {}
        for folder in folders:
            try:
                found = read(folder, scope=scope)
                if found.name in owners:
                    raise ManifestError(f"{folder / FILE}: the name {found.name!r} is taken by {owners[found.name]}")
            except ManifestError as error:
                problems.append(Problem(folder.name, error))
            else:
                owners[found.name] = folder
                manifests.append(found)
    return Discovery(tuple(manifests), tuple(problems))


def read(folder: Path | str, *, scope: Scope = "global") -> Manifest:
    """The manifest of an extension's folder.

    Raises:
        ManifestError: There is none, it is not TOML, or fields are missing or wrong, which are all named.
    """
    root = Path(folder).absolute()
    path = root / FILE
    try:
        data = tomllib.loads(_text(path))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # also for bad UTF-8, a number of 5,000 digits, 1,000 brackets
        raise ManifestError(f"{path}: no TOML: {error}") from None
    faults = _faults(data)
    resources, outside = _resources(root, data.get("resources"))
    faults += outside
    try:
        said: _File = structure(data, _File)
    except InvalidData as error:
        raise ManifestError(f"{path}: {InvalidData((*error.faults, *faults))}") from None
    if faults:
        raise ManifestError(f"{path}: {InvalidData(faults)}")
    return Manifest(
        name=said.name,
        version=said.version,
        root=root,
        run=said.run,
        scope=scope,
        protocol=said.protocol,
        hook_timeout=None if said.hook_timeout_ms is None else said.hook_timeout_ms / 1000,
        disabled=said.disabled,
        capabilities=said.capabilities,
        resources=resources,
        sandbox=said.sandbox,
    )


def expand(value: str, environ: Mapping[str, str]) -> str:
    """``value`` with each ``${env:NAME}`` replaced, by nothing where it is not set; an unclosed one stays as it is."""
    return _ENV.sub(lambda found: environ.get(found[1], ""), value)


def variables_in(value: str) -> list[str]:
    """The names in each ``${env:NAME}`` of ``value``."""
    return _ENV.findall(value)


def open_regular(path: Path, most_bytes: int) -> BinaryIO:
    """Open a regular file for reading. Anything else might never end, or do something when it is opened.

    Raises:
        OSError: It is not a regular file, has more than ``most_bytes``, or cannot be opened.
    """
    _check_regular(path.stat(), most_bytes)
    # It may be another one by now: what is opened does not wait for a writer, and is looked at again.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(fd), most_bytes)
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _check_regular(status: os.stat_result, most_bytes: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError("is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("is not a regular file")
    if status.st_size > most_bytes:
        raise OSError(f"has more than {most_bytes} bytes")


def _resources(root: Path, said: object) -> tuple[dict[str, Path], list[Fault]]:
    """The places that ``[resources]`` names, and those that are not in the extension's folder."""
    found: dict[str, Path] = {}
    faults = []
    for kind, place in said.items() if isinstance(said, dict) else ():
        if isinstance(place, str):
            try:
                found[kind] = _inside(root, place)
            except (OSError, ValueError, RuntimeError):  # a NUL, too long, links that go round
                faults.append(Fault(f"$.resources{step(kind)}", "a place in the extension's folder", repr(place)))
    return found, faults


def _inside(root: Path, place: str) -> Path:
    path = (root / place).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError("leads out of the folder")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return path
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise ValueError("is neither a folder nor a regular file")
    return path


def _folders(place: Path) -> Sequence[Path]:
    try:
        entries = sorted(place.iterdir())
    except FileNotFoundError:  # most users have none
        return ()
    return [entry for entry in entries if _is_meant(entry)]


def _is_meant(folder: Path) -> bool:
    """Whether this is meant as an extension. One that cannot be read is: it is reported as a problem."""
    try:
        (folder / FILE).lstat()
    except NotADirectoryError:
        return False
    except FileNotFoundError:
        return not folder.exists()  # a dangling link
    except OSError:
        return True
    return True


def _text(path: Path) -> str:
    # A project's manifests are read before it is trusted.
    with open_regular(path, _MOST_BYTES) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:  # it has grown meanwhile
        raise OSError(f"has more than {_MOST_BYTES} bytes")
    return data.decode("utf-8")


def _faults(data: Mapping[str, Any]) -> list[Fault]:
    """Values of the right type that are not valid."""
    faults = []
    name, run = data.get("name"), data.get("run")
    if isinstance(name, str) and not _NAME.fullmatch(name):
        faults.append(
            Fault("$.name", "letters, digits, '-', '_' and '.', at most 128, the first a letter or digit", repr(name))
        )
    if not isinstance(run, dict):
        return faults
    args, env = run.get("args"), run.get("env")
    texts = [("$.run.command", run.get("command"))]
    if isinstance(args, list):
        texts += [(f"$.run.args[{place}]", text) for place, text in enumerate(args)]
    if isinstance(env, dict):
        texts += [(f"$.run.env{step(name)}", text) for name, text in env.items()]
        faults += [
            Fault(f"$.run.env{step(name)}", "a variable's name, without '=' and NUL", repr(name))
            for name in env
            if not name or "=" in name or "\0" in name
        ]
    # No program can be started with a NUL in its command, arguments or environment.
    faults += [Fault(path, "text without NUL", "one") for path, text in texts if isinstance(text, str) and "\0" in text]
    return faults
