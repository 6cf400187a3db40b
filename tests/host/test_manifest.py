"""``extension.toml``: what is found, what it may say, what becomes of it, and that a bad one harms no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit.errors import NotTrusted
from sepkit.host import Host, ManifestError, discover, read
from sepkit.host.manifest import GROUPS, expand, home_folder
from sepkit.transports.process import MARK
from sepkit.wire import messages

PLAIN = Path(__file__).with_name("children") / "plain.py"
PATIENCE = 20.0


def written(place: Path, folder: str, text: str | bytes = "", **fields: object) -> Path:
    """An extension's folder; ``fields`` are written before ``text``."""
    root = place / folder
    root.mkdir(parents=True, exist_ok=True)
    if isinstance(text, str):
        said = {"name": folder, "version": "1", **fields}
        lines = [f"{name} = {json.dumps(value)}" for name, value in said.items() if value is not None]
        text = ("\n".join(lines) + "\n" + (text or '[run]\ncommand = "true"\n')).encode()
    (root / "extension.toml").write_bytes(text)
    return root


def plain(place: Path, name: str, said: Mapping[str, Any] | None = None, more: str = "", **fields: object) -> Path:
    """An extension that can be started, with all tools granted unless ``more`` has ``[capabilities]``."""
    args = json.dumps([str(PLAIN), json.dumps(said or {})])
    run = f"[run]\ncommand = {json.dumps(sys.executable)}\nargs = {args}\n"
    granted = "" if "[capabilities]" in more else "[capabilities]\ntools = true\n"
    return written(place, name, run + more + granted, **fields)


async def seen(host: Host, name: str) -> Any:
    return json.loads((await asyncio.wait_for(host.call_tool(f"{name}.seen"), PATIENCE)).content)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``$SMOOTH_HOME``."""
    monkeypatch.setenv("SMOOTH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


# -- what it says ------------------------------------------------------------------------------------------------------

WHOLE = """
name = "hello"
version = "0.1.0"
protocol = 1
hook_timeout_ms = 2500
disabled = true
unknown = "ignored"
[run]
command = "python3"
args = ["-m", "sepkit", "run", "app:app"]
env = { TOKEN = "${env:TOKEN}" }
sha256 = "00ff"
[capabilities]
events = ["turn_start"]
tools = true
kv = true
telepathy = true
[resources]
skills = "some/skills"
[sandbox]
image = "python:3.12"
memory = "512m"
cpus = 2
network = "egress"
allow_domains = ["example.org"]
"""


def test_all_that_a_manifest_may_say_is_read(tmp_path: Path) -> None:
    """Every field of the manifest is read, and unknown fields are ignored. Source: docs/protocol.md, section 10."""
    said = read(written(tmp_path, "hello", WHOLE.encode()))
    assert (said.name, said.version, said.protocol, said.hook_timeout, said.disabled) == (
        "hello",
        "0.1.0",
        1,
        2.5,
        True,
    )
    assert said.root == tmp_path / "hello"
    assert (said.run.command, said.run.args) == ("python3", ["-m", "sepkit", "run", "app:app"])
    assert (said.run.env, said.run.sha256) == ({"TOKEN": "${env:TOKEN}"}, "00ff")
    assert said.capabilities.events == ["turn_start"]
    assert {group for group, granted in said.capabilities.grants().items() if granted} == {"tools", "kv"}
    assert said.resources == {"skills": tmp_path / "hello" / "some/skills"}
    assert said.sandbox is not None
    assert (said.sandbox.image, said.sandbox.memory, said.sandbox.cpus) == ("python:3.12", "512m", 2)
    assert (said.sandbox.network, said.sandbox.allow_domains) == ("egress", ["example.org"])


def test_what_a_manifest_leaves_out_grants_nothing(tmp_path: Path) -> None:
    """Only name, version and the command are required; what is left out grants nothing.

    Source: docs/protocol.md, section 10.
    """
    said = read(written(tmp_path, "small"))
    assert (said.protocol, said.hook_timeout, said.disabled, said.sandbox) == (1, None, False, None)
    assert said.capabilities.grants() == dict.fromkeys(GROUPS, False)
    assert said.capabilities.events == []


def test_secrets_are_not_in_the_text_of_a_manifest(tmp_path: Path) -> None:
    """A manifest that is logged tells no variable."""
    said = read(written(tmp_path, "ext", '[run]\ncommand = "true"\nenv = { TOKEN = "planted" }'))
    assert "planted" not in repr(said)


def leads_up(root: Path) -> str:
    return "../other"


def is_absolute(root: Path) -> str:
    return "/etc"


def links_out(root: Path) -> str:
    (root / "skills").symlink_to("/etc")
    return "skills"


def links_out_on_the_way(root: Path) -> str:
    (root / "to").symlink_to("/")
    return "to/etc"


def comes_back_in_through_a_link(root: Path) -> str:
    (root / "to").symlink_to("..")
    return "to/other"


def goes_round(root: Path) -> str:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    return "a/skills"


def is_a_pipe(root: Path) -> str:
    os.mkfifo(root / "pipe")
    return "pipe"


def is_a_device(root: Path) -> str:
    (root / "zero").symlink_to("/dev/zero")
    return "zero"


def has_a_nul(root: Path) -> str:
    return "a\\u0000b"


def is_too_long(root: Path) -> str:
    return "x" * 5_000


@pytest.mark.parametrize(
    "make",
    [
        *(leads_up, is_absolute, links_out, links_out_on_the_way, comes_back_in_through_a_link, goes_round),
        *(is_a_pipe, is_a_device, has_a_nul, is_too_long),
    ],
)
@pytest.mark.timeout(10)
def test_resources_stay_in_the_folder_of_the_extension(tmp_path: Path, make: Callable[[Path], str]) -> None:
    """What leads out of it, or is neither a folder nor a file, is a fault of the manifest, with its path."""
    root = written(tmp_path, "ext")
    (tmp_path / "other").mkdir()
    place = make(root)
    written(tmp_path, "ext", f'{RUN}[resources]\nthemes = "themes"\nskills = "{place}"\n')
    with pytest.raises(
        ManifestError, match=r"\$\.resources\.skills: expected a place in the extension's folder"
    ) as caught:
        read(root)
    assert "$.resources.themes" not in str(caught.value)


def test_resources_within_the_folder_are_told_without_links(tmp_path: Path) -> None:
    """A link that stays inside is followed once, when the manifest is read: turned later, it leads nowhere else."""
    root = written(
        tmp_path,
        "ext",
        f'{RUN}[resources]\nskills = "now"\nthemes = "there/../one.json"\nprompts = "absent"\nown = "."\n',
    )
    for name in ("v1", "there"):
        (root / name).mkdir()
    (root / "one.json").write_text("{}")
    (root / "now").symlink_to("v1")
    said = read(root)
    (root / "now").unlink()
    (root / "now").symlink_to("/etc")
    assert said.resources == {
        "skills": root / "v1",
        "themes": root / "one.json",
        "prompts": root / "absent",
        "own": root,
    }


# -- where they are found ----------------------------------------------------------------------------------------------


def test_home_is_smooth_home_else_in_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder is ``$SMOOTH_HOME``, else ``~/.smooth``; an empty variable counts as not set.

    Source: docs/protocol.md, section 10.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SMOOTH_HOME", "/somewhere")
    assert home_folder() == Path("/somewhere")
    for unset in ({}, {"SMOOTH_HOME": ""}):
        assert home_folder(unset) == tmp_path / ".smooth"
    monkeypatch.delenv("SMOOTH_HOME")
    written(tmp_path / ".smooth" / "extensions", "mine")
    assert [found.name for found in discover().manifests] == ["mine"]


def test_extensions_of_both_places_are_found_in_the_order_of_their_names(home: Path, workspace: Path) -> None:
    """Extensions are in the order of their names, not of their folders. Source: docs/protocol.md, section 10."""
    written(home / "extensions", "folder-1", name="zebra")
    written(home / "extensions", "folder-2", name="bear")
    written(workspace / ".smooth" / "extensions", "folder-0", name="cat")
    found = discover(workspace)
    assert [one.name for one in found.chosen(trusted=True)] == ["bear", "cat", "zebra"]
    assert [one.scope for one in found.chosen(trusted=True)] == ["global", "project", "global"]
    assert found.problems == ()


def test_on_the_same_name_the_trusted_projects_wins(home: Path, workspace: Path) -> None:
    """If both places have an extension of one name, that of the trusted workspace is taken.

    Source: docs/protocol.md, section 10.
    """
    written(home / "extensions", "gate", version="global")
    written(workspace / ".smooth" / "extensions", "gate", version="project")
    assert [one.version for one in discover(workspace).chosen(trusted=True)] == ["project"]


def test_who_works_in_the_home_folder_has_its_extensions_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are the user's own, and not those of a project that would have to be trusted."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SMOOTH_HOME", raising=False)
    written(tmp_path / ".smooth" / "extensions", "mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for workspace in (tmp_path, tmp_path / "link"):
        found = discover(workspace)
        assert [one.scope for one in found.chosen(trusted=False)] == ["global"]
        assert (list(found.untrusted()), list(found.problems)) == ([], [])


def test_an_untrusted_project_takes_no_part(home: Path, workspace: Path) -> None:
    """Host: it neither loads, nor takes the place of a gate, nor switches it off."""
    written(home / "extensions", "gate", version="global")
    written(workspace / ".smooth" / "extensions", "gate", version="project", disabled=True)
    written(workspace / ".smooth" / "extensions", "spy")
    found = discover(workspace)
    assert [(one.name, one.version) for one in found.chosen(trusted=False)] == [("gate", "global")]
    assert [one.name for one in found.untrusted()] == ["spy"]


def test_a_host_starts_nothing_of_an_untrusted_project_and_says_so(home: Path, workspace: Path) -> None:
    """Project extensions load only in a trusted workspace. Source: docs/protocol.md, section 10."""

    async def main() -> None:
        plain(workspace / ".smooth" / "extensions", "spy")
        plain(home / "extensions", "mine")
        found = discover(workspace)
        async with Host(workspace=workspace) as host:
            problems = await host.load(found)
            assert [(one.name, type(one.error)) for one in problems] == [("spy", NotTrusted)]
            assert [one.name for one in host.status()] == ["mine"]
            (problem,) = await host.load(found.untrusted())
            assert (problem.name, type(problem.error), len(host.status())) == ("spy", NotTrusted, 1)
        async with Host(workspace=workspace, trusted=True) as host:
            assert await host.load(found) == []
            assert [(one.name, one.state) for one in host.status()] == [("mine", "ready"), ("spy", "ready")]

    asyncio.run(main())


def test_a_disabled_extension_is_found_and_not_loaded(home: Path, workspace: Path) -> None:
    """``disabled`` is respected; a trusted workspace may switch off an extension of its user.

    Source: docs/protocol.md, section 10.
    """
    written(home / "extensions", "off", disabled=True)
    written(home / "extensions", "replaced")
    written(workspace / ".smooth" / "extensions", "replaced", disabled=True)
    found = discover(workspace)
    assert sorted(one.name for one in found.manifests) == ["off", "replaced", "replaced"]
    assert found.chosen(trusted=True) == []

    async def main() -> None:
        async with Host() as host:
            assert await host.load(found.manifests[:1]) == []
            assert host.status() == []

    asyncio.run(main())


def test_no_folders_at_all_are_no_problem(home: Path, workspace: Path) -> None:
    """Most users have none."""
    found = discover(workspace)
    assert (found.manifests, found.problems) == ((), ())
    (home / "extensions").mkdir(parents=True)
    (home / "extensions" / "README").write_text("not an extension")
    (home / "extensions" / "empty").mkdir()
    found = discover(workspace)
    assert (found.manifests, found.problems) == ((), ())


# -- bad ones ----------------------------------------------------------------------------------------------------------

RUN = '[run]\ncommand = "true"\n'

BAD: dict[str, tuple[str | bytes, list[str]]] = {
    "no toml": (b"name = ", ["no TOML"]),
    "json": (b'{"name": "x"}', ["no TOML"]),
    "bad utf-8": (b'name = "\xff"', ["no TOML", "utf-8"]),
    "nul": (b"\0\0\0", ["no TOML"]),
    "utf-16": ('name = "x"'.encode("utf-16"), ["no TOML"]),
    "5,000 digits": (b"x = " + b"1" * 5000, ["no TOML"]),
    "10,000 brackets": (b"x = " + b"[" * 10_000, ["no TOML"]),
    "too long": (b"# " + b"x" * 32_768, ["more than 32768 bytes"]),
    "empty": (b"", ["$: expected a field 'name'", "a field 'version'", "a field 'run'"]),
    "no command": (b'name = "x"\nversion = "1"\n[run]', ["$.run: expected a field 'command'"]),
    "wrong types": (
        b"""
        name = 1
        version = true
        protocol = "1"
        hook_timeout_ms = 1.5
        disabled = "no"
        [run]
        command = ["x"]
        args = "x"
        env = { A = 1 }
        [capabilities]
        events = "turn_start"
        tools = "yes"
        [sandbox]
        network = "everything"
        """,
        [
            "$.name: expected string, got integer",
            "$.version: expected string, got boolean",
            "$.protocol: expected",
            "$.hook_timeout_ms: expected",
            "$.disabled: expected boolean, got string",
            "$.run.command: expected string, got array",
            "$.run.args: expected array, got string",
            "$.run.env.A: expected string, got integer",
            "$.capabilities.events: expected array, got string",
            "$.capabilities.tools: expected boolean, got string",
            "$.sandbox: expected a field 'image'",
            "$.sandbox.network: expected",
        ],
    ),
    "no time": (f'name = "x"\nversion = "1"\nhook_timeout_ms = 0\n{RUN}'.encode(), ["$.hook_timeout_ms"]),
    "protocol 0": (f'name = "x"\nversion = "1"\nprotocol = 0\n{RUN}'.encode(), ["$.protocol"]),
    "slashes": (f'name = "../../etc"\nversion = 1\n{RUN}'.encode(), ["$.name: expected letters", "$.version"]),
    "no name": (f'name = ""\nversion = "1"\n{RUN}'.encode(), ["$.name: expected letters"]),
    "line end": (f'name = "x\\n"\nversion = "1"\n{RUN}'.encode(), ["$.name: expected letters"]),
    "dots": (f'name = ".."\nversion = "1"\n{RUN}'.encode(), ["$.name: expected letters"]),
    "nuls": (
        b'name = "x"\nversion = "1"\n[run]\ncommand = "a\\u0000"\nargs = ["b", "\\u0000"]\nenv = { C = "\\u0000" }',
        ["$.run.command: expected text without NUL", "$.run.args[1]: expected text", "$.run.env.C: expected text"],
    ),
    "variables": (
        b'name = "x"\nversion = "1"\n[run]\ncommand = "a"\nenv = { "A=B" = "", "" = "" }',
        ["$.run.env['A=B']: expected a variable", "$.run.env['']: expected a variable"],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_manifest_is_reported_with_its_file_and_every_fault(home: Path, kind: str) -> None:
    """A bad manifest is reported, with all faults at once, and the rest load. Source: docs/protocol.md, section 10."""
    text, said = BAD[kind]
    written(home / "extensions", "good")
    assert isinstance(text, bytes)
    folder = written(home / "extensions", "bad", text)
    found = discover()
    assert [one.name for one in found.chosen(trusted=True)] == ["good"]
    (problem,) = found.problems
    assert problem.name == "bad"
    assert isinstance(problem.error, ManifestError)
    for part in (str(folder / "extension.toml"), *said):
        assert part in str(problem)
    with pytest.raises(ManifestError):
        read(folder)


def a_folder(file: Path) -> None:
    file.mkdir()


def a_dangling_link(file: Path) -> None:
    file.symlink_to(file.parent / "gone")


def a_link_to_itself(file: Path) -> None:
    file.symlink_to(file)


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


def an_endless_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [a_folder, a_dangling_link, a_link_to_itself, a_pipe, an_endless_device])
@pytest.mark.timeout(10)
def test_what_is_no_file_is_reported_at_once(home: Path, make: Callable[[Path], None]) -> None:
    """Host: an untrusted project's manifests are read, too, and may be made to hang or fill whoever reads them."""
    written(home / "extensions", "good")
    folder = home / "extensions" / "bad"
    folder.mkdir()
    make(folder / "extension.toml")
    found = discover()
    assert [one.name for one in found.chosen(trusted=True)] == ["good"]
    assert [one.name for one in found.problems] == ["bad"]
    assert str(folder / "extension.toml") in str(found.problems[0])


def test_a_link_to_a_folder_that_is_gone_is_reported(home: Path, tmp_path: Path) -> None:
    """Host: who has linked an extension there relies on it."""
    written(tmp_path, "real")
    (home / "extensions").mkdir(parents=True)
    (home / "extensions" / "linked").symlink_to(tmp_path / "real")
    (home / "extensions" / "gone").symlink_to(tmp_path / "nowhere")
    found = discover()
    assert [one.name for one in found.chosen(trusted=True)] == ["real"]
    assert [one.name for one in found.problems] == ["gone"]


def test_two_of_the_same_name_in_one_place_are_reported(home: Path) -> None:
    """Host: an extension never takes the place of another without a word."""
    written(home / "extensions", "a", name="gate", version="first")
    written(home / "extensions", "b", name="gate", version="second")
    found = discover()
    assert [one.version for one in found.chosen(trusted=True)] == ["first"]
    assert [one.name for one in found.problems] == ["b"]
    assert "'gate' is taken" in str(found.problems[0])


@contextlib.contextmanager
def nobody_special() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_reported_and_the_rest_load() -> None:
    """Host: a file, a folder, or the place of all of them."""
    with tempfile.TemporaryDirectory() as top:
        home = Path(top)
        home.chmod(0o755)
        for name in ("file", "folder", "good"):
            written(home / "extensions", name)
        (home / "extensions" / "file" / "extension.toml").chmod(0)
        (home / "extensions" / "folder").chmod(0)
        with nobody_special():
            found = discover(home=home)
        assert [one.name for one in found.chosen(trusted=True)] == ["good"]
        assert [one.name for one in found.problems] == ["file", "folder"]
        (home / "extensions").chmod(0)
        with nobody_special():
            found = discover(home=home)
        assert found.manifests == ()
        assert [one.name for one in found.problems] == [str(home / "extensions")]
        (home / "extensions").chmod(0o755)


def test_bad_ones_are_told_by_the_host_and_the_rest_are_ready(home: Path) -> None:
    """The host reports a bad manifest, and loads the rest. Source: docs/protocol.md, section 10."""

    async def main() -> None:
        plain(home / "extensions", "good")
        written(home / "extensions", "bad", b"=")
        written(home / "extensions", "missing", '[run]\ncommand = "no-such-command-here"\n')
        async with Host() as host:
            problems = await host.load(discover())
            assert sorted(one.name for one in problems) == ["bad", "missing"]
            assert {one.name: one.state for one in host.status()} == {"good": "ready", "missing": "failed"}

    asyncio.run(main())


# -- its environment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written_as", "becomes"),
    [
        ("plain", "plain"),
        ("${env:SET}", "value"),
        ("a${env:SET}b${env:SET}c", "avaluebvaluec"),
        ("${env:UNSET}", ""),
        ("<${env:}>", "<>"),
        ("${env:SET", "${env:SET"),
        ("${env:", "${env:"),
        ("${env:SET}${env:", "value${env:"),
        ("$SET ${SET} $env:SET", "$SET ${SET} $env:SET"),
        ("${env:NESTED}", "${env:SET}"),
        ("", ""),
    ],
)
def test_a_variable_of_the_host_stands_where_it_is_asked_for(written_as: str, becomes: str) -> None:
    """A variable that is not set is empty, an unclosed ``${env:`` stays, and values are not expanded again.

    Source: docs/protocol.md, section 10.
    """
    assert expand(written_as, {"SET": "value", "NESTED": "${env:SET}"}) == becomes


@given(st.lists(st.tuples(st.text("ab$ ", max_size=3), st.sampled_from(["A", "B", "NONE", ""])), max_size=5))
def test_text_around_variables_is_kept(parts: list[tuple[str, str]]) -> None:
    """Text around ``${env:…}`` is kept. Source: docs/protocol.md, section 10."""
    values = {"A": "${env:B}", "B": "}"}
    text = "".join(f"{before}${{env:{name}}}" for before, name in parts)
    assert expand(text, values) == "".join(before + values.get(name, "") for before, name in parts)


def test_the_environment_is_the_allow_list_and_what_the_manifest_names(tmp_path: Path) -> None:
    """The child's environment is the allow-list and what the manifest names."""
    host = {
        **{name: name.lower() for name in ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM")},
        "SystemRoot": "C:",
        "AWS_SECRET_ACCESS_KEY": "planted",
        "PYTHONPATH": "planted",
        "LD_PRELOAD": "planted",
        "PATHS": "planted",
        "path": "planted",
        "TOKEN": "wanted",
    }
    text = f'{RUN}env = {{ KEY = "${{env:TOKEN}}", HOME = "/elsewhere", NONE = "${{env:NOBODY}}" }}'
    environment = read(written(tmp_path, "ext", text)).environment(host)
    assert environment == {
        **{name: name.lower() for name in ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM")},
        "SystemRoot": "C:",
        "HOME": "/elsewhere",
        "KEY": "wanted",
        "NONE": "",
    }
    assert read(written(tmp_path, "ext", RUN)).environment({"SECRET": "planted"}) == {}


def test_a_planted_secret_does_not_reach_the_child(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted secret is absent from a real child's environment, and the child starts in its own folder.

    Source: docs/protocol.md, section 10.
    """
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("WANTED", "given")

    async def main() -> None:
        folder = plain(home / "extensions", "ext", more='env = { TOKEN = "${env:WANTED}", EMPTY = "${env:NOBODY}" }\n')
        async with Host() as host:
            assert await host.load(discover()) == []
            about = await seen(host, "ext")
        assert "planted" not in json.dumps(about["env"])
        named = {"TOKEN": "given", "EMPTY": ""}
        allowed = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM")
        expected = {**named, **{name: os.environ[name] for name in allowed if name in os.environ}}
        assert about["env"].pop(MARK)
        # Python itself sets LC_CTYPE in the C locale.
        assert {**about["env"], "LC_CTYPE": ""} == {**expected, "LC_CTYPE": ""}
        assert Path(about["cwd"]) == folder.resolve()

    asyncio.run(main())


# -- capabilities ------------------------------------------------------------------------------------------------------

ALL = {
    "commands": [{"name": "c", "description": ""}],
    "shortcuts": [{"key": "ctrl+p", "command": "c"}],
    "providers": [{"name": "p", "models": [{"id": "m"}]}],
    "subscriptions": ["turn_start", "turn_end", "message_end"],
    "hooks": ["tool_call"],
    "flags": ["f"],
}


@pytest.mark.parametrize(
    ("granted", "kept"),
    [
        ("", {"subscriptions"}),
        ("tools = true", {"tools", "subscriptions"}),
        ("commands = true", {"commands", "shortcuts", "subscriptions"}),
        ("providers = true", {"providers", "subscriptions"}),
        ("tools = false\nui = true\nexec = true\nkv = true\nbus = true\nsession = true", {"subscriptions"}),
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),  # the same in each process
)
def test_what_was_not_granted_is_not_registered(home: Path, granted: str, kept: set[str]) -> None:
    """A capability that was not granted registers nothing; hooks and flags cannot be withheld, so no gate is lost.

    Source: docs/protocol.md, section 10.
    """

    async def main() -> None:
        plain(home / "extensions", "ext", {"registrations": ALL}, f"[capabilities]\n{granted}\n")
        async with Host() as host:
            assert await host.load(discover()) == []
            said = host.registrations("ext")
            kinds = ("tools", "commands", "shortcuts", "providers", "subscriptions")
            assert {kind for kind in kinds if getattr(said, kind)} == kept
            assert (said.hooks, said.flags) == (["tool_call"], ["f"])
            assert bool(host.tools()) == ("tools" in kept)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("events", "kept"),
    [
        ([], ["turn_start", "turn_end", "message_end"]),
        (["turn_end", "agent_start"], ["turn_end"]),
        (["agent_start"], []),
    ],
    ids=repr,
)
def test_subscriptions_stay_within_the_bound_of_the_manifest(home: Path, events: list[str], kept: list[str]) -> None:
    """``events`` bounds the subscriptions; [] sets no bound. Source: docs/protocol.md, section 10."""

    async def main() -> None:
        plain(home / "extensions", "ext", {"registrations": ALL}, f"[capabilities]\nevents = {events}\n")
        async with Host() as host:
            assert await host.load(discover()) == []
            assert host.registrations("ext").subscriptions == kept

    asyncio.run(main())


def test_the_handshake_tells_what_was_granted(home: Path) -> None:
    """``capabilities_enabled`` says what was granted; only an extension that may use ui is told its kinds.

    Source: docs/protocol.md, section 3.
    """
    said = read(written(home, "ext", f"{RUN}[capabilities]\nkv = true\n"))
    handshake: messages.InitializeParams = Host(store=home / "kv")._handshake(said)
    assert handshake.capabilities_enabled == {**dict.fromkeys(GROUPS, False), "kv": True, "tasks": True}
    assert handshake.ui_capabilities == []


def test_hook_timeout_ms_overrides_the_time_of_a_hook(home: Path) -> None:
    """Without ``hook_timeout_ms`` a ``tool_call`` would wait for 60 s. Source: docs/protocol.md, section 6."""

    async def main() -> None:
        said = {
            "registrations": {"hooks": ["tool_call", "input"]},
            "hooks": dict.fromkeys(["tool_call", "input"], "silence"),
        }
        plain(home / "extensions", "ext", said, hook_timeout_ms=50)
        async with Host() as host:
            assert await host.load(discover()) == []
            call = await asyncio.wait_for(host.run_hook("tool_call", {"tool": "x", "arguments": {}}), PATIENCE)
            assert (call.verdict, call.by, call.reason) == ("failed", "ext", "hook: no answer within 0.05 s")
            text = await asyncio.wait_for(host.run_hook("input", {"text": "x"}), PATIENCE)
            assert (text.verdict, text.value, len(text.notes)) == ("allowed", {"text": "x"}, 1)

    asyncio.run(main())


# -- sandbox -----------------------------------------------------------------------------------------------------------

SANDBOX = """
[sandbox]
image = "python:3.12"
memory = 512
cpus = 2
network = "egress"
allow_domains = ["a.example", "b.example"]
"""

# Stands in for the program that runs microVMs: notes how it was called, and runs what is after `--`.
MSB = """#!/bin/sh
printf '%s\\n' "$@" > "{note}"
env > "{note}.env"
while [ "$1" != "--" ]; do shift; done
shift
exec "$@"
"""


def an_msb(folder: Path, note: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "msb").write_text(MSB.format(note=note))
    (folder / "msb").chmod(stat.S_IRWXU)
    return folder


def test_a_sandbox_is_passed_to_msb_when_isolation_is_asked_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``[sandbox]`` becomes options of msb; the manifest's environment is for the inside.

    Source: docs/protocol.md, section 10.
    """
    note = tmp_path / "note"
    monkeypatch.setenv("PATH", f"{an_msb(tmp_path / 'bin', note)}{os.pathsep}{os.environ['PATH']}")
    plain(home / "extensions", "ext", more=f'env = {{ TOKEN = "a b", LD_PRELOAD = "./evil.so" }}\n{SANDBOX}')

    async def main() -> None:
        async with Host(isolation=True) as host:
            assert await host.load(discover()) == []
            assert "env" in await seen(host, "ext")

    asyncio.run(main())
    options, _, command = note.read_text().partition("\n--\n")
    assert options.splitlines() == [
        *("run", "--image", "python:3.12", "--network", "egress", "--memory", "512", "--cpus", "2"),
        *("--allow-domain", "a.example", "--allow-domain", "b.example"),
        *("--env", "TOKEN=a b", "--env", "LD_PRELOAD=./evil.so"),
    ]
    assert command.splitlines()[:2] == [sys.executable, str(PLAIN)]
    assert "LD_PRELOAD" not in Path(f"{note}.env").read_text()


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A command that leaves a mark when it is run."""
    command = tmp_path / "marks"
    command.write_text(f"#!/bin/sh\ntouch {tmp_path}/mark\n")
    command.chmod(0o755)
    return command


@pytest.mark.parametrize("isolation", [False, True])
def test_a_sandboxed_extension_is_never_run_bare(
    home: Path, tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch, isolation: bool
) -> None:
    """Host: refused where it was not asked for isolation, or has no msb; one of the extension's own does not count."""
    an_msb(tmp_path / "theirs", tmp_path / "mark")
    monkeypatch.setenv("PATH", str(tmp_path / "no-such-folder"))
    run = f'[run]\ncommand = "{marked}"\nenv = {{ PATH = "{tmp_path}/theirs" }}\n'
    written(home / "extensions", "ext", run + SANDBOX)

    async def main() -> None:
        async with Host(isolation=isolation) as host:
            (problem,) = await host.load(discover())
            assert isinstance(problem.error, ManifestError)
            assert ("no msb on PATH" if isolation else "not asked for isolation") in str(problem)
            assert host.status()[0].state == "failed"
        assert not (tmp_path / "mark").exists()

    asyncio.run(main())
