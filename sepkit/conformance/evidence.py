"""What observations judge: everything that was said in a run, and what is known of the extension."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from sepkit.conformance.connection import Connection, Line
from sepkit.conformance.requirements import NotApplicable
from sepkit.conformance.subject import Asked, Subject


@frozen
class Evidence:
    """The record of a run."""

    subject: Subject
    connections: tuple[Connection, ...]

    def lines(self) -> list[Line]:
        """Every line that came.

        Raises:
            NotApplicable: None came.
        """
        found = [line for connection in self.connections for line in connection.log if not line.sent]
        if not found:
            raise NotApplicable("it wrote nothing")
        return found

    def frames(self) -> Iterator[Line]:
        """Every line that came and is a JSON object; what is none, is another requirement's matter."""
        return (line for line in self.lines() if isinstance(line.frame, dict))

    def sent_by_itself(self, *names: str) -> Iterator[Line]:
        """Every request and notification that came; or those of these methods."""
        return (line for line in self.frames() if line.method is not None and (not names or line.method in names))

    def asked(self, *names: str) -> list[Asked]:
        """What was asked once of each thing that it brings.

        Raises:
            NotApplicable: It brings nothing that is asked for by these methods.
        """
        found = [one for one in self.subject.asked if one.method in names]
        if not found:
            raise NotApplicable(f"it registers nothing for {' or '.join(names)}")
        return found
