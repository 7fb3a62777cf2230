"""How tasks are ended."""

import asyncio

from engine.tasks import end


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """I8: a stop must not wait for ever for a loop that goes on."""
    swallowed = 0

    async def loop() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)

    await end(task, again_s=0.01)

    assert task.cancelled()
    assert swallowed == 3


async def test_a_task_that_has_ended_is_left_alone() -> None:
    task = asyncio.create_task(asyncio.sleep(0, "done"))
    await task

    await end(task)

    assert task.result() == "done"
