"""The layers of the package: who may import whom. ``docs/architecture.md`` draws the same picture in words."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import sepkit

PACKAGE = Path(sepkit.__file__).parent

# From the bottom to the top: a room imports from the rooms above it in this list, and from itself. Rooms in one line do
# not import from each other.
LAYERS: list[set[str]] = [
    {"errors", "files", "forks", "ownlog", "records", "terminal", "userids"},
    {"tracebacks"},
    {"concurrency", "wire"},
    {"transports", "schema"},
    {"peer", "tasks"},
    {"contexts"},
    {"capabilities", "content", "render"},
    {"results"},
    {"handlers"},
    {"resources"},
    {"router"},
    {"scheduling"},
    {"app"},
    {"serving"},
    {"faces"},
    {"loader", "host"},
    {"testing", "conformance"},
    {"cli"},
    {"__main__"},
]

# What a room must not import although it is further down.
FORBIDDEN: dict[str, set[str]] = {
    "serving": {"wire", "transports", "peer", "capabilities"},
    "handlers": {"transports", "peer"},
    "router": {"transports", "peer"},
    "app": {"transports", "peer", "capabilities"},
    "contexts": {"transports", "peer"},
    "tasks": {"transports"},
    "schema": {"transports"},
    # The host is the other end of the wire, and loads extensions in any language.
    "host": {"app", "handlers", "router", "serving", "faces", "contexts", "tasks", "schema"},
}


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The modules that ``tree`` imports, wherever in it, by their full names; also for the type checker only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = PACKAGE.parent.joinpath(*module.split("."), alias.name)
                is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield f"{module}.{alias.name}" if is_module else module
        else:
            yield from _imports(node, package)


@functools.cache
def _modules() -> dict[str, set[str]]:
    """The modules of the package, and what each of them imports of sepkit; also for the type checker only."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        imported = set(_imports(ast.parse(path.read_text(encoding="utf-8")), package))
        found[name] = {one for one in imported if one.split(".")[0] == "sepkit"}
    return found


def _room(module: str) -> str:
    """The room that a module stands in: a package of sepkit, or a module right below it."""
    return module.split(".")[1]


def test_imports_go_downwards_only() -> None:
    """A room imports from the rooms below it, at run time and for the type checker."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong = []
    walked = 0
    for name, imported in _modules().items():
        if name == "sepkit":
            assert all(layer[_room(one)] <= layer["app"] for one in imported if "." in one)
            continue
        room = _room(name)
        assert room in layer, f"{name} has no place in LAYERS yet"
        for other in imported:
            walked += 1
            if other == "sepkit":  # __version__
                assert layer[room] >= layer["host"], f"{name} imports sepkit itself"
            elif (below := _room(other)) != room and layer[below] >= layer[room]:
                wrong.append(f"{name} imports {other}")
    assert not wrong
    assert walked > 100, "the walk has found them"


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_a_room_does_not_know_what_is_not_its_business(room: str) -> None:
    """What may be served over another wire knows no transport and no frame; the host knows nothing of apps."""
    rooms = {name: imported for name, imported in _modules().items() if name != "sepkit" and _room(name) == room}
    assert rooms
    wrong = [
        f"{name} imports {other}"
        for name, imported in rooms.items()
        for other in imported
        if "." in other and _room(other) in FORBIDDEN[room]
    ]
    assert not wrong


def test_no_circle_of_imports() -> None:
    """Neither between modules of one package, nor under TYPE_CHECKING: each module can be read after those it names."""
    modules = _modules()
    # A package's own __init__ is imported before its modules, and gathers them: it stands for itself here.
    open_: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        if name in done or name not in modules:
            return
        assert name not in open_, " → ".join([*open_[open_.index(name) :], name])
        open_.append(name)
        for other in sorted(modules[name]):
            if other != name:
                visit(other)
        open_.pop()
        done.add(name)

    for name in modules:
        visit(name)
    assert len(done) == len(modules)


def test_the_walk_sees_what_is_imported() -> None:
    """The tests above would be worth nothing otherwise: relative, inner and conditional imports count."""
    source = """
import sepkit.peer
from sepkit import __version__
from sepkit.contexts import contexts
from . import frames
from .frames import dumps
def f():
    from sepkit.cli.hosting import hosting
if TYPE_CHECKING:
    from sepkit.app import App
else:
    from sepkit.errors import Code
try:
    import uvloop
except ImportError:
    from ..lanes import Slots
"""
    assert set(_imports(ast.parse(source), "sepkit.wire")) == {
        "sepkit.peer",
        "sepkit.contexts.contexts",
        "sepkit",
        "sepkit.wire.frames",
        "sepkit.cli.hosting",
        "sepkit.app",
        "sepkit.errors",
        "uvloop",
        "sepkit.lanes",
    }
