"""``extension.toml``: found, read and checked. Pure but for reading files; nothing is spawned here.

Source: protocol section 10.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from attrs import field, frozen

from sepkit.errors import InvalidData, SepkitError
from sepkit.wire.converter import structure
from sepkit.wire.messages import Bounds
from sepkit.wire.methods import PROTOCOL_VERSION

FILE: Final = "extension.toml"
Scope = Literal["global", "project"]

# What a child's environment has by itself; all else must be named in its manifest.
INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM", "SystemRoot")

GROUPS: Final = ("tools", "commands", "ui", "exec", "kv", "bus", "session", "providers")

_ENV: Final = re.compile(r"\$\{env:([^}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ManifestError(SepkitError):
    """A manifest cannot be read, or does not say what it must; the message names the file and every fault."""


@frozen
class Run:
    """How an extension is started, in its own folder."""

    command: str
    args: list[str] = field(factory=list)
    env: dict[str, str] = field(factory=dict, repr=False)  # may hold secrets
    sha256: str | None = None
    """What the command's file must hash to."""


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

    def grants(self) -> dict[str, bool]:
        """Each group, and whether it is granted."""
        return {group: getattr(self, group) for group in GROUPS}


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
    hook_timeout_ms: Annotated[int, Bounds(ge=1)] | None = None
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
    """Folders of skills, prompts and themes."""
    sandbox: Sandbox | None = None

    def environment(self, host: Mapping[str, str] | None = None) -> dict[str, str]:
        """The child's whole environment: a few variables of the host's, and what the manifest names."""
        host = os.environ if host is None else host
        found = {name: host[name] for name in INHERITED if name in host}
        found.update({name: expand(value, host) for name, value in self.run.env.items()})
        return found

    def check_hash(self, environment: Mapping[str, str]) -> None:
        """Refuse a command whose file is not the one that the manifest means.

        Raises:
            ManifestError: It hashes otherwise, or cannot be found.
        """
        if self.run.sha256 is None:
            return
        command = self.run.command
        path = str(self.root / command) if os.sep in command else shutil.which(command, path=environment.get("PATH"))
        try:
            if path is None:
                raise FileNotFoundError(f"no {command!r} on PATH {environment.get('PATH', '')!r}")
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ManifestError(f"{self.name}: the command's sha256 cannot be checked: {error}") from None
        if digest != self.run.sha256.lower():
            raise ManifestError(f"{self.name}: {path} has sha256 {digest}, and the manifest allows {self.run.sha256}")


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

        A project that nobody trusts takes no part: it must not take the place of a gate that its user relies on.
        """
        by_name = {found.name: found for found in self.manifests if found.scope == "global"}
        if trusted:
            by_name.update({found.name: found for found in self.manifests if found.scope == "project"})
        return [by_name[name] for name in sorted(by_name) if not by_name[name].disabled]

    def untrusted(self) -> list[Manifest]:
        """The project's extensions, which are not loaded where the workspace is not trusted."""
        return [found for found in self.manifests if found.scope == "project" and not found.disabled]

    def __iter__(self) -> Iterator[Manifest]:
        return iter(self.chosen(trusted=True))


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
        places.append((Path(workspace) / ".smooth" / "extensions", "project"))
    manifests: list[Manifest] = []
    problems: list[Problem] = []
    for place, scope in places:
        for folder in _folders(place):
            try:
                manifests.append(read(folder, scope=scope))
            except ManifestError as error:
                problems.append(Problem(folder.name, error))
    return Discovery(tuple(manifests), tuple(problems))


def read(folder: Path | str, *, scope: Scope = "global") -> Manifest:
    """The manifest of an extension's folder.

    Raises:
        ManifestError: There is none, it is no TOML, or a field is missing or wrong; all of it at once.
    """
    root = Path(folder).absolute()
    path = root / FILE
    try:
        said: _File = structure(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: no TOML: {error}") from None
    except InvalidData as error:
        raise ManifestError(f"{path}: {error}") from None
    if not _NAME.fullmatch(said.name):
        raise ManifestError(f"{path}: name {said.name!r}: letters, digits, '-', '_' and '.' only")
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
        resources={kind: root / place for kind, place in said.resources.items() if isinstance(place, str)},
        sandbox=said.sandbox,
    )


def expand(value: str, environ: Mapping[str, str]) -> str:
    """``value`` with each ``${env:NAME}`` replaced, by nothing where it is not set; an unclosed one stays as it is."""
    return _ENV.sub(lambda found: environ.get(found[1], ""), value)


def _folders(place: Path) -> Sequence[Path]:
    try:
        entries = sorted(place.iterdir())
    except OSError:  # most users have none
        return ()
    return [entry for entry in entries if (entry / FILE).exists() or (entry / FILE).is_symlink()]
