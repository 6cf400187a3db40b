"""What SEP demands of an extension, as a list of requirements, and the runner that checks a program against them.

It talks to a command in any language, in raw lines: sepkit's own peer would share its mistakes with sepkit's own
extensions. It is not a host, and leaves no process behind.
"""

from __future__ import annotations

from sepkit.conformance.report import Report, Status, Verdict
from sepkit.conformance.requirement import Requirement
from sepkit.conformance.runner import run_conformance
from sepkit.conformance.table import requirements

__all__ = ["Report", "Requirement", "Status", "Verdict", "requirements", "run_conformance"]
