"""Slots and mailboxes, without anything that goes through them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sepkit.concurrency.lanes import Hold, Mailbox, Slots
from sepkit.errors import InternalError

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def start(work: Coroutine[Any, Any, object], name: str, ended: Callable[[], None]) -> None:
    """Begin a work in the next turn of the loop."""
    asyncio.get_running_loop().create_task(work, name=name).add_done_callback(lambda _: ended())


def start_now(work: Coroutine[Any, Any, object], name: str, ended: Callable[[], None]) -> None:
    """Begin a work that never waits."""
    with pytest.raises(StopIteration):
        work.send(None)
    ended()


async def idle(box: Mailbox[Any]) -> None:
    await asyncio.wait_for(box.wait_idle(), 20)
    assert not box.busy


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_slots_are_given_first_come_first_served_and_never_more_than_there_are(run: Run) -> None:
    """Calls past ``max_concurrency`` wait in a bounded queue; past that they are refused at once."""

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
    """Also if the slot was handed over at the moment of the cancel."""

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
    """The host may need the slot to answer; three questions at once still lend one slot."""

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
        assert slots.running == 0
        late.set_result("late")
        assert await left == "late"
        assert slots.running == 0
        after = asyncio.create_task(hold.lend(later := asyncio.get_running_loop().create_future()))
        await turns()
        assert slots.running == 0, "a task that the call has left behind has nothing to lend"
        later.set_result("later")
        assert await after == "later"
        assert slots.running == 0

    run(main())


@pytest.mark.parametrize("number", range(4))
def test_any_of_those_who_wait_may_give_up_and_the_others_keep_their_order(run: Run, number: int) -> None:
    """First come, first served; a caller that gives up leaves no gap, and no slot is lost."""

    async def main() -> None:
        slots = Slots(1, 9)
        slots.running += 1
        order: list[int] = []

        async def call(number: int) -> None:
            await slots.wait()
            order.append(number)
            await turns()
            slots.release()

        calls = [asyncio.create_task(call(number)) for number in range(4)]
        await turns()
        calls[number].cancel()
        slots.release()
        await asyncio.wait(calls, timeout=20)
        assert order == [n for n in range(4) if n != number]
        assert (slots.running, len(slots)) == (0, 0)

    run(main())


def test_who_gives_up_waiting_makes_room_for_another(run: Run) -> None:
    """The queue is bounded by the calls that wait, not by all that have ever waited."""

    async def main() -> None:
        slots = Slots(1, 1)
        slots.running += 1
        for _ in range(3):
            waiting = asyncio.create_task(slots.wait())
            await turns()
            with pytest.raises(InternalError, match="overloaded: 1 calls are running and 1 are waiting"):
                await slots.wait()
            waiting.cancel()
            await asyncio.wait([waiting])
        last = asyncio.create_task(slots.wait())
        await turns()
        slots.release()
        await asyncio.wait_for(last, 20)
        assert (slots.running, len(slots)) == (1, 0)

    run(main())


def test_no_place_to_wait_is_refused_at_once(run: Run) -> None:
    """A call past the queue is refused at once, also if there is no queue."""

    async def main() -> None:
        slots = Slots(1, 0)
        slots.running += 1
        with pytest.raises(InternalError, match="overloaded"):
            await asyncio.wait_for(slots.wait(), 20)
        assert slots.running == 1

    run(main())


def test_five_calls_deep_one_slot_is_enough(run: Run) -> None:
    """Extension → host → extension → host, five deep, works with ``max_concurrency=1``."""

    async def main() -> None:
        slots = Slots(1, 9)
        most = 0

        async def call(depth: int) -> list[int]:
            nonlocal most
            if slots.running < slots.size:
                slots.running += 1
            else:
                await slots.wait()
            most = max(most, slots.running)
            hold = Hold(slots)
            try:
                await asyncio.sleep(0)
                below = await hold.lend(asyncio.ensure_future(call(depth - 1))) if depth else []
                await asyncio.sleep(0)
                return [depth, *below]
            finally:
                hold.end()
                slots.release()

        assert await asyncio.wait_for(call(5), 20) == [5, 4, 3, 2, 1, 0]
        assert (slots.running, len(slots)) == (0, 0)
        assert most == 1
        # Many at once, each of them deep: nobody waits for itself.
        found = await asyncio.wait_for(asyncio.gather(*(call(5) for _ in range(5))), 20)
        assert found == [[5, 4, 3, 2, 1, 0]] * 5
        assert (slots.running, len(slots)) == (0, 0)

    run(main())


@pytest.mark.parametrize("how", ["error", "cancel"])
def test_a_lent_slot_comes_back_whatever_became_of_the_question(run: Run, how: str) -> None:
    """A slot that was lent for a question that failed or was cancelled is free for the next call."""

    async def main() -> None:
        slots = Slots(1, 9)
        slots.running += 1
        hold = Hold(slots)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asking = asyncio.create_task(hold.lend(answer))
        await turns()
        assert slots.running == 0
        if how == "error":
            answer.set_exception(ValueError("no"))
        else:
            asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled() or isinstance(asking.exception(), ValueError)
        assert slots.running == 1
        hold.end()
        slots.release()
        assert slots.running == 0

    run(main())


def test_a_call_goes_on_at_once_when_its_answer_comes_and_then_nobody_begins_too_early(run: Run) -> None:
    """``Slots``: for a moment more than ``size`` may run; until they are fewer again, nobody else begins."""

    async def main() -> None:
        slots = Slots(1, 9)
        slots.running += 1
        hold = Hold(slots)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asking = asyncio.create_task(hold.lend(answer))
        await turns()
        slots.running += 1  # a second call takes what was lent
        third = asyncio.create_task(slots.wait())
        await turns()
        answer.set_result(None)
        await asking
        assert slots.running == 2
        slots.release()
        await turns()
        assert not third.done()
        slots.release()
        await asyncio.wait_for(third, 20)
        assert slots.running == 1

    run(main())


def test_a_mailbox_hands_out_in_order_one_at_a_time_and_sheds_the_oldest(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """What a slow handler does not take is dropped from the old end, counted, and told once.

    Source: docs/protocol.md, section 7.
    """

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

        box = Mailbox("slow handler", handle, start, size=10)
        for item in range(3):
            box.put(item)
        await turns()
        for item in range(3, 30):
            box.put(item)
        assert box.busy
        go.set()
        await idle(box)
        assert seen == [0, *range(20, 30)]
        assert box.shed == 19

    with caplog.at_level(logging.WARNING):
        run(main())
    assert [record.message for record in caplog.records] == [
        "slow handler is too slow for its events: the oldest are shed (more than 10 wait)"
    ]


def test_a_slow_mailbox_delays_no_other(run: Run) -> None:
    """Each handler gets one item at a time; a slow handler delays no other."""

    async def main() -> None:
        go = asyncio.Event()
        seen: list[str] = []

        async def slow(item: int) -> None:
            await go.wait()
            seen.append(f"slow {item}")

        async def quick(item: int) -> None:
            seen.append(f"quick {item}")

        boxes = [Mailbox("slow", slow, start), Mailbox("quick", quick, start)]
        for item in range(3):
            for box in boxes:
                box.put(item)
        await turns(10)
        assert seen == ["quick 0", "quick 1", "quick 2"]
        go.set()
        await idle(boxes[0])
        assert seen[3:] == ["slow 0", "slow 1", "slow 2"]
        assert [box.shed for box in boxes] == [0, 0]

    run(main())


def test_what_is_put_while_the_last_item_is_handled_is_handled_next(run: Run) -> None:
    """No item is forgotten: put from within the handler, at its end, or when all is done."""

    async def main() -> None:
        seen: list[int] = []

        async def handle(item: int) -> None:
            seen.append(item)
            if item < 3:
                box.put(item + 1)
            await asyncio.sleep(0)

        box = Mailbox("handler", handle, start)
        box.put(0)
        for expected in ([0, 1, 2, 3], [0, 1, 2, 3, 9]):
            await idle(box)
            assert seen == expected
            box.put(9)

        for pause in range(6):
            await turns(pause)
            box.put(100 + pause)
        await idle(box)
        assert seen[-6:] == [100, 101, 102, 103, 104, 105]

    run(main())


def test_an_item_whose_handling_fails_is_said_and_the_next_one_is_handled(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """``Mailbox``: a failing handler delays nothing, not even what comes behind in its own mailbox."""

    async def main() -> None:
        seen: list[int] = []

        async def handle(item: int) -> None:
            if item == 1:
                raise ValueError("this one")
            seen.append(item)

        box = Mailbox("picky handler", handle, start)
        for item in range(3):
            box.put(item)
        await idle(box)
        assert seen == [0, 2]

    run(main())
    (record,) = caplog.records
    assert record.getMessage() == "picky handler failed"
    assert record.exc_info is not None


def test_a_mailbox_that_was_cancelled_drops_what_waited_and_takes_up_its_work_again(run: Run) -> None:
    """``Mailbox.cancel``: what is being handled is cancelled; what is put later is handled."""

    async def main() -> None:
        seen: list[int] = []

        async def handle(item: int) -> None:
            await asyncio.sleep(0)
            seen.append(item)

        box = Mailbox("handler", handle, start)
        box.put(0)
        box.put(1)
        await asyncio.sleep(0)
        box.cancel()
        await idle(box)
        box.put(2)
        await idle(box)
        assert seen == [2]

    run(main())


def test_a_thousand_items_that_are_handled_at_once_need_no_deeper_stack(run: Run) -> None:
    """Items that waited behind a slow one are handled one after the other, not one within the other."""

    async def main() -> None:
        seen: list[int] = []

        async def handle(item: int) -> None:
            if item == 0:
                for other in range(1, 1001):
                    box.put(other)
            seen.append(item)

        box = Mailbox("handler", handle, start_now)
        box.put(0)
        assert seen == list(range(1001))

    run(main())


def test_each_item_is_handled_in_a_task_of_its_own(run: Run) -> None:
    """What a handler keeps under its task, it does not find at the next item."""

    async def main() -> None:
        tasks: list[object] = []

        async def handle(item: int) -> None:
            tasks.append(asyncio.current_task())

        box = Mailbox("handler", handle, start)
        for item in range(3):
            box.put(item)
        await idle(box)
        assert len(set(tasks)) == 3

    run(main())
