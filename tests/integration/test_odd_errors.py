"""Errors that are odd in themselves, wherever a user's code may raise them: a failure of their record alone (I1, I8)."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from processor import App, Ordering, RawRecord, SyncTransaction, Topic, Transaction, sync
from processor.testing import Bench

Numbers = dict[str, int]


class UnspeakableError(Exception):
    """Its own text raises, where what it wants is not there."""

    def __str__(self) -> str:
        return "no order {}".format(self.args[0]["id"])


class PanicException(BaseException):
    """As extensions written in Rust raise it."""


def finds_nothing() -> None:
    next(each for each in () if each)


def says_nothing() -> None:
    raise UnspeakableError({})


def panics() -> None:
    raise PanicException("index out of bounds")


def closes() -> None:
    raise GeneratorExit


ODD = [finds_nothing, says_nothing, panics, closes]


def plain(**options: Any) -> Topic[Numbers]:
    return Topic("numbers", Numbers, key=lambda number: str(number["n"]), **options)


def is_first(record: RawRecord) -> bool:
    return record.value == b'{"n":0}'


def where(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    def chosen(record: RawRecord) -> bool:
        if is_first(record):
            odd()
        return True

    return handled(app, plain(where=chosen))


def order_by(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    def ordered(number: Numbers) -> str:
        if number["n"] == 0:
            odd()
        return str(number["n"])

    return handled(app, plain(order_by=ordered))


def handled(app: App, topic: Topic[Numbers]) -> Topic[Numbers]:
    @app.workflow(on=topic)
    async def handle(number: Numbers) -> None: ...

    return topic


def fails(number: Numbers, odd: Callable[[], None]) -> None:
    if number["n"] == 0:
        odd()


def workflow(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain()

    @app.workflow(on=topic)
    def handle(number: Numbers) -> None:
        fails(number, odd)

    return topic


def threaded_step(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain()

    @app.workflow(on=topic)
    async def handle(number: Numbers) -> None:
        await app.run_step(fails, number, odd, name="fails")

    return topic


def sync_step(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain()

    @app.workflow(on=topic)
    def handle(number: Numbers) -> None:
        sync.run_step(fails, number, odd, name="fails")

    return topic


def sync_transaction(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain()

    @app.transaction()
    def record(tx: SyncTransaction, number: Numbers) -> None:
        fails(number, odd)

    @app.workflow(on=topic)
    async def handle(number: Numbers) -> None:
        await app.run_step(record, number)

    return topic


def fused_sync(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain()

    @app.transaction(on=topic)
    def handle(tx: SyncTransaction, number: Numbers) -> None:
        fails(number, odd)

    return topic


def fused(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain()

    @app.transaction(on=topic)
    async def handle(tx: Transaction, number: Numbers) -> None:
        fails(number, odd)

    return topic


def batch_sync(app: App, odd: Callable[[], None]) -> Topic[Numbers]:
    topic = plain(ordering=Ordering.NONE)

    @app.batch(on=topic, size=10)
    def handle(tx: SyncTransaction, numbers: Sequence[Numbers]) -> None:
        for number in numbers:
            fails(number, odd)

    return topic


PLACES = [where, order_by, workflow, threaded_step, sync_step, sync_transaction, fused_sync, fused, batch_sync]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_an_odd_error_is_a_dead_letter_of_its_record_alone(
    database: str, place: Callable[[App, Callable[[], None]], Topic[Numbers]], odd: Callable[[], None]
) -> None:
    """Nothing else is lost, stopped or told that the database is at fault, and nothing waits for ever."""
    app = App("odd")
    topic = place(app, odd)
    async with Bench(app, database) as bench:
        for n in range(5):
            await bench.deliver(topic, {"n": n})
        await bench.settle()
        statuses = await bench.fetch_all("SELECT kafka_offset, status FROM dbos.workflow_status ORDER BY 1")
        letters = await bench.fetch_all("SELECT kafka_offset FROM dbos.dead_letter")
        ((held,),) = await bench.fetch_all("SELECT count(*) FROM dbos.hold")

    assert statuses == [(0, "ERROR"), *((n, "SUCCESS") for n in range(1, 5))]
    assert letters == [(0,)]
    assert held == 0
