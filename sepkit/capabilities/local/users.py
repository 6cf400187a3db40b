"""The users of a host that tells of none; a test host's are those that its author has named."""

from __future__ import annotations

from collections.abc import Mapping


class LocalUsers:
    """Users, each with what is known of it.

    Args:
        profiles: By the user's id.
    """

    def __init__(self, profiles: Mapping[str, Mapping[str, str]]) -> None:
        self._profiles = profiles

    async def ids(self) -> list[str]:
        """The ids of all users."""
        return list(self._profiles)

    async def profile(self, user: str) -> dict[str, str]:
        """What is known of a user; nothing of one that is not known."""
        return dict(self._profiles.get(user, {}))
