"""Slots and mailboxes, without anything that goes through them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sepkit.errors import InternalError
from sepkit.lanes import Hold, Mailbox, Slots

Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_slots_are_given_first_come_first_served_and_never_more_than_there_are(run: Run) -> None:
    """Trap 31: calls past ``max_concurrency`` wait in a bounded queue; past that they are refused at once."""

    async def main() -> None:
        slots = Slots(2, 3)
        slots.running += 2
        order: list[int] = []

        async def call(number: int) -> None:
            await slots.wait()
            order.append(number)

        calls = [asyncio.create_task(call(number)) for number in range(3)]
        await turns()
        with pytest.raises(InternalError) as caught:
            await slots.wait()
        assert caught.value.data == {"reason": "overloaded"}
        for expected in range(3):
            assert order == list(range(expected))
            slots.release()
            await turns()
            assert slots.running == 2
        await asyncio.gather(*calls)
        slots.release()
        slots.release()
        assert (slots.running, len(slots)) == (0, 0)

    run(main())


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_call_that_is_cancelled_while_it_waits_takes_no_slot_with_it(run: Run, handed_over: bool) -> None:
    """Trap 22: not even where the slot was handed over in the moment of the cancel."""

    async def main() -> None:
        slots = Slots(1, 9)
        slots.running += 1
        first, second = asyncio.create_task(slots.wait()), asyncio.create_task(slots.wait())
        await turns()
        if handed_over:
            slots.release()
        first.cancel()
        if not handed_over:
            slots.release()
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.wait_for(second, 20)
        assert (slots.running, len(slots)) == (1, 0)

    run(main())


def test_a_call_lends_its_one_slot_while_it_asks_anything(run: Run) -> None:
    """Trap 24: with one slot, what the host is asked for may need it; asked thrice at once, it is still one slot."""

    async def main() -> None:
        slots = Slots(1, 9)
        slots.running += 1
        hold = Hold(slots)
        answers = [asyncio.get_running_loop().create_future() for _ in range(3)]
        asking = [asyncio.create_task(hold.lend(answer)) for answer in answers]
        await turns()
        assert slots.running == 0
        answers[0].set_result("a")
        await turns()
        assert slots.running == 0
        for answer in answers[1:]:
            answer.set_result("b")
        assert await asyncio.gather(*asking) == ["a", "b", "b"]
        assert slots.running == 1
        left = asyncio.create_task(hold.lend(late := asyncio.get_running_loop().create_future()))
        await turns()
        hold.end()
        slots.release()
        late.set_result("late")
        assert await left == "late"
        assert slots.running == 0

    run(main())


def test_a_mailbox_hands_out_in_order_one_at_a_time_and_sheds_the_oldest(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 25, and section 7: what a slow handler does not take is shed from the old end, counted, and said once."""

    async def main() -> None:
        seen: list[int] = []
        busy = 0
        go = asyncio.Event()

        async def handle(item: int) -> None:
            nonlocal busy
            busy += 1
            assert busy == 1
            await go.wait()
            seen.append(item)
            busy -= 1

        box = Mailbox("slow handler", handle, size=10)
        for item in range(3):
            box.put(item)
        await turns()
        for item in range(3, 30):
            box.put(item)
        assert box.task is not None
        go.set()
        await asyncio.wait_for(box.task, 20)
        assert seen == [0, *range(20, 30)]
        assert box.shed == 19
        assert box.task is None

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.message for record in caplog.records] == [
        "slow handler is too slow for its events: the oldest are shed (more than 10 wait)"
    ]
