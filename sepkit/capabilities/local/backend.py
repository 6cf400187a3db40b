"""All that is local, put together; each part is made when it is first used.

Data is in the folder ``sepkit/<app>`` of the user's data folder, or in ``<SEPKIT_DATA_DIR>/<app>``; readable for its
owner only. What belongs to the app is in ``app.sqlite3``, what belongs to a user in ``users/<id>.sqlite3``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sepkit.contexts.backend import (
    DocumentBackend,
    FetchBackend,
    JobBackend,
    SecretBackend,
    SettingBackend,
    UserBackend,
)

DATA_DIR: Final = "SEPKIT_DATA_DIR"


class LocalBackend:
    """The local backend of an app.

    Args:
        app: Its name.
        folder: Where its data is kept; None keeps it in memory.
    """

    def __init__(self, app: str, folder: Path | None) -> None:
        self.app: Final = app
        self.folder: Final = folder

    @property
    def documents(self) -> DocumentBackend:
        """Collections of documents."""
        raise NotImplementedError

    @property
    def settings(self) -> SettingBackend:
        """Settings that have been set."""
        raise NotImplementedError

    @property
    def secrets(self) -> SecretBackend:
        """Secrets."""
        raise NotImplementedError

    @property
    def jobs(self) -> JobBackend:
        """Jobs."""
        raise NotImplementedError

    @property
    def fetcher(self) -> FetchBackend:
        """HTTP."""
        raise NotImplementedError

    @property
    def users(self) -> UserBackend:
        """Users."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Write what waits, and let go of files and connections."""


def data_folder(app: str) -> Path:
    """Where the data of an app is kept."""
    if given := os.environ.get(DATA_DIR):
        return Path(given).absolute() / app
    import platformdirs  # 2 ms, and only for apps that keep something

    return platformdirs.user_data_path("sepkit", appauthor=False) / app
