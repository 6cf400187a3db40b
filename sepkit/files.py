"""Modules out of files whose names cannot be imported: ``server.v2.py``, or ``code.py``, since Python has a ``code``.

Such a module is called ``sepkit.files.<path>``, where the path is written without dots. This is a package in which
every process can import it by that name: one that multiprocessing spawns, too, which finds the functions that it is to
call by the names of their modules.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

__path__: list[str] = []  # what makes a package of it: there is no folder

PREFIX: Final = f"{__name__}."


def name_of(path: Path) -> str:
    """The name of the module that is in a file."""
    return PREFIX + str(path).replace("%", "%25").replace(".", "%2E")


def search_beside(path: Path) -> None:
    """Find what stands beside a file before anything of that name elsewhere; but not the file itself.

    Its folder comes last in ``sys.path``: a spawned process gets that path before it has imported anything, and must
    not take the file for the module that Python has under its name.
    """
    folder = str(path.parent)
    if not any(isinstance(finder, _Beside) and finder.path == path for finder in sys.meta_path):
        sys.meta_path.insert(0, _Beside(path))
    if folder not in sys.path:
        sys.path.append(folder)


class _Beside:
    """Finds modules in the folder of a file, as if it came first in ``sys.path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that stands in the folder."""
        if path is not None or name == self.path.stem or name in sys.builtin_module_names:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [str(self.path.parent)])


class _Files:
    """Finds the modules of this package."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module whose name is made by ``name_of``."""
        if not name.startswith(PREFIX):
            return None
        file = Path(name.removeprefix(PREFIX).replace("%2E", ".").replace("%25", "%"))
        search_beside(file)
        return importlib.util.spec_from_file_location(name, file)


sys.meta_path.append(_Files)
