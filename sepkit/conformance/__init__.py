"""What SEP demands of an extension, as a list of requirements, and the runner that checks a program against them.

It speaks with any command, in whatever language that is written, in raw lines: sepkit's own peer would share its
mistakes with sepkit's own extensions. Not a host; nothing of it outlives the run.
"""

from __future__ import annotations

from sepkit.conformance.report import Report, Status, Verdict
from sepkit.conformance.requirement import Requirement
from sepkit.conformance.runner import run_conformance
from sepkit.conformance.table import requirements

__all__ = ["Report", "Requirement", "Status", "Verdict", "requirements", "run_conformance"]
