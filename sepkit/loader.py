"""``module:attr`` or ``file.py:attr`` → the App; or one ``LoadError``: what happened, where, and what to do."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from sepkit.app import App
from sepkit.errors import LoadError, RegistrationError
from sepkit.tracebacks import authors_part, is_foreign

R = TypeVar("R")


def load(target: str) -> App:
    """The App that ``target`` names.

    Raises:
        LoadError: There is none; ``kind`` tells why.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise LoadError(
            "usage", f"{target!r} names no app; write module:attribute or file.py:attribute, such as app:app"
        )
    if not all(part.isidentifier() for part in attribute.split(".")):
        raise LoadError(
            "usage", f"{attribute!r} in {target!r} is no Python name; write module:attribute, such as app:app"
        )
    is_file = "/" in place or "\\" in place or place.endswith(".py") or Path(place).is_file()
    module = _load_file(Path(place)) if is_file else _load_module(place, target)
    return _find(module, place, attribute)


def _load_file(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise LoadError("usage", f"{path} is not a Python file; its name should end with .py")
    if not path.is_file():
        raise LoadError("module", f"there is no file {path} (looked in {Path.cwd()})")
    path = path.resolve()
    # What stands beside it can be imported, as if it had been run as a script.
    _search_first(path.parent)
    name = path.stem if path.stem.isidentifier() else "app"
    if (loaded := sys.modules.get(name)) is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _guarded(functools.partial(spec.loader.exec_module, module), str(path))
    except LoadError:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str, target: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise LoadError("usage", f"{name!r} in {target!r} is no module name; write module:attribute, such as app:app")
    _search_first(Path.cwd())

    def run() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only where the module itself is missing; what it fails to import is an error of its own.
            if error.name is not None and (error.name == name or name.startswith(f"{error.name}.")):
                raise LoadError(
                    "module", f"there is no module {name!r} (looked in {Path.cwd()} and in sys.path)"
                ) from None
            raise

    return _guarded(run, name)


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _guarded(run: Callable[[], R], what: str) -> R:
    """Run the author's code; what it raises becomes a LoadError that carries it."""
    try:
        return run()
    except LoadError:
        raise
    except RegistrationError as error:
        raise LoadError("registration", f"{error}{_written_at(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # SystemExit too: a module that exits when it is imported serves nobody.
        raise LoadError("import", f"{what} could not be imported: {type(error).__name__}: {error}") from error


def _written_at(error: BaseException) -> str:
    """Where the author's code called what raised ``error``."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        filename = frame.f_code.co_filename
        if is_foreign(filename):
            place = f"\n  written at {filename}:{line}"
    return place


def _find(module: ModuleType, place: str, attribute: str) -> App:
    found: object = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            apps = [name for name, value in vars(module).items() if isinstance(value, App)]
            hint = (
                f"; it has an App named {apps[0]!r}: write {place}:{apps[0]}"
                if apps
                else "; write `app = App(...)` in it"
            )
            raise LoadError("attribute", f"{place} has no attribute {attribute!r}{hint}") from None
    if not isinstance(found, App):
        raise LoadError("not-an-app", f"{place}:{attribute} is no sepkit.App but a {type(found).__name__}")
    try:
        found.registrations()
    except RegistrationError as error:
        raise LoadError("registration", str(error)) from error
    return found


def user_traceback(error: BaseException) -> str:
    """The traceback of ``error`` as its author knows it: without the frames of sepkit and of the import system."""
    shown = traceback.TracebackException(type(error), error, authors_part(error), compact=True)
    return "".join(shown.format())
