"""What all tests share: each ``loop_kind`` test runs on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sepkit.faces.runner import LoopKind, new_loop

# A shell that starts the suite in the background has it ignore Ctrl-C, and the processes that it starts inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of what else the machine does than of sepkit. The suite tries the same examples
# each time, so that it tells of the change at hand; new ones are looked for by `make soak`.
SOAK = bool(os.environ.get("SEPKIT_SOAK"))
settings.register_profile(
    "sepkit",
    deadline=None,
    derandomize=not SOAK,
    max_examples=2_000 if SOAK else 100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sepkit")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_kind(request: pytest.FixtureRequest) -> LoopKind:
    """The loops that sepkit runs on."""
    kind: LoopKind = request.param
    return kind


@pytest.fixture
def run(loop_kind: LoopKind) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on each kind of loop."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
            return runner.run(asyncio.wait_for(work, 30))

    return run
