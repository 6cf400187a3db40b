"""Secrets where the host keeps none: those of the environment, and below them a vault, which is the system's keyring.

The environment's were taken out of it at the start (``SEPKIT_SECRET_NAME``); they are the app's. The keyring is used
where the extra ``keyring`` is installed and has a backend that encrypts. A keyring cannot list its secrets, so that the
names stand in the database, in plain text.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from sepkit.capabilities.database import Database
from sepkit.concurrency.threads import DaemonThreads
from sepkit.contexts.backend import SECRET, Hidden, variable_of
from sepkit.errors import StoreError

T = TypeVar("T")

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS secret_names (name TEXT PRIMARY KEY, variable TEXT UNIQUE NOT NULL) WITHOUT ROWID;"
)
MOST: Final = 1_000  # of the app, and of each user
_PATIENCE: Final = 60.0  # seconds for the keyring, which may ask a person to unlock it
_RECOMMENDED: Final = 1  # keyring's own bound: what has less priority keeps plain text, or nothing


class Vault(Protocol):
    """Where secrets are kept."""

    async def usable(self) -> str | None:
        """Why nothing can be kept, and what to do; None where it can."""

    async def names(self, user: str | None) -> list[str]:
        """The names of what is kept."""

    async def get(self, user: str | None, name: str) -> str | None:
        """The secret; None where there is none."""

    async def set(self, user: str | None, name: str, value: str) -> None:
        """Keep a secret."""

    async def delete(self, user: str | None, name: str) -> bool:
        """Forget a secret; whether there was one."""


class LocalSecrets:
    """The secrets of an app and of its users.

    Args:
        given: By variable, what was in the environment.
        vault: Where others are kept.
        check_user: Raises StoreError for a user's id that cannot be one.
    """

    def __init__(self, given: Hidden, vault: Vault, check_user: Callable[[str | None], object]) -> None:
        self._given = given
        self._vault = vault
        self._check_user = check_user
        self._asked: dict[str, str] = {}  # the name under which each variable was asked for

    async def get(self, user: str | None, name: str) -> str | None:
        """The secret; None where there is none."""
        if (text := self._held(user, name)) is not None:
            return text
        if await self._vault.usable() is not None:
            return None
        _check_alone(name, await self._vault.names(user))
        return await self._vault.get(user, name)

    async def set(self, user: str | None, name: str, value: str) -> None:
        """Keep a secret."""
        self._refuse_held(user, name)
        if (problem := await self._vault.usable()) is not None:
            or_start = "" if user is not None else f"start with {variable_of(SECRET, name)} in the environment, or "
            raise StoreError(f"secret {name!r} cannot be kept: {problem[0].lower()}{problem[1:]}; {or_start}{_INSTEAD}")
        names = await self._vault.names(user)
        _check_alone(name, names)
        if name not in names and len(names) >= MOST:
            raise StoreError(f"secret {name!r} cannot be kept: there are {MOST:,} already; delete some")
        await self._vault.set(user, name, value)

    async def delete(self, user: str | None, name: str) -> bool:
        """Forget a secret; whether there was one."""
        self._refuse_held(user, name)
        if await self._vault.usable() is not None:
            return False
        _check_alone(name, await self._vault.names(user))
        return await self._vault.delete(user, name)

    async def list(self, user: str | None) -> list[str]:
        """The names of all secrets."""
        self._check_user(user)
        names = [] if await self._vault.usable() is not None else await self._vault.names(user)
        if user is not None:
            return names
        held = {
            variable: self._asked.get(variable, variable.removeprefix(SECRET).lower()) for variable in self._given.names
        }
        held.update((variable, name) for name in names if (variable := variable_of(SECRET, name)) in held)
        return [*held.values(), *(name for name in names if variable_of(SECRET, name) not in held)]

    def _held(self, user: str | None, name: str) -> str | None:
        """What the environment has of it; a user has nothing there."""
        self._check_user(user)
        variable = variable_of(SECRET, name)
        if user is not None or (text := self._given.find(variable)) is None:
            return None
        _check_alone(name, [self._asked.setdefault(variable, name)])
        return text

    def _refuse_held(self, user: str | None, name: str) -> None:
        if self._held(user, name) is not None:
            raise StoreError(
                f"secret {name!r} is held by {variable_of(SECRET, name)}, which was in the environment; change it there"
            )


_INSTEAD: Final = "install sepkit[keyring] where the system has a keyring"


def _check_alone(name: str, names: list[str]) -> None:
    """Refuse a name that has the variable of another one: which of them is meant would be chance."""
    variable = variable_of(SECRET, name)
    for other in names:
        if other != name and variable_of(SECRET, other) == variable:
            raise StoreError(f"secrets {name!r} and {other!r} would both be {variable}; rename one of them")


class VaultInMemory:
    """Secrets of a test: gone with the process."""

    def __init__(self) -> None:
        self._kept: dict[str | None, dict[str, str]] = {}

    def __repr__(self) -> str:
        return "<VaultInMemory>"

    async def usable(self) -> str | None:
        """Always."""
        return None

    async def names(self, user: str | None) -> list[str]:
        """The names of what is kept."""
        return list(self._kept.get(user, ()))

    async def get(self, user: str | None, name: str) -> str | None:
        """The secret; None where there is none."""
        return self._kept.get(user, {}).get(name)

    async def set(self, user: str | None, name: str, value: str) -> None:
        """Keep a secret."""
        self._kept.setdefault(user, {})[name] = value

    async def delete(self, user: str | None, name: str) -> bool:
        """Forget a secret; whether there was one."""
        return self._kept.get(user, {}).pop(name, None) is not None


class KeyringVault:
    """The system's keyring, under the service ``sepkit:<app>``, or ``sepkit:<app>:<user>``.

    Its calls block, perhaps until a person unlocks it, and are made in a thread, one at a time.

    Args:
        app: The app's name.
        database: The database of a user, or the app's: it has the names.
    """

    def __init__(self, app: str, database: Callable[[str | None], Database]) -> None:
        self._app = app
        self._database = database
        self._threads = DaemonThreads(1)
        self._backend: Any = None
        self._problem: str | None = None
        self._looked = False

    async def usable(self) -> str | None:
        """Why nothing can be kept."""
        if not self._looked:
            self._backend, self._problem = await self._in_thread(_find_keyring)
            self._looked = True
        return self._problem

    async def names(self, user: str | None) -> list[str]:
        """The names of what is kept."""

        def read(database: sqlite3.Connection) -> list[str]:
            return [name for (name,) in database.execute("SELECT name FROM secret_names ORDER BY name")]

        return await self._database(user).do(read)

    async def get(self, user: str | None, name: str) -> str | None:
        """The secret; None where there is none."""
        service = self._service(user)
        found = await self._in_thread(lambda: self._backend.get_password(service, name))
        return None if found is None else str(found)

    async def set(self, user: str | None, name: str, value: str) -> None:
        """Keep a secret. Its name is written first: two processes cannot keep two that meet."""

        def add(database: sqlite3.Connection) -> bool:
            known = database.execute("SELECT 1 FROM secret_names WHERE name = ?", (name,)).fetchone() is not None
            if not known:
                database.execute("INSERT INTO secret_names VALUES (?, ?)", (name, variable_of(SECRET, name)))
            return not known

        is_new = await self._database(user).do(add)
        service = self._service(user)
        try:
            await self._in_thread(lambda: self._backend.set_password(service, name, value))
        except StoreError:
            if is_new:
                await self._forget(user, name)
            raise

    async def delete(self, user: str | None, name: str) -> bool:
        """Forget a secret; whether there was one."""
        service = self._service(user)

        def delete() -> bool:
            if self._backend.get_password(service, name) is None:
                return False
            self._backend.delete_password(service, name)
            return True

        was_there = await self._in_thread(delete)
        await self._forget(user, name)
        return was_there

    async def _forget(self, user: str | None, name: str) -> None:
        def forget(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM secret_names WHERE name = ?", (name,))

        await self._database(user).do(forget)

    def _service(self, user: str | None) -> str:
        return f"sepkit:{self._app}" if user is None else f"sepkit:{self._app}:{user}"

    async def _in_thread(self, function: Callable[[], T]) -> T:
        """What ``function`` returns. The text of what it raises may quote the secret: only its type is told."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._threads.run(function)
        except TimeoutError:
            raise StoreError(f"the keyring has not answered within {_PATIENCE:g} s; is it locked?") from None
        except Exception as error:
            raise StoreError(f"the keyring failed: {type(error).__name__}") from None


def _find_keyring() -> tuple[Any, str | None]:
    """The keyring's backend, or why there is none."""
    try:
        import keyring  # 50 ms and more, and only for apps that use secrets
    except ImportError:
        return None, "No keyring is installed"
    try:
        found: Any = keyring.get_keyring()
        # The first one that encrypts; a chain of backends would go on to one that keeps plain text.
        for backend in getattr(found, "backends", [found]):
            if backend.priority >= _RECOMMENDED:
                return backend, None
    except Exception as error:
        return None, f"The keyring cannot be used ({type(error).__name__})"
    return None, "The system has no keyring that encrypts"
