"""Settings and secrets of real processes: their sources, what is refused, and that no secret is anywhere else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from smooth_operator_core import extension as reference

from sepkit.cli import ExitCode
from sepkit.faces.runner import LoopKind
from sepkit.host import Host, discover
from tests.driver import HANDSHAKE, Extension

PLANTED = "planted-9e107d9d372bb682"

APP = """
import asyncio, logging, os, subprocess, sys
from sepkit import App, ToolContext

assert not any(name.startswith("SEPKIT_SECRET_") for name in os.environ), "taken out before this is imported"
AT_IMPORT = subprocess.run(["env"], capture_output=True, text=True).stdout

app = App("shop")
url = app.setting("base.url", str, default="none", description="Where it is.")
tags = app.setting("tags", list[str], default=[])
app.flag("depth", default=1)

@app.tool
async def read(ctx: ToolContext) -> list:
    return [ctx.setting(url), ctx.setting(tags), ctx.flags["depth"]]

@app.tool
async def write(value: str, ctx: ToolContext) -> None:
    await ctx.set_setting(url, value)

@app.on_setting(url)
async def changed(value: str) -> None:
    logging.getLogger("shop").warning("now %s", value)

@app.tool
async def use(ctx: ToolContext) -> dict:
    found = await ctx.secrets.get("api.key")
    ctx.log.info("secrets: %s %r %s", ctx.secrets, await ctx.secrets.list(), vars(app))
    child = await asyncio.create_subprocess_exec("env", stdout=subprocess.PIPE)
    said, _ = await child.communicate()
    said += subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"], capture_output=True).stdout
    return {"length": len(found or ""), "env": AT_IMPORT + said.decode(), "os": str(os.environ)}

@app.tool
async def fail(ctx: ToolContext) -> None:
    key = await ctx.secrets.get("api.key")
    await ctx.secrets.set("api.key", key)

@app.tool
async def keep(value: str, ctx: ToolContext) -> None:
    await ctx.secrets.set("kept", value)

@app.tool
async def kept(ctx: ToolContext) -> list:
    secret = await ctx.secrets.get("kept")
    return [None if secret is None else len(secret), await ctx.secrets.list()]
"""

# A keyring in a file, for tests of several processes; what it holds is not readable as it is.
RING = """
import json, os
from pathlib import Path
from keyring.backend import KeyringBackend

class Ring(KeyringBackend):
    priority = 5
    file = Path(os.environ["RING"])

    def _read(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def get_password(self, service, username):
        found = self._read().get(f"{service} {username}")
        return found and found[::-1]

    def set_password(self, service, username, password):
        self.file.write_text(json.dumps({**self._read(), f"{service} {username}": password[::-1]}))

    def delete_password(self, service, username):
        kept = self._read()
        del kept[f"{service} {username}"]
        self.file.write_text(json.dumps(kept))
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    left = {name: text for name, text in os.environ.items() if not name.startswith("SEPKIT_")}
    no_ring = {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    return {**left, **no_ring, "SEPKIT_DATA_DIR": str(folder / "data"), **more}


def value(result: Any) -> Any:
    assert not result.get("is_error"), result
    return result.get("details")


def is_anywhere(folder: Path) -> list[Path]:
    """The files that have the planted value in them."""
    return [path for path in folder.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]


def test_settings_come_from_the_host_the_command_line_the_environment_and_the_store(
    tmp_path: Path, loop_kind: LoopKind
) -> None:
    """And a value whose storing was acknowledged is there after SIGKILL."""
    loop = ("--loop", "auto" if loop_kind == "uvloop" else loop_kind)
    with Extension(APP, *loop, env=environment(tmp_path)) as extension:
        assert value(extension.tool("read")) == ["none", [], 1]
        value(extension.tool("write", value="stored"))
        extension.process.send_signal(signal.SIGKILL)
        extension.wait()
    env = environment(tmp_path, SEPKIT_FLAG_TAGS='["a"]', SEPKIT_FLAG_DEPTH="3", SEPKIT_FLAG_OTHERS="x")
    with Extension(APP, *loop, env=env) as extension:
        assert extension.registrations["flags"] == ["base.url", "tags", "depth"]
        assert value(extension.tool("read")) == ["stored", ["a"], 3]
        assert extension.end() == 0
    line = ("--flag", "base.url=5", "--flag", "depth=4")
    with Extension(APP, *loop, *line, env=env, handshake=False) as extension:
        extension.ask("initialize", {**HANDSHAKE, "flags": {"tags": ["b"], "depth": 5}})
        assert value(extension.tool("read")) == ["5", ["b"], 5]
        assert extension.tool("write", value="x")["is_error"]
        assert extension.end() == 0
        assert "setting 'base.url' is fixed by --flag base.url; set it there" in extension.stderr
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data" / "shop").iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_wrong_values_are_said_all_at_once_to_the_host_and_on_stderr(tmp_path: Path) -> None:
    env = environment(tmp_path, SEPKIT_FLAG_DEPTH="deep")
    with Extension(APP, "--flag", "tags=a", "--flag", "tgas=a", env=env, handshake=False) as extension:
        extension.request("initialize", {**HANDSHAKE, "flags": {"base.url": 5}}, 1)
        error = extension.answer(1)["error"]
        said = (
            "the app's flags and settings do not fit: the host's flag base.url: expected string, got integer; "
            "--flag tags: expected array, got string; SEPKIT_FLAG_DEPTH: expected integer, got string; "
            "--flag 'tgas': expected a flag of the app (base.url, tags, depth), got another"
        )
        assert (error["code"], error["message"]) == (-32602, said)
        assert len(error["data"]["errors"]) == 4
        assert extension.wait() == ExitCode.BAD_SETTINGS
        assert said in extension.stderr
        assert "Traceback" not in extension.stderr
    assert not (tmp_path / "data" / "shop" / "app.sqlite3-journal").exists()


@pytest.mark.parametrize("damage", ["newer", "no database", "folder"])
def test_a_store_that_cannot_be_read_is_one_clear_sentence(tmp_path: Path, damage: str) -> None:
    import sqlite3

    data = tmp_path / "data" / "shop"
    data.mkdir(parents=True)
    if damage == "newer":
        with sqlite3.connect(data / "app.sqlite3") as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
    elif damage == "no database":
        (data / "app.sqlite3").write_text("no database, but long enough to be one" * 100)
    else:
        (data / "app.sqlite3").mkdir()
    with Extension(APP, env=environment(tmp_path), handshake=False) as extension:
        extension.request("initialize", HANDSHAKE, 1)
        error = extension.answer(1)["error"]
        assert error["code"] == -32603
        assert re.match(r"the extension could not start: the store \S+app\.sqlite3 failed: \S", error["message"])
        assert extension.wait() == ExitCode.FAILED
        assert re.search(r"StoreError: the store \S+app\.sqlite3 failed: \S", extension.stderr)


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_of_the_environment_is_nowhere_else(tmp_path: Path) -> None:
    """Not in frames, logs, tracebacks, argument lists, on the disk, or in the environment of a child."""
    env = environment(tmp_path, SEPKIT_SECRET_API_KEY=PLANTED)
    with Extension(APP, "--log-level", "trace", env=env) as extension:
        result = extension.tool("use")
        assert value(result)["length"] == len(PLANTED)
        assert PLANTED not in json.dumps(result)
        assert "SEPKIT_SECRET" not in result["details"]["env"] + result["details"]["os"]
        failed = extension.tool("fail")
        assert failed["is_error"]
        argv = Path(f"/proc/{extension.process.pid}/cmdline").read_bytes()
        assert extension.end() == 0
        assert "StoreError: secret 'api.key' is held by SEPKIT_SECRET_API_KEY" in extension.stderr
        left = [] if extension.lines.empty() else [extension.lines.get() for _ in range(extension.lines.qsize())]
        everything = json.dumps(failed) + extension.stderr + str(left) + argv.decode()
        assert PLANTED not in everything
        assert is_anywhere(extension.folder) == []
    assert is_anywhere(tmp_path) == []


def test_without_a_keyring_a_secret_is_not_kept(tmp_path: Path) -> None:
    with Extension(APP, env=environment(tmp_path)) as extension:
        assert extension.tool("keep", value=PLANTED)["is_error"]
        assert value(extension.tool("kept")) == [None, []]
        assert extension.end() == 0
        refusal = "StoreError: secret 'kept' cannot be kept: the system has no keyring that encrypts; start with "
        assert refusal + "SEPKIT_SECRET_KEPT in the environment, or install sepkit[keyring]" in extension.stderr
        assert PLANTED not in extension.stderr
    assert is_anywhere(tmp_path) == []


def test_a_secret_in_the_keyring_outlives_the_process_and_is_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "ring.py").write_text(RING)
    ring = {"PYTHON_KEYRING_BACKEND": "ring.Ring", "PYTHONPATH": str(tmp_path), "RING": str(tmp_path / "ring.json")}
    env = environment(tmp_path, **ring)
    with Extension(APP, "--log-level", "trace", env=env) as extension:
        assert not extension.tool("keep", value=PLANTED).get("is_error")
        assert extension.end() == 0
        assert PLANTED not in extension.stderr
    with Extension(APP, env=env) as extension:
        assert value(extension.tool("kept")) == [len(PLANTED), ["kept"]]
        assert extension.end() == 0
    assert PLANTED[::-1] in (tmp_path / "ring.json").read_text()
    assert is_anywhere(tmp_path) == []


# -- other hosts -------------------------------------------------------------------------------------------------------

MANIFEST = f"""
name = "shop"
version = "1"

[run]
command = {json.dumps(sys.executable)}
args = ["-m", "sepkit", "run", "app:app", "--flag", "base.url=from the manifest"]

[run.env]
SEPKIT_SECRET_API_KEY = "${{env:SHOP_KEY}}"
SEPKIT_FLAG_TAGS = '["a"]'
SEPKIT_DATA_DIR = "${{env:SEPKIT_DATA_DIR}}"
PATH = "${{env:PATH}}"

[capabilities]
tools = true
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of extensions with the app in it, and what its manifest takes of the host's environment."""
    folder = tmp_path / "extensions"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "app.py").write_text(APP)
    (folder / "shop" / "extension.toml").write_text(MANIFEST)
    monkeypatch.setenv("SHOP_KEY", PLANTED)
    monkeypatch.setenv("SEPKIT_DATA_DIR", str(tmp_path / "data"))
    return folder


def check_secret(details: Any) -> None:
    assert details["length"] == len(PLANTED)
    assert "SEPKIT_SECRET" not in details["env"]


@pytest.mark.asyncio
async def test_the_reference_host_gives_settings_and_secrets_by_its_manifest(installed: Path, tmp_path: Path) -> None:
    found, bad = reference.discover(installed, None)
    assert bad == []
    host, failures = await reference.ExtensionHost.load(
        found,
        reference.HostInfo(name="reference", version="1"),
        reference.WorkspaceInfo(root=str(installed), trusted=True),
        "cli",
        [],
        reference.HostDelegate(),
    )
    try:
        assert failures == []
        tools = {tool.name: tool for tool in host.tools()}
        assert json.loads(await tools["shop.read"].execute({})) == ["from the manifest", ["a"], 1]
        check_secret(json.loads(await tools["shop.use"].execute({})))
    finally:
        await host.shutdown_all()
    assert await asyncio.to_thread(is_anywhere, tmp_path) == []


@pytest.mark.asyncio
async def test_sepkits_host_gives_settings_and_secrets_by_its_manifest(installed: Path, tmp_path: Path) -> None:
    async with Host("test", "1", workspace=installed, trusted=True, flags={"base.url": "from the host"}) as host:
        assert await host.load(discover(home=tmp_path)) == []
        result = await host.call_tool("shop.read", {})
        assert result.details == ["from the host", ["a"], 1]
        check_secret((await host.call_tool("shop.use", {})).details)
    assert await asyncio.to_thread(is_anywhere, tmp_path) == []


# -- the verbs ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_inspect_shows_settings_and_call_sets_them(installed: Path, tmp_path: Path) -> None:
    async def sepkit(*words: str) -> tuple[int, str, str]:
        env = environment(tmp_path, SEPKIT_SECRET_API_KEY=PLANTED, SHOP_KEY="")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sepkit", *words, cwd=installed / "shop", env=env, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    code, out, err = await sepkit("inspect", "app:app")
    assert (code, err) == (0, "")
    assert (
        "\nsettings:\n  base.url: string  default 'none'\n      Where it is.\n"
        "      --flag base.url=…, or SEPKIT_FLAG_BASE_URL\n  tags: array  default []\n"
    ) in out
    assert "\nflags:\n  depth  default 1\n" in out
    code, out, _ = await sepkit("call", "app:app", "read", "--flag", "base.url=x", "--flag", 'tags=["t"]')
    assert (code, json.loads(out)) == (0, ["x", ["t"], 1])
    code, out, err = await sepkit("call", "app:app", "use")
    assert code == 0
    assert PLANTED not in out + err
    code, out, err = await sepkit("call", "app:app", "read", "--flag", "tags=x")
    assert (code, out) == (1, "")
    assert "the host's flag tags: expected array, got string" in err
    code, out, err = await sepkit("run", "app:app", "--flag", "n=1", "--flag", "n=2")
    assert code == ExitCode.USAGE
    assert "the flag 'n' is set twice; leave one of them out" in err
