"""What the tests of this folder share."""

from __future__ import annotations

from tests.conftest import loop_kind  # noqa: F401  (the fixture of the tests that run on each loop)
