"""The pytest plugin and the host in real pytest runs: each mode that its users have, and what a failure looks like."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import asyncio
import logging
from contextlib import asynccontextmanager
from sepkit import App, ToolContext

life = []

@asynccontextmanager
async def lifespan(app):
    life.append("begun")
    yield  # no `finally`: whoever is merely cancelled does not come to the next line
    life.append("ended")

app = App("hello", lifespan=lifespan)

def check_all_have_ended():
    assert life.count("ended") == life.count("begun")
    assert "WireHandler" not in str(logging.getLogger().handlers)

@app.tool
async def greet(name: str, ctx: ToolContext) -> str:
    await ctx.kv.set("greeted", name)
    return f"Hello, {name}!"

@app.tool
async def an_hour() -> str:
    await asyncio.sleep(3600)
    return "over"

@app.tool
async def break_protocol(ctx: ToolContext) -> str:
    ctx._link.peer.notify("kv/rename", {})
    return ""
"""

STRICT = """
import asyncio
import pytest
import pytest_asyncio
from sepkit.testing import TestHost
from app import app, check_all_have_ended

@pytest.mark.asyncio
async def test_block():
    async with TestHost(app) as host:
        assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada!"

@pytest_asyncio.fixture
async def host():
    async with TestHost(app) as host:
        yield host

@pytest.mark.asyncio
async def test_fixture(host):
    assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada!"

@pytest.mark.asyncio
async def test_factory(sepkit_host):
    first, second = await sepkit_host(app, kv={"a": 1}), await sepkit_host(app)
    await first.call_tool("greet", {"name": "Ada"})
    assert (first.kv, second.kv) == ({"a": 1, "greeted": "Ada"}, {})
    async with sepkit_host(app) as third:
        await third.ping()

def test_factory_has_closed_them():
    check_all_have_ended()

@pytest.mark.virtual_clock
async def test_virtual(sepkit_host):
    host = await sepkit_host(app)
    assert (await host.call_tool("an_hour", timeout=4000)).content == "over"
    assert asyncio.get_running_loop().time() == 3600

class TestMethods:
    @pytest.mark.virtual_clock
    @pytest.mark.asyncio
    async def test_virtual_and_asyncio(self, tmp_path):
        await asyncio.sleep(3600)
        assert asyncio.get_running_loop().time() == 3600

def test_all_have_ended():
    check_all_have_ended()
"""

SYNC = """
import pytest
from sepkit.testing import TestHost
from app import app, check_all_have_ended

def test_block():
    with TestHost(app) as host:
        assert host.call_tool("greet", {"name": "Ada"}).content == "Hello, Ada!"

@pytest.fixture
def host():
    with TestHost(app) as host:
        yield host

def test_fixture(host):
    assert host.call_tool("greet", {"name": "Ada"}).content == "Hello, Ada!"

def test_factory(sepkit_host):
    host = sepkit_host(app).blocking()
    assert host.call_tool("greet", {"name": "Ada"}).content == "Hello, Ada!"
    with sepkit_host(app) as second:
        second.ping()

def test_factory_has_closed_it():
    check_all_have_ended()

def test_factory_unused(sepkit_host):
    sepkit_host(app)

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.virtual_clock
async def test_virtual(n, sepkit_host):
    host = await sepkit_host(app)
    assert (await host.call_tool("an_hour", timeout=4000)).content == "over"
"""

ANYIO = """
import anyio
import pytest
from sepkit.testing import TestHost
from app import app, check_all_have_ended

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def host():
    async with anyio.create_task_group() as group:
        async with TestHost(app) as host:
            yield host
        group.cancel_scope.cancel()

async def test_fixture(host):
    with anyio.fail_after(20):
        assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada!"

async def test_block():
    async with TestHost(app) as host:
        with anyio.move_on_after(0.01) as scope:
            await host.call_tool("an_hour")
        assert scope.cancelled_caught

async def test_factory(sepkit_host):
    host = await sepkit_host(app)
    await host.call_tool("greet", {"name": "Ada"})

def test_factory_has_closed_it():
    check_all_have_ended()
"""

AUTO = """
import asyncio
import pytest
from sepkit.testing import TestHost
from app import app, check_all_have_ended

@pytest.fixture
async def host():
    async with TestHost(app) as host:
        yield host

async def test_fixture(host):
    assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada!"

async def test_factory(sepkit_host):
    host = await sepkit_host(app)
    assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada!"

@pytest.mark.virtual_clock
async def test_virtual(sepkit_host):
    host = await sepkit_host(app)
    assert (await host.call_tool("an_hour", timeout=4000)).content == "over"

@pytest.mark.asyncio(loop_scope="module")
async def test_wider_loop(sepkit_host):
    await (await sepkit_host(app)).ping()

@pytest.fixture
async def made(sepkit_host):
    return await sepkit_host(app)

async def test_made_by_a_fixture(made):
    await made.ping()

def test_all_have_ended():
    check_all_have_ended()
"""

FAILING = """
import pytest
from sepkit.testing import TestHost
from app import app, check_all_have_ended

@pytest.mark.asyncio
async def test_block():
    async with TestHost(app) as host:
        await host.call_tool("break_protocol")

@pytest.mark.asyncio
async def test_factory(sepkit_host):
    await (await sepkit_host(app)).call_tool("break_protocol")

def test_factory_without_a_loop(sepkit_host):
    sepkit_host(app).blocking().call_tool("break_protocol")

@pytest.mark.virtual_clock
async def test_factory_on_a_virtual_clock(sepkit_host):
    await (await sepkit_host(app)).call_tool("break_protocol")

@pytest.mark.virtual_clock
def test_marked_by_mistake():
    pass

@pytest.mark.asyncio
async def test_the_bodys_own():
    async with TestHost(app) as host:
        await host.call_tool("break_protocol")
        assert "mine" == "yours"

@pytest.fixture
def broken(sepkit_host):
    sepkit_host(app).blocking()
    raise RuntimeError("no database")

def test_broken_set_up(broken):
    pass

def test_all_have_ended():
    check_all_have_ended()

def test_the_bodys_own_before_the_factory(sepkit_host):
    sepkit_host(app).blocking().call_tool("break_protocol")
    assert "mine" == "yours"
"""

ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function")  # without it, pytest-asyncio warns
BARE = ("-p", "no:asyncio", "-p", "no:anyio")


def run_pytest(folder: Path, files: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on test files, beside the app, with warnings as errors."""
    for name, source in {"app.py": APP, **files}.items():
        (folder / name).write_text(source, encoding="utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nfilterwarnings = error\naddopts = --strict-markers -p no:cacheprovider\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["COLUMNS"] = "200"  # to which pytest cuts the reasons of its summary
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=50)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many tests passed, failed, and had errors."""
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    return {
        kind.rstrip("s"): int(count) for count, kind in re.findall(r"(\d+) (passed|failed|errors?|warnings?)", last)
    }


def test_it_works_under_pytest_asyncio_anyio_and_without_a_loop(tmp_path: Path) -> None:
    """The strict mode of pytest-asyncio: block, async fixture, factory, virtual clock; anyio's plugin beside it."""
    files = {"test_strict.py": STRICT, "test_sync.py": SYNC, "test_anyio.py": ANYIO}
    done = run_pytest(tmp_path, files, *ASYNCIO, "-o", "asyncio_mode=strict")
    assert outcomes(done) == {"passed": 7 + 7 + 4}, done.stdout + done.stderr
    assert done.returncode == 0


def test_it_works_in_the_auto_mode(tmp_path: Path) -> None:
    """Where pytest-asyncio takes all async tests and fixtures for its own."""
    done = run_pytest(tmp_path, {"test_auto.py": AUTO}, *ASYNCIO, "-o", "asyncio_mode=auto")
    assert outcomes(done) == {"passed": 6}, done.stdout + done.stderr


def test_it_works_without_plugins_for_coroutines(tmp_path: Path) -> None:
    """Neither pytest-asyncio nor anyio: importing either fails, as where they are not installed."""
    blocked = "import sys\nfor name in ('pytest_asyncio', 'anyio'):\n    sys.modules[name] = None\n"
    done = run_pytest(tmp_path, {"conftest.py": blocked, "test_sync.py": SYNC}, *BARE)
    assert outcomes(done) == {"passed": 7}, done.stdout + done.stderr


def test_a_failure_names_what_the_extension_did(tmp_path: Path) -> None:
    """A fault fails the test, at the end of the block or of the test; what the body raised stays what it was."""
    done = run_pytest(tmp_path, {"test_failing.py": FAILING}, *ASYNCIO)
    summary = [line for line in done.stdout.splitlines() if re.match(r"(FAILED|ERROR|PASSED) test_", line)]
    found = {(line.split()[0], line.split("::")[1].split()[0]): line.partition(" - ")[2] for line in summary}
    for name in ("test_block", "test_factory", "test_factory_without_a_loop", "test_factory_on_a_virtual_clock"):
        assert found.pop(("FAILED", name)).startswith(
            "sepkit.testing.inspection.ProtocolViolation: the extension broke the protocol: an extension sends no"
        )
    assert "is no `async def`" in found.pop(("FAILED", "test_marked_by_mistake"))
    for name in ("test_the_bodys_own", "test_the_bodys_own_before_the_factory"):
        assert "AssertionError: assert 'mine'" in found.pop(("FAILED", name))
    assert "RuntimeError: no database" in found.pop(("ERROR", "test_broken_set_up"))
    assert found.pop(("PASSED", "test_all_have_ended")) == ""
    assert not found
    assert '"method":"kv/rename"' in done.stdout
    assert "ExceptionGroup" not in done.stdout


def test_the_plugin_imports_nothing_of_its_own_before_it_is_used(tmp_path: Path) -> None:
    """It is imported wherever sepkit is installed, in runs that have nothing to do with it.

    Python imports the package around it as well; beyond that there is nothing.
    """
    test = """
import subprocess
import sys

def test_nothing_is_imported():
    ours = {name for name in sys.modules if name.partition(".")[0] == "sepkit"}
    program = "import sepkit, sys; print(*(name for name in sys.modules if name.partition('.')[0] == 'sepkit'))"
    package = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ours - set(package.stdout.split()) == {"sepkit.testing", "sepkit.testing.plugin"}
    assert "sepkit.testing.host" not in ours and "sepkit.faces.sep.dispatcher" not in ours

def test_until_it_is_used(sepkit_host):
    assert "sepkit.testing.host" in sys.modules
"""
    done = run_pytest(tmp_path, {"test_nothing.py": test}, *BARE)
    assert outcomes(done) == {"passed": 2}, done.stdout + done.stderr


@pytest.mark.timeout(120)
def test_the_test_host_is_typed_as_its_users_expect() -> None:
    """Under ``--strict`` mypy reports each wrong use: an accepted mistake would be an unused ignore."""
    project = Path(__file__).parents[2]
    command = [sys.executable, "-m", "mypy", "--config-file", "setup.cfg", "--no-error-summary"]
    file = str(Path(__file__).parent / "typed_sample.py")
    done = subprocess.run([*command, file], cwd=project, capture_output=True, text=True, check=False, timeout=110)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
