"""What is spawned for an extension: its own command, or a microVM that runs it. Nothing is spawned here.

Source: docs/protocol.md, section 10.
"""

from __future__ import annotations

import shutil

from sepkit.host.manifest import Manifest, ManifestError, Sandbox, inherited


def command_of(manifest: Manifest, *, isolation: bool) -> tuple[list[str], dict[str, str]]:
    """The command, and its whole environment.

    Args:
        manifest: The extension's.
        isolation: Whether the host may run extensions in a sandbox.

    Raises:
        ManifestError: It wants a sandbox that this host cannot give it.
    """
    run, sandbox = manifest.run, manifest.sandbox
    if sandbox is None:
        return [run.command, *run.args], manifest.environment()
    if not isolation:
        raise ManifestError(f"{manifest.name} wants to run in a sandbox, and this host was not asked for isolation")
    # msb itself runs outside: a PATH or an LD_PRELOAD that the manifest names must not reach it.
    outside = inherited()
    path = outside.get("PATH", "")
    if (msb := shutil.which("msb", path=path)) is None:
        raise ManifestError(f"{manifest.name} wants to run in a sandbox, and there is no msb on PATH {path!r}")
    return [msb, *_sandbox_options(sandbox, manifest.named()), "--", run.command, *run.args], outside


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
