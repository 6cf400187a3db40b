"""All that is local, put together; each part is made when it is first used.

Data is in the folder ``sepkit/<app>`` of the user's data folder, or in ``<SEPKIT_DATA_DIR>/<app>``; readable for its
owner only. What belongs to the app is in ``app.sqlite3``, what belongs to a user in ``users/<id>.sqlite3``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from sepkit.capabilities.database import Database
from sepkit.capabilities.local import secrets, settings
from sepkit.contexts.backend import (
    DocumentBackend,
    FetchBackend,
    Hidden,
    JobBackend,
    SecretBackend,
    SettingBackend,
    UserBackend,
)
from sepkit.errors import StoreError

DATA_DIR: Final = "SEPKIT_DATA_DIR"
_USER: Final = re.compile(r"[A-Za-z0-9_@+=,-][A-Za-z0-9._@+=,-]{0,127}")

# Of all parts; a database of a user has all tables, too.
_SCHEMA: Final = f"""
{settings.SCHEMA}
{secrets.SCHEMA}
"""


class LocalBackend:
    """The local backend of an app.

    Args:
        app: Its name.
        folder: Where its data is kept; None keeps it in memory.
        given: By variable, the secrets that were in the environment.
    """

    def __init__(self, app: str, folder: Path | None, *, given: Hidden | None = None) -> None:
        self.app: Final = app
        self.folder: Final = folder
        self._given = given or Hidden({})
        self._settings: SettingBackend | None = None
        self._secrets: SecretBackend | None = None
        self._databases: dict[str | None, Database] = {}

    def database(self, user: str | None) -> Database:
        """The database of a user, or the app's; opened by its first job.

        Raises:
            StoreError: The user's id cannot be the name of a file.
        """
        if (found := self._databases.get(user)) is None:
            found = self._databases[user] = Database(self._path(user), _SCHEMA)
        return found

    def _path(self, user: str | None) -> Path | None:
        if user is not None and not _USER.fullmatch(user):
            raise StoreError(f"the user id {user[:100]!a} cannot be the name of a file")
        if self.folder is None:
            return None
        return self.folder / "app.sqlite3" if user is None else self.folder / "users" / f"{user}.sqlite3"

    @property
    def documents(self) -> DocumentBackend:
        """Collections of documents."""
        raise NotImplementedError

    @property
    def settings(self) -> SettingBackend:
        """Settings that have been set."""
        if self._settings is None:
            in_memory = self.folder is None
            self._settings = settings.SettingsInMemory() if in_memory else settings.LocalSettings(self.database(None))
        return self._settings

    @property
    def secrets(self) -> SecretBackend:
        """Secrets."""
        if self._secrets is None:
            in_memory = self.folder is None
            vault = secrets.VaultInMemory() if in_memory else secrets.KeyringVault(self.app, self.database)
            self._secrets = secrets.LocalSecrets(self._given, vault, self._path)
        return self._secrets

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
        for database in self._databases.values():
            await database.aclose()
        self._databases.clear()


def data_folder(app: str) -> Path:
    """Where the data of an app is kept."""
    if given := os.environ.get(DATA_DIR):
        return Path(given).absolute() / app
    import platformdirs  # 2 ms, and only for apps that keep something

    return platformdirs.user_data_path("sepkit", appauthor=False) / app
