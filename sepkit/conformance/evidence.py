"""What observations judge: everything that was said in a run, and what is known of the extension."""

from __future__ import annotations

import json
from collections.abc import Iterator

from attrs import frozen

from sepkit.conformance.connection import Connection
from sepkit.conformance.expectations import judge
from sepkit.conformance.lines import Line, shortened
from sepkit.conformance.subject import Asked, Subject
from sepkit.conformance.violations import NotApplicable, Violation


@frozen
class Evidence:
    """The records of a run, without those of connections that are ``apart``."""

    subject: Subject
    connections: tuple[Connection, ...]

    def lines(self) -> list[Line]:
        """Every line that came.

        Raises:
            NotApplicable: None came.
        """
        found = [line for connection in self.connections for line in connection.record.lines if not line.sent]
        if not found:
            raise NotApplicable("it wrote nothing")
        return found

    def frames(self) -> Iterator[Line]:
        """Every line that came and is a JSON object; ``traffic.json`` reports the others."""
        return (line for line in self.lines() if isinstance(line.frame, dict))

    def sent_by_itself(self) -> Iterator[Line]:
        """Every request and notification that came."""
        return (line for line in self.frames() if line.method is not None)

    def asked(self, *names: str) -> list[Asked]:
        """The calls of the survey by these methods.

        Raises:
            NotApplicable: It registers nothing that is called by them.
        """
        found = [one for one in self.subject.asked if one.target.method in names]
        if not found:
            raise NotApplicable(f"it registers nothing for {' or '.join(names)}")
        return found

    def judge_survey(self, *names: str) -> None:
        """Judge the answers to the calls of the survey by these methods.

        Raises:
            NotApplicable: It registers nothing that is called by them.
            Violation: One of them has no answer, or one that does not fit.
        """
        for asked in self.asked(*names):
            method = asked.target.method
            if asked.answer is None:
                wanted = f"an answer to {method} of {asked.target.name!r}"
                raise Violation(wanted, asked.trouble, sent=asked.sent, suspects=asked.suspects)
            try:
                judge(method, asked.answer)
            except Violation as violation:
                came = shortened(json.dumps(asked.answer).encode())
                came = f"{violation.came or ''} {came}".strip()
                raise Violation(violation.expected, came, sent=asked.sent, suspects=violation.suspects) from None
