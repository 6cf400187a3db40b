"""When an extension that has died is started again: the delays, the count, and the way out of ``failed``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit.host.supervision import DELAYS, HEALTHY_AFTER, Restarts


def test_it_is_started_again_after_1_5_and_25_seconds_and_then_has_failed() -> None:
    """It is started again after 1, 5 and 25 s; after the next death it has failed.

    Source: docs/protocol.md, section 2.
    """
    restarts = Restarts()
    assert [restarts.after_death(0.1) for _ in range(5)] == [1.0, 5.0, 25.0, None, None]
    assert restarts.count == 3


def test_the_count_rises_when_a_restart_is_due() -> None:
    """``Status.restarts``: how often it was restarted since it was last healthy."""
    restarts = Restarts()
    counts = [restarts.count]
    for _ in range(4):
        restarts.after_death(1)
        counts.append(restarts.count)
    assert counts == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(("uptime", "delay"), [(59.9, None), (60.0, 1.0), (3600.0, 1.0)])
def test_a_minute_of_life_makes_it_healthy(uptime: float, delay: float | None) -> None:
    """Host: the count is reset by uptime; one death a day is no reason to give up."""
    restarts = Restarts()
    for _ in range(3):
        restarts.after_death(0)
    assert restarts.after_death(uptime) == delay


def test_failed_can_be_left() -> None:
    """Host: started by hand, the past is forgotten."""
    restarts = Restarts()
    while restarts.after_death(0) is not None:
        pass
    restarts.reset()
    assert (restarts.count, restarts.after_death(0)) == (0, 1.0)


def test_delays_may_be_others_or_none_at_all() -> None:
    """Host: ``restart_delays``, ``healthy_after``."""
    assert Restarts(()).after_death(1e9) is None
    restarts = Restarts((0.0, 0.1), healthy_after=0.0)
    assert [restarts.after_death(0.0) for _ in range(3)] == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(0, 200) | st.just("by hand"), max_size=40))
def test_any_life_follows_the_same_rule(uptimes: list[float | str]) -> None:
    """The n-th death in a row is followed by the n-th delay. Source: docs/protocol.md, section 2."""
    restarts = Restarts()
    in_a_row = 0
    for uptime in uptimes:
        if isinstance(uptime, str):
            restarts.reset()
            in_a_row = 0
            continue
        if uptime >= HEALTHY_AFTER:
            in_a_row = 0
        expected = DELAYS[in_a_row] if in_a_row < len(DELAYS) else None
        assert restarts.after_death(uptime) == expected
        in_a_row = min(in_a_row + 1, len(DELAYS))
        assert restarts.count == in_a_row
