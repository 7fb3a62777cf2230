"""What a workflow is given by its steps is what a replay gives it, to the last type (I4, decision 0033)."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from processor import (
    App,
    Queue,
    Retry,
    SyncTransaction,
    Topic,
    Transaction,
    get_event,
    read_stream,
    recv,
    send,
    set_event,
    sleep,
    sync,
    write_stream,
)
from processor.testing import Bench
from tests.integration.protocol import until
from tests.integration.talking import at_rest

DAY = timedelta(days=1)


class Payment(BaseModel):
    amount: int
    note: str | None = None


class Refund(Payment):
    reason: str


class Aliased(BaseModel):
    amount: int = Field(alias="theAmount")
    token: SecretStr = SecretStr("t")


def exactly(value: Any) -> Any:
    """A value with its type, and which fields were set."""
    if isinstance(value, BaseModel):
        return type(value), value, sorted(value.model_fields_set)
    return type(value), repr(value)


def inline() -> Any:
    return {3: (4,)}


class Seen:
    """What the code of a workflow was given, in each run of it."""

    def __init__(self) -> None:
        self.runs: list[list[Any]] = []

    def begin(self) -> Callable[[Any], None]:
        given: list[Any] = []
        self.runs.append(given)
        return lambda value: given.append(exactly(value))

    def check(self, *, runs: int, values: int) -> None:
        assert len(self.runs) == runs
        assert all(len(each) == values for each in self.runs)
        assert all(each == self.runs[0] for each in self.runs)


RETURNED: list[Callable[[], Any]] = [
    lambda: (1, 2),
    lambda: [(1,), {2}],
    lambda: {1: (2,)},
    lambda: Payment(amount=1),
    lambda: {"at": timedelta(seconds=1), "kind": Refund(amount=1, reason="r")},
    lambda: defaultdict(list, {"a": [1]}),
    lambda: float("inf"),
]


async def test_steps_of_every_kind_give_what_a_replay_gives(database: str) -> None:
    """Async and inline steps, transactions in groups and alone: `Any`, and subclasses of what is announced."""
    app, seen = App("values"), Seen()

    @app.step()
    async def anything(n: int) -> Any:
        return RETURNED[n]()

    @app.step()
    async def pay() -> Payment:
        return Refund(amount=1, reason="r")

    @app.step()
    async def unset() -> Payment:
        return Payment(amount=1)

    @app.step()
    async def aliased() -> Aliased:
        return Aliased.model_validate({"theAmount": 1})

    @app.transaction()
    async def grouped(tx: Transaction) -> list[Any]:
        await tx.execute("SELECT 1")
        return [(1, Payment(amount=2))]

    @app.transaction(isolation="serializable")
    async def alone(tx: Transaction) -> Payment | None:
        await tx.execute("SELECT 1")
        return Refund(amount=1, reason="r")

    @app.transaction(read_only=True)
    async def reading(tx: Transaction) -> Any:
        return tuple(await (await tx.execute("SELECT 1, 2")).fetchall())

    calls: list[Callable[[], Awaitable[Any]]] = [partial(anything, n) for n in range(len(RETURNED))]
    calls += [pay, unset, aliased, grouped, alone, reading, partial(app.run_step, inline)]

    @app.workflow()
    async def work() -> None:
        given = seen.begin()
        for call in calls:
            given(await call())
        await sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await work.start()
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)
        await handle.result()

    seen.check(runs=2, values=len(calls))


async def test_sync_steps_give_what_a_replay_gives(database: str) -> None:
    """In the workflow's own thread, in one of the step's, in a transaction's."""
    app, seen = App("values"), Seen()

    @app.step()
    def own() -> Any:
        return [(1,)]

    @app.step(timeout=timedelta(seconds=30))
    def limited() -> Payment:
        return Refund(amount=1, reason="r")

    @app.transaction()
    def transaction(tx: SyncTransaction) -> Any:
        tx.execute("SELECT 1")
        return {1: 2}

    @app.workflow()
    def work() -> None:
        given = seen.begin()
        for step in (own, limited, transaction):
            given(step())
        given(sync.run_step(lambda: [1], name="inline"))
        sync.sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await work.start()
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)
        await handle.result()

    seen.check(runs=2, values=4)


async def test_what_others_bring_is_what_a_replay_gives(database: str) -> None:
    """Results of children, messages, events, streams; and of a child whose handle is asked twice."""
    app, seen = App("values"), Seen()

    @app.workflow()
    async def child() -> Payment:
        await set_event("state", {1: (2,)})
        await write_stream("log", Payment(amount=1))
        return Refund(amount=1, reason="r")

    @app.workflow()
    async def work() -> None:
        given = seen.begin()
        handle = await child.start(id="c")
        given(await handle.result())
        given(await child())
        given(await get_event("c", "state", timeout=DAY))
        async for value in read_stream("c", "log", model=Payment):
            given(value)
        given(await recv())
        given(await recv(model=Payment))
        given((await handle.status()).status)
        await sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await work.start(id="w")
        await app.send("w", {1: (2,)})
        await app.send("w", Refund(amount=1, reason="r"))
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)
        await handle.result()

    seen.check(runs=2, values=7)


async def test_a_result_is_the_same_for_who_is_here_and_for_who_reads_the_row(database: str) -> None:
    """Of a workflow, whichever way it was started; of a fused handler there is only the row."""
    app = App("values")
    queue = Queue("q")
    app.register_queue(queue)

    @app.workflow()
    async def pay(payment: Payment) -> Any:
        return payment, (payment.amount,)

    async with Bench(app, database) as bench:
        refund = Refund(amount=1, reason="r")
        called = await pay(refund)
        started = await (await pay.start(refund, id="w")).result()
        queued = await (await queue.enqueue(pay, refund)).result()
        read = await app.retrieve("w").result()
        await bench.settle()

    assert called == started == queued == read == [{"amount": 1, "note": None}, [1]]


async def test_another_attempt_begins_with_the_arguments_as_they_were(database: str) -> None:
    """P28: what an attempt did to its order in memory is not what the next one begins with, or a replay would differ."""
    app = App("values")
    orders = Topic("orders", dict[str, list[int]])
    seen: list[Any] = []

    @app.step()
    async def fails(first: bool) -> None:
        if first:
            raise ConnectionError("once")

    @app.workflow(on=orders, retry=Retry(attempts=3, first_delay=timedelta(0)))
    async def work(order: dict[str, list[int]]) -> None:
        seen.append(str(order))
        order["lines"].append(1)
        await fails(len(seen) == 1)

    @app.workflow(retry=Retry(attempts=3, first_delay=timedelta(0)))
    async def called(order: dict[str, list[int]]) -> None:
        seen.append(str(order))
        order["lines"].append(1)
        await fails(len(seen) == 3)

    async with Bench(app, database) as bench:
        await bench.deliver(orders, {"lines": []})
        await bench.settle()
        await (await called.start({"lines": []})).result()

    assert seen == ["{'lines': []}"] * 4


async def test_a_workflow_that_wakes_here_begins_with_its_argument_as_it_was(database: str) -> None:
    """The same for one that rested, in the process it rested in."""
    app = App("values")
    orders = Topic("orders", dict[str, list[int]])
    seen: list[Any] = []

    @app.workflow(on=orders)
    async def work(order: dict[str, list[int]]) -> None:
        seen.append(str(order))
        order["lines"].append(1)
        await sleep(DAY)

    async with Bench(app, database) as bench:
        await bench.deliver(orders, {"lines": []})
        await at_rest(bench)
        await bench.advance(DAY)
        await until(lambda: len(seen) == 2)

    assert seen == ["{'lines': []}"] * 2


@pytest.mark.parametrize("is_sync", [False, True])
async def test_a_result_that_cannot_be_recorded_fails_its_step_by_name(database: str, is_sync: bool) -> None:
    """At the first call, with the step and what of its result is wrong; it is remembered as any error."""
    app = App("values")

    class Measured(BaseModel):
        values: list[float]

    def result() -> Measured:
        return Measured(values=[1.5, float("inf")])

    if is_sync:

        @app.step(name="measure")
        def measure_sync() -> Measured:
            return result()

        @app.workflow(name="work")
        def work_sync() -> str:
            try:
                return str(measure_sync())
            except TypeError as error:
                return str(error)

        work: Any = work_sync
    else:

        @app.step(name="measure")
        async def measure() -> Measured:
            return result()

        @app.workflow(name="work")
        async def work_async() -> str:
            try:
                return str(await measure())
            except TypeError as error:
                return str(error)

        work = work_async

    async with Bench(app, database):
        said = await (await work.start()).result()

    assert "step 'measure': the result is no test_a_result" in said
    assert "values.1: Input should be a valid number" in said


async def test_an_inline_step_says_which_of_it_would_not_come_back(database: str) -> None:
    """Without an annotation nobody says what a list should become again: a tuple is refused."""
    app = App("values")

    @app.workflow()
    async def work() -> str:
        try:
            await app.run_step(lambda: {"a": [(1,)]}, name="pair")
        except TypeError as error:
            return str(error)
        return ""

    async with Bench(app, database):
        said = await (await work.start()).result()

    assert said.startswith("step 'pair': the result would not come back as it is")
    assert "a" in said.split(":", 2)[2]


async def test_what_two_steps_return_is_no_object_of_both(database: str) -> None:
    """What JSON does not prove plain is a value of the workflow's own: changing it changes no step's memory."""
    app = App("values")
    known: list[Any] = [(1,)]
    seen: list[Any] = []

    @app.step()
    async def cached() -> Any:
        return known

    @app.workflow()
    async def work() -> None:
        first = await cached()
        first.append(2)
        seen.append([first, await cached()])
        await sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await work.start()
        await at_rest(bench)
        await bench.advance(DAY)
        await handle.result()

    assert seen == [[[[1], 2], [[1]]]] * 2
    assert known == [(1,)]


async def test_time_outs_of_steps_are_the_same_in_a_replay(database: str) -> None:
    """One of a step's own is its recorded error."""
    app = App("values")
    seen: list[str] = []

    @app.step(timeout=timedelta(milliseconds=1))
    async def slow() -> int:
        await asyncio.sleep(30)
        return 1

    @app.workflow()
    async def work() -> None:
        try:
            seen.append(str(await slow()))
        except TimeoutError as error:
            seen.append(str(error))
        try:
            await recv(timeout=timedelta(seconds=1))
            seen.append("none")
        finally:
            await send("w", 1)
        seen.append(str(await recv()))
        await sleep(DAY)

    async with Bench(app, database) as bench:
        handle = await work.start(id="w")
        await bench.settle()
        await bench.advance(timedelta(seconds=1))
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)
        await handle.result()

    assert seen[-3:] == seen[-6:-3]
    assert seen[-2:] == ["none", "1"]
