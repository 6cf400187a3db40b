"""What the services need of a key-value store; ``store.py`` is the one on disk.

Source: docs/protocol.md, section 4, ``kv/*``.
"""

from __future__ import annotations

from typing import Any, Protocol


class Store(Protocol):
    """Keys and values, a namespace for each extension. Any method may raise a ``StoreError``."""

    async def get(self, namespace: str, key: str) -> Any:
        """The value; None where there is none."""

    async def set(self, namespace: str, key: str, value: object) -> None:
        """Store a value; JSON data."""

    async def delete(self, namespace: str, key: str) -> None:
        """Forget a key, known or not."""

    async def keys(self, namespace: str, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``, in order."""
