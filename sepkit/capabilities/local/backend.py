"""All that is local, put together; each part is made when it is first used.

Data is in the folder ``sepkit/<app>`` of the user's data folder, or in ``<SEPKIT_DATA_DIR>/<app>``; readable for its
owner only. What belongs to the app is in ``app.sqlite3``, what belongs to a user in ``users/<id>.sqlite3``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sepkit.capabilities.database import Database
from sepkit.capabilities.local import secrets, settings
from sepkit.capabilities.local.documents import LocalDocuments
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
from sepkit.userids import user_fault, user_file

if TYPE_CHECKING:
    import httpx

    from sepkit.capabilities.local.fetch import LocalFetcher

DATA_DIR: Final = "SEPKIT_DATA_DIR"

# Of all parts; a database of a user has all tables, too. Documents make theirs when a collection is first used.
_SCHEMA: Final = f"""
{settings.SCHEMA}
{secrets.SCHEMA}
"""

_MOST_OPEN: Final = 32  # databases, as far as those of users are idle; each has a file and up to two threads


class LocalBackend:
    """The local backend of an app.

    Args:
        app: Its name.
        folder: Where its data is kept; None keeps it in memory.
        profiles: Its users, each with what is known of it.
        needs: What it may reach, as :func:`~sepkit.contexts.network.checked_needs` gives it.
        transport: Makes what takes the place of the network.
        given: By variable, the secrets that were in the environment.
    """

    def __init__(
        self,
        app: str,
        folder: Path | None,
        *,
        given: Hidden | None = None,
        profiles: Mapping[str, Mapping[str, str]] | None = None,
        needs: Sequence[str] = (),
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self.app: Final = app
        self.folder: Final = folder
        self._profiles = profiles or {}
        self._needs = needs
        self._transport = transport
        self._fetcher: LocalFetcher | None = None
        self._given = given or Hidden({})
        self._settings: SettingBackend | None = None
        self._secrets: SecretBackend | None = None
        self._databases: dict[str | None, Database] = {}
        self._closed = False

    def database(self, user: str | None) -> Database:
        """The database of a user, or the app's; opened by its first job.

        Raises:
            StoreError: The user's id cannot be the name of a file; or what serves the app has ended.
        """
        if self._closed:
            raise StoreError("the store is closed: what served the app has ended")
        if (found := self._databases.pop(user, None)) is None:
            found = Database(self._path(user), _SCHEMA, elsewhere=f"set {DATA_DIR} to another folder")
        if len(self._databases) >= _MOST_OPEN:
            self._close_idle()
        self._databases[user] = found  # the one that was used last is the last
        return found

    def _close_idle(self) -> None:
        """Those that were used longest ago are let go of. They open again when they are used."""
        idle = [user for user, database in self._databases.items() if user is not None and database.idle]
        for user in idle[: len(self._databases) + 1 - _MOST_OPEN]:
            self._databases.pop(user).rest()

    def _path(self, user: str | None) -> Path | None:
        if user is not None and (fault := user_fault(user)):
            raise StoreError(f"the user's id {fault}")
        if self.folder is None:
            return None
        return self.folder / "app.sqlite3" if user is None else self.folder / "users" / f"{user_file(user)}.sqlite3"

    @property
    def documents(self) -> DocumentBackend:
        """Collections of documents."""
        return LocalDocuments(self.database)

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

    @cached_property
    def jobs(self) -> JobBackend:
        """Jobs."""
        from sepkit.capabilities.local.jobs import LocalJobs

        return LocalJobs(self.database(None))

    @property
    def fetcher(self) -> FetchBackend:
        """HTTP."""
        if self._fetcher is None:
            from sepkit.capabilities.local.fetch import LocalFetcher
            from sepkit.contexts.network import Network

            self._fetcher = LocalFetcher(Network(self.app, self._needs), self._transport)
        return self._fetcher

    @property
    def users(self) -> UserBackend:
        """Users."""
        from sepkit.capabilities.local.users import LocalUsers

        return LocalUsers(self._profiles)

    async def aclose(self) -> None:
        """Write what waits, and let go of files and connections."""
        self._closed = True
        if self._fetcher is not None:
            await self._fetcher.aclose()
        for database in self._databases.values():
            await database.aclose()
        self._databases.clear()


def data_folder(app: str) -> Path:
    """Where the data of an app is kept.

    Raises:
        StoreError: Its name is that of another folder.
    """
    if not app.strip("."):
        raise StoreError(f"the app's name {app!r} cannot be the name of a folder: give it another one")
    if given := os.environ.get(DATA_DIR):
        return Path(given).absolute() / app
    import platformdirs  # 2 ms, and only for apps that keep something

    return platformdirs.user_data_path("sepkit", appauthor=False) / app
