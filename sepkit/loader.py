"""``module:attr`` or ``file.py:attr`` → the App; or one ``LoadError``: what happened, where, and what to do."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar

from sepkit import files
from sepkit.app import App
from sepkit.errors import LoadError, RegistrationError
from sepkit.tracebacks import authors_part, is_foreign

R = TypeVar("R")

_NEEDED: Final = frozenset(
    {"sepkit", "attr", "attrs", "annotated_types", "cattrs", "click", "cronsim", "docstring_parser", "orjson", "uvloop"}
    | {"typing_extensions", "__main__"}
)


def load(target: str) -> App:
    """The App that ``target`` names.

    Raises:
        LoadError: There is none; ``kind`` tells why.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        example = f"{target.rstrip(':')}:app" if _is_place(target.rstrip(":")) else "app:app"
        raise LoadError(
            "usage", f"{target!r} names no app; write module:attribute or file.py:attribute, such as {example}"
        )
    if not all(part.isidentifier() for part in attribute.split(".")):
        raise LoadError(
            "usage", f"{attribute!r} in {target!r} is no Python name; write module:attribute, such as app:app"
        )
    is_file = "/" in place or "\\" in place or place.endswith(".py") or Path(place).is_file()
    try:
        module = _load_file(Path(place)) if is_file else _load_module(place, target)
    except LoadError as error:
        file = Path(place) if is_file else Path(f"{place.replace('.', '/')}.py")
        if instead := _package_hint(error.__cause__, file, attribute):
            raise LoadError(error.kind, f"{error}; {instead}") from error.__cause__
        raise
    return _find(module, place, attribute)


def _is_place(text: str) -> bool:
    """Whether a module or a file of this name is here."""
    return Path(text).is_file() or Path(f"{text.replace('.', '/')}.py").is_file()


def _package_hint(cause: BaseException | None, file: Path, attribute: str) -> str:
    """What to write for a module that belongs to a package and was loaded without it; nothing where it was not that."""
    if not isinstance(cause, ImportError) or not file.is_file():
        return ""
    file = file.resolve()
    alone = isinstance(cause, ModuleNotFoundError) and (cause.name or "").partition(".")[0] == file.parent.name
    if not alone and "relative import" not in str(cause):
        return ""
    root = file.parent.parent
    while (root / "__init__.py").is_file() and root != root.parent:
        root = root.parent
    here = Path.cwd()
    if here in root.parents and not (here / "__init__.py").is_file():  # a folder need not have one to be a package
        root = here
    parts = file.relative_to(root).with_suffix("").parts
    if not all(part.isidentifier() for part in parts):
        return ""
    write = f"write {'.'.join(parts)}:{attribute}"
    return write if root == here else f"start sepkit in {root}, and {write}"


def _load_file(path: Path) -> ModuleType:
    if path.suffix != ".py":
        raise LoadError("usage", f"{path} is no Python file; write the name of one, which ends with .py")
    if not path.is_file():
        raise LoadError("module", f"there is no file {path} (looked in {Path.cwd()}); write its path from there")
    path = path.resolve()
    # What stands beside it can be imported, as if it had been run as a script.
    if any(map(_is_taken, _names_in(path.parent))):
        files.search_beside(path)  # the module that Python or sepkit needs under such a name stays what it is
    else:
        _search_first(path.parent)
    name = path.stem if _imports(path) else files.name_of(path)
    if (loaded := sys.modules.get(name)) is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _guarded(functools.partial(spec.loader.exec_module, module), lambda: str(path))
    except LoadError:
        del sys.modules[name]
        raise
    return module


def _imports(path: Path) -> bool:
    """Whether ``import`` with the name of a file gets that file, here and in a process that multiprocessing spawns."""
    name = path.stem
    if "." in name or _is_taken(name):
        return False
    if (loaded := sys.modules.get(name)) is not None:
        return getattr(loaded, "__file__", None) == str(path)
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(name)
    return spec is not None and spec.origin == str(path)


def _is_taken(name: str) -> bool:
    return name in sys.stdlib_module_names or name in _NEEDED


def _names_in(folder: Path) -> set[str]:
    """The names of the modules and packages in a folder."""
    return {entry.stem for entry in folder.glob("*.py")} | {entry.parent.name for entry in folder.glob("*/__init__.py")}


def _load_module(name: str, target: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        file = f"{name}.py"
        instead = f"{file}:{target.rpartition(':')[2]}" if Path(file).is_file() else "module:attribute, such as app:app"
        raise LoadError("usage", f"{name!r} in {target!r} is no module name; write {instead}")
    _search_first(Path.cwd())

    def run() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only where the module itself is missing; what it fails to import is an error of its own.
            if error.name is not None and (error.name == name or name.startswith(f"{error.name}.")):
                raise LoadError(
                    "module",
                    f"there is no module {name!r} (looked in {Path.cwd()} and in sys.path); start sepkit in its folder,"
                    " or write its file, as in path/to/app.py:app",
                ) from None
            raise

    return _guarded(run, lambda: _with_file(name, _file_of(name)))


def _file_of(name: str) -> str | None:
    """The file of a module that could not be imported."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # it is in a package, and that is what could not be imported
        return None
    return None if spec is None else spec.origin


def _is_there(name: str) -> bool:
    return name in sys.modules or _file_of(name) is not None


def _with_file(name: str, file: str | None) -> str:
    return name if file is None or file == name else f"{name} ({file})"


def _search_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _guarded(run: Callable[[], R], what: Callable[[], str]) -> R:
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
        raise LoadError("import", f"{what()} {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f'calls sys.exit({code}) when it is imported; put that below `if __name__ == "__main__":`'
    try:
        text = str(error)
    except Exception:
        text = "(its text could not be made)"
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name and not _is_there(error.name.partition(".")[0]):
        hint = f"; install what it is in for {sys.executable}, or run sepkit with the Python that has it"
    return f"could not be imported: {type(error).__name__}{': ' if text else ''}{text}{hint}"


def _written_at(error: BaseException) -> str:
    """Where the author's code called what raised ``error``."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        filename = frame.f_code.co_filename
        if is_foreign(filename):
            place = f"{filename}:{line}"
    return "" if not place or f"({place})" in str(error) else f"\n  written at {place}"


def _find(module: ModuleType, place: str, attribute: str) -> App:
    # With its file: that another module of this name was found is what goes wrong most often.
    shown = _with_file(place, getattr(module, "__file__", None))
    found: object = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise LoadError("attribute", f"{shown} has no attribute {attribute!r}; {_hint(module, place)}") from None
    if not isinstance(found, App):
        is_what = (
            "the class itself" if isinstance(found, type) and issubclass(found, App) else f"a {type(found).__name__}"
        )
        raise LoadError(
            "not-an-app", f"{attribute!r} in {shown} is no sepkit.App, but {is_what}; {_hint(module, place)}"
        )
    try:
        found.check()
    except RegistrationError as error:
        raise LoadError("registration", f"{error}\n  in {shown}") from error
    return found


def _hint(module: ModuleType, place: str) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    return f"it has an App named {apps[0]!r}: write {place}:{apps[0]}" if apps else "write `app = App(...)` in it"


def user_traceback(error: BaseException) -> str:
    """The traceback of ``error`` as its author knows it: without the frames of sepkit and of the import system."""
    shown = traceback.TracebackException(type(error), error, authors_part(error), compact=True)
    chain: list[traceback.TracebackException | None] = [shown]
    while chain:
        if (one := chain.pop()) is not None:
            one.stack[:] = [frame for frame in one.stack if is_foreign(frame.filename)]
            chain += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]
    return "".join(shown.format())
