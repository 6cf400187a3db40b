"""``ctx.secrets`` and ``ctx.user.secrets``: a small typed client of a backend's secrets. No I/O."""

from __future__ import annotations

import re
from typing import Final

from sepkit.contexts.backend import SecretBackend

MOST_BYTES: Final = 32_768
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Secrets:
    """Secrets of an app, or of one of its users. A user's are never those of the app.

    A name has 1 to 128 letters, digits, ``_``, ``.`` and ``-``. A value is a text, not empty, of at most 32 KiB.

    Args:
        backend: Where they are kept.
        user: Whose they are; None for the app's own.

    Raises (all of it): ``ValueError`` for such a name or value; ``StoreError`` where they cannot be read or kept.
    """

    __slots__ = ("_backend", "_user")

    def __init__(self, backend: SecretBackend, user: str | None) -> None:
        self._backend = backend
        self._user = user

    async def get(self, name: str) -> str | None:
        """The secret; None where there is none."""
        return await self._backend.get(self._user, _checked_name(name))

    async def set(self, name: str, value: str) -> None:
        """Keep a secret; it is kept when this returns.

        Raises:
            StoreError: There is no place for secrets here, or the environment holds this one.
        """
        _checked_name(name)
        if (problem := _problem_of(value)) is not None:
            raise ValueError(f"secret {name!r}: {problem}")
        await self._backend.set(self._user, name, value)

    async def delete(self, name: str) -> bool:
        """Forget a secret; whether there was one.

        Raises:
            StoreError: The environment holds it.
        """
        return await self._backend.delete(self._user, _checked_name(name))

    async def list(self) -> list[str]:
        """The names of all secrets, sorted. One of the environment that was not asked for yet is in lower case."""
        return sorted(await self._backend.list(self._user))


def _checked_name(name: str) -> str:
    given: object = name
    if isinstance(given, str) and _NAME.fullmatch(given):
        return given
    shown = repr(given) if not isinstance(given, str) or len(given) <= 100 else f"{given[:100]!r}…"
    proposal = "-".join(re.findall(r"[A-Za-z0-9_.-]+", given))[:128] if isinstance(given, str) else ""
    hint = f"; write {proposal!r}" if proposal and len(proposal) < 50 else ""
    raise ValueError(f"a secret's name has 1 to 128 letters, digits, '_', '.' and '-', not {shown}{hint}")


def _problem_of(value: object) -> str | None:
    """What is wrong with a value. The value itself is not in it."""
    if not isinstance(value, str):
        return f"a secret is a text, not {type(value).__name__}"
    if not value:
        return "a secret is not empty; delete it instead"
    if "\0" in value:
        return "a secret has no NUL character; encode it, as base64 for example"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "a secret is UTF-8; encode other bytes, as base64 for example"
    return None if size <= MOST_BYTES else f"a secret has at most {MOST_BYTES:,} bytes, not {size:,}"
