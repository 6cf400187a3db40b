"""Ids of users: which are taken, and the file that belongs to one. One place for both.

A host gives its users names of its own: ``ada``, ``ada@example.com``, ``auth0|5f7c``. What belongs to a user is in a
file that is named after the id, so one that could lead out of its folder is refused wherever it comes in.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 80
"""Bytes of an id in UTF-8. With each of them written as three characters, it is still the name of a file."""

_SEPARATORS: Final = frozenset("/\\:")
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-@+=,.")


def user_fault(user: object) -> str | None:
    """What is wrong with a user's id, to follow the name of the option that it was given as; None where it is right."""
    if not isinstance(user, str) or not user.strip():
        return f"must be a string that is not empty, not {user!r:.100}"
    shown = ascii(user)
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    try:
        size = len(user.encode())
    except UnicodeEncodeError:
        return f"must be a string that UTF-8 can write, not {shown}"
    if size > LONGEST:
        return f"may have {LONGEST} bytes, and {shown} has {size}"
    if user in (".", "..") or not _SEPARATORS.isdisjoint(user) or not user.isprintable():
        return f"cannot be the name of a file: {shown}; without '/', '\\', ':' and control characters it can"
    return None


def user_file(user: str) -> str:
    """The name of the file that belongs to a user, without an ending; of two ids never the same.

    Capitals are written as numbers, too: to some file systems ``Ada`` and ``ada`` are one name.
    """
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in user.encode())
    return f"%2E{name[1:]}" if name.startswith(".") else name
