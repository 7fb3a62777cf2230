"""A history that does not fit the code ends the attempt, whatever the code does with the error (I4)."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from processor import App, NondeterminismError, RacingStepsError, Retry, UnfitResultError, sync
from processor.testing import Bench


class Changed:
    """A workflow of one step `charge` that has failed behind it; in its next attempt the step has another name."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.is_changed = False
        self.ran: list[str] = []
        self.caught: list[BaseException] = []

    @property
    def name(self) -> str:
        return "charge_card" if self.is_changed else "charge"

    async def charge(self) -> str:
        return self.ran_as("charge")

    async def refund(self) -> str:
        return self.ran_as("refund")

    def ran_as(self, step: str) -> str:
        self.ran.append(step)
        return step

    async def attempt(self) -> None:
        await self.app.run_step(self.charge, name=self.name)
        raise ConnectionError("the process that has the old code fails here")

    async def refunded(self) -> None:
        try:
            await self.attempt()
        except Exception as error:
            if not self.is_changed:
                raise
            self.caught.append(error)
            await self.app.run_step(self.refund, name="refund")

    async def gathered(self) -> None:
        """What calls behind the mismatch is unwound, though it is gathered as a value."""
        if not self.is_changed:
            await self.attempt()
        refund = self.app.run_step(self.refund, name="charge")
        charge = self.app.run_step(self.charge, name="charge_card")
        both = await asyncio.gather(charge, refund, return_exceptions=True)
        self.caught += [each for each in both if isinstance(each, NondeterminismError)]
        assert [type(each).__name__ for each in both] == ["NondeterminismError", "Suspended"]
        await self.app.run_step(self.refund, name="refund")

    async def retried(self) -> None:
        while True:
            with suppress(Exception):
                await self.attempt()
            if not self.is_changed:
                raise ConnectionError

    async def grouped(self) -> None:
        if not self.is_changed:
            await self.attempt()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.app.run_step(self.charge, name="charge_card"))
        except ExceptionGroup as errors:
            self.caught += errors.exceptions
        self.ran_as("nothing durable")


async def _ended(database: str, changed: Changed, workflow: Callable[[], Awaitable[None]]) -> tuple[str, str]:
    """Status and error of a workflow whose code changed between its two attempts."""

    @changed.app.workflow(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    async def fulfil() -> None:
        await workflow()

    return await _of_two_attempts(database, changed, fulfil.start)


async def _of_two_attempts(database: str, changed: Changed, start: Callable[[], Awaitable[object]]) -> tuple[str, str]:
    async with Bench(changed.app, database) as bench:
        await start()
        await bench.settle()
        changed.is_changed = True
        await bench.advance(timedelta(hours=2))
        await bench.settle()

        history = await bench.fetch_all("SELECT function_id, function_name FROM dbos.operation_outputs")
        assert history == [(1, "charge")], "nothing was added to a history that does not fit"
        rows = await bench.fetch_all("SELECT status, error::json ->> 'type' FROM dbos.workflow_status")
    ((status, error),) = rows
    return status, error.partition(":")[2]


@pytest.mark.parametrize("way", ["refunded", "gathered", "retried", "grouped"])
async def test_a_mismatch_that_is_caught_ends_the_workflow_and_lets_nothing_run(database: str, way: str) -> None:
    """I4: a compensation would run over a history in which there is nothing, or something else, to compensate."""
    changed = Changed()

    ended = await _ended(database, changed, getattr(changed, way))

    assert ended == ("ERROR", NondeterminismError.__name__)
    assert "refund" not in changed.ran
    assert changed.ran.count("charge") == 1
    assert all(isinstance(error, NondeterminismError) for error in changed.caught)


async def test_a_mismatch_that_a_sync_workflow_catches_ends_it(database: str) -> None:
    """I4: in a thread as on the loop, also where the code never stops to try."""
    changed = Changed()

    @changed.app.workflow(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    def fulfil() -> None:
        try:
            sync.run_step(changed.ran_as, "charge", name=changed.name)
        except NondeterminismError as error:
            changed.caught.append(error)
            while True:
                with suppress(Exception):
                    sync.run_step(changed.ran_as, "refund", name="refund")
        raise ConnectionError

    ended = await _of_two_attempts(database, changed, fulfil.start)

    assert ended == ("ERROR", NondeterminismError.__name__)
    assert changed.ran == ["charge"]
    assert len(changed.caught) == 1


async def test_a_recorded_result_that_the_step_cannot_return_any_more_is_no_failure_of_the_step(database: str) -> None:
    """I4: the step succeeded; code that takes the unreadable record for its failure would compensate what stands."""
    changed = Changed()

    async def bill() -> object:
        changed.ran_as("charge")
        return "paid"

    @changed.app.workflow(retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
    async def fulfil() -> None:
        bill.__annotations__["return"] = int if changed.is_changed else str
        try:
            await changed.app.run_step(bill, name="charge")
        except UnfitResultError as error:
            changed.caught.append(error)
            await changed.app.run_step(changed.refund, name="refund")
        raise ConnectionError

    ended = await _of_two_attempts(database, changed, fulfil.start)

    assert ended == ("ERROR", UnfitResultError.__name__)
    assert changed.ran == ["charge"]
    assert isinstance(changed.caught[0], UnfitResultError)


async def test_a_race_that_is_caught_again_and_again_ends_the_workflow(database: str) -> None:
    """I4: nothing that the code does with the error keeps the attempt alive."""
    app = App("shop")

    async def call() -> None: ...

    async def sequence() -> None:
        while True:
            with suppress(Exception):
                await app.run_step(call, name="call")

    @app.workflow()
    async def race() -> None:
        await asyncio.gather(sequence(), sequence())

    async with Bench(app, database):
        handle = await race.start()
        with pytest.raises(RacingStepsError, match="was called in a task"):
            await handle.result()
