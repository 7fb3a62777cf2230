"""Long examinations run on a loop of their own: one of a kind at a time, and none outlasts its request (I10)."""

import asyncio
import threading

import pytest

from processor.web.apart import Apart
from processor.web.problems import Problem


async def test_it_runs_in_another_thread_and_its_error_is_the_callers() -> None:
    apart = Apart("a proof")

    async def where() -> int:
        return threading.get_ident()

    async def fails() -> None:
        raise ValueError("the log is gone")

    assert await apart.run(where) != threading.get_ident()
    with pytest.raises(ValueError, match="the log is gone"):
        await apart.run(fails)
    assert await apart.run(where) != threading.get_ident(), "it is free again"


async def test_a_second_one_is_told_to_come_back() -> None:
    apart, began, goes_on = Apart("a proof"), threading.Event(), threading.Event()

    async def waits() -> str:
        began.set()
        await asyncio.to_thread(goes_on.wait)
        return "proven"

    first = asyncio.ensure_future(apart.run(waits))
    await asyncio.to_thread(began.wait)

    with pytest.raises(Problem) as refused:
        await apart.run(waits)
    goes_on.set()

    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "5")
    assert "a proof is under way" in refused.value.detail
    assert await first == "proven"


async def test_one_whose_request_is_over_is_cancelled_and_has_ended_then() -> None:
    """Its connections are closed before anybody is told that the request is over."""
    apart, began, ended = Apart("a proof"), threading.Event(), threading.Event()

    async def waits() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    first = asyncio.ensure_future(apart.run(waits))
    await asyncio.to_thread(began.wait)
    first.cancel()

    with pytest.raises(asyncio.CancelledError):
        await first
    assert ended.is_set()

    async def after() -> int:
        return 1

    assert await apart.run(after) == 1
