"""What the program around a host decides, and what it is told. The host itself has no screen, no shell and no session.

Each method has a default that grants nothing; override what the program can do.

Source: docs/protocol.md, section 4.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sepkit.errors import MethodNotFound, NotTrusted, NoUI
from sepkit.wire import messages


class Delegate:
    """The program around a host. ``extension`` is always the name of the one that asks."""

    ui_kinds: Collection[str] = ()
    """The kinds of ``ui/request`` that it can show; told with the handshake."""

    # -- asked ---------------------------------------------------------------------------------------------------------

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        """Show something to the user, or ask something. Only kinds in ``ui_kinds`` come here.

        Raises:
            NoUI: The host has no user in front of it.
        """
        raise NoUI("nobody is in front of this host")

    async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
        """Run a command, under rules of its own.

        Raises:
            NotTrusted: The extension may not run it.
        """
        raise NotTrusted("this host runs no commands for extensions")

    async def send_message(self, extension: str, request: messages.SessionSendMessageParams) -> None:
        """Post a message into the session."""
        raise MethodNotFound("this host has no session")

    async def send_user_message(self, extension: str, request: messages.SessionSendUserMessageParams) -> None:
        """Post what the user might have said."""
        raise MethodNotFound("this host has no session")

    async def append_entry(self, extension: str, request: messages.SessionAppendEntryParams) -> None:
        """Keep an entry in the transcript."""
        raise MethodNotFound("this host has no session")

    async def set_model(self, extension: str, request: messages.SessionSetModelParams) -> None:
        """Switch the session's model."""
        raise MethodNotFound("this host has no session")

    async def session_state(self, extension: str) -> dict[str, Any] | None:
        """The session's state."""
        raise MethodNotFound("this host has no session")

    # -- told; none of these may wait ----------------------------------------------------------------------------------

    def log(self, extension: str, record: messages.LogParams) -> None:
        """An extension has logged something."""

    def stderr(self, extension: str, line: str) -> None:
        """An extension has written a line to its stderr."""

    def published(self, extension: str, topic: str, payload: dict[str, Any]) -> None:
        """An extension has published something on the bus."""

    def registered(self, extension: str) -> None:
        """What an extension contributes has changed."""

    def state_changed(self, extension: str, state: str) -> None:
        """An extension is ``starting``, ``ready``, ``restarting``, ``failed`` or ``stopped`` now."""

    def task_changed(self, extension: str, task: messages.TaskHealth) -> None:
        """A background task of an extension has changed, or has reported how it is."""
