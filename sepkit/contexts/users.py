"""``ctx.user``: whom a call is made for. Imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sepkit.contexts.link import Link
from sepkit.errors import NoUser

if TYPE_CHECKING:
    from sepkit.contexts.documents import Collection, Documents
    from sepkit.contexts.secrets import Secrets

D = TypeVar("D")


class User:
    """The user that a call, a task or a job works for, as the host knows it.

    Under a host that has no users it is there all the same: its ``id`` is None then, its profile empty, and what would
    belong to the user raises ``NoUser``.
    """

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def id(self) -> str | None:
        """The host's id of the user; None where the call is made for no user."""
        principal = self._link.principal
        return None if principal is None else principal.id

    async def profile(self) -> dict[str, str]:
        """What the host tells of the user, such as ``{"nickname": "Ada", "language": "sv"}``; empty where it does not.

        Raises:
            CapabilityDisabled: The host does not let this extension read it.
        """
        user = self.id
        return {} if user is None else dict(await self._link.backend.users.profile(user))

    def store(self, collection: Collection[D]) -> Documents[D]:
        """The user's documents of a collection.

        Raises:
            NoUser: The call is made for no user.
            RegistrationError: It is no collection of the app.

        Source: docs/documents.md.
        """
        from sepkit.contexts.documents import Documents  # only for apps that have collections

        return Documents(self._link, collection, self.needed("ctx.user.store"))

    @property
    def secrets(self) -> Secrets:
        """The user's own secrets.

        Raises:
            NoUser: The call is made for no user.

        Source: docs/settings.md.
        """
        from sepkit.contexts.secrets import Secrets  # only for apps that have secrets

        return Secrets(self._link.backend.secrets, self.needed("ctx.user.secrets"))

    def needed(self, what: str) -> str:
        """The id, for ``what`` belongs to the user.

        Raises:
            NoUser: The call is made for no user.
        """
        user = self.id
        if user is None:
            raise NoUser(
                f"{what}: there is no user here: the host has none, or the call, the task or the job was not made for "
                "one; what belongs to the app itself is on ctx, without .user"
            )
        return user

    def __repr__(self) -> str:
        return f"User({self.id!r})"
