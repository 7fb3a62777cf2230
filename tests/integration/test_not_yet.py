"""A format that cannot say yet: its partition waits, in order and visibly, and nothing is lost (decision 0011; I1, I7)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from engine.inspection import list_partitions
from engine.pool import connect
from engine.telemetry import DecodingResumed, DecodingWaits
from processor import App, Json, NotYet, RawRecord, Topic, Transaction, UndecodableError
from processor.testing import Bench
from tests.integration.protocol import FAST, LAZY, Order, Shop, statuses, until, until_row

SOON = timedelta(milliseconds=5)


class Gate:
    """A codec that is not ready for records of some numbers, and says why once it has said that it looks.

    Attributes:
        shut: Numbers of orders that wait.
        refused: Numbers of orders that are none.
        asked: How often each was asked about.
    """

    embeds_json = True

    def __init__(self, *, reason: str | None = "the registry is away") -> None:
        self.shut: set[int] = set()
        self.refused: set[int] = set()
        self.asked = Counter[int]()
        self.reason = reason
        self._json = Json(Order)

    def decode(self, value: bytes, record: RawRecord) -> Order:
        order = self._json.decode(value, record)
        self.asked[order.n] += 1
        if order.n in self.refused:
            raise UndecodableError(f"{record}: the registry has no such schema")
        if order.n in self.shut:
            raise NotYet(self.reason, again_in=SOON)
        return order

    def encode(self, event: Order) -> bytes:
        return self._json.encode(event)


def gated(gate: Gate, *, filters: bool = False) -> Topic[Order]:
    return Topic("orders", Order, order_by=lambda order: order.key, format=gate, where=_is_wanted if filters else None)


def _is_wanted(record: RawRecord) -> bool:
    return ("wanted", b"yes") in record.headers


async def deliver(
    bench: Bench, topic: Topic[Order], keys: Sequence[str], *, start: int = 0, partition: int = 0
) -> None:
    for n, key in enumerate(keys, start):
        await bench.deliver(topic, Order(key=key, n=n), partition=partition)


async def test_a_partition_waits_in_order_while_others_go_on(database: str) -> None:
    """I7: behind the record that waits, nothing of its partition is taken in; what came before goes on."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=FAST) as bench:
        gate.shut = {1}
        await deliver(bench, shop.topic, ["a", "a", "b"])
        await deliver(bench, shop.topic, ["a", "b"], start=10, partition=1)
        await until(lambda: {"second 0", "second 10", "second 11"} <= set(shop.ended))
        await until(lambda: gate.asked[1] > 3)

        assert not {1, 2} & set(shop.begun("first")), "a record ran that waits, or from behind one that waits"
        assert gate.asked[2] == 0

        gate.shut.clear()
        await bench.settle()
        assert await statuses(bench) == [(n, "SUCCESS") for n in (0, 0, 1, 1, 2)]
        assert [n for n in shop.begun("first") if n < 3] == [0, 1, 2]


async def test_why_it_waits_can_be_seen_from_outside_until_it_goes_on(database: str) -> None:
    """I8: an event for each reason and one at the end, a gauge, and the progress row."""
    gate = Gate(reason=None)
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=FAST) as bench, await connect(bench.settings, "test") as connection:

        async def stored() -> str | None:
            rows = await list_partitions(connection, bench.settings.schema)
            return rows[0].progress.waits

        gate.shut = {0}
        await deliver(bench, shop.topic, ["a", "b"])
        await until(lambda: gate.asked[0] > 5)
        assert not [event for event in bench.events if isinstance(event, DecodingWaits)], "it was only just asked for"

        gate.reason = "schema 7: HTTP 503"
        await until(lambda: bool([event for event in bench.events if isinstance(event, DecodingWaits)]))
        asked = gate.asked[0]
        await until(lambda: gate.asked[0] > asked + 3)
        while await stored() is None:
            await bench.fetch_all("SELECT pg_sleep(0.01)")
        assert await stored() == "schema 7: HTTP 503"
        assert [source.waits for source in bench.engine.snapshot().sources] == ["schema 7: HTTP 503"]

        gate.shut.clear()
        await bench.settle()
        assert await stored() is None
        assert bench.engine.snapshot().sources[0].waits is None
        told = [event for event in bench.events if isinstance(event, DecodingWaits | DecodingResumed)]
        assert [type(event) for event in told] == [DecodingWaits, DecodingResumed], "one for its reason, one at the end"


async def test_a_crash_while_it_waits_loses_nothing(database: str) -> None:
    """I1, I2: no record behind the one that waits has a row; all of them are fetched again from `next`."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=FAST) as bench:
        gate.shut = {1}
        await deliver(bench, shop.topic, ["a", "a", "b"])
        await until(lambda: gate.asked[1] > 2)
        await until_row(bench, "kafka_offset = 0 AND status = 'SUCCESS'")

        await bench.crash_now()
        asked = gate.asked[1]
        await until(lambda: gate.asked[1] > asked + 2)
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'") == [(1,)]

        gate.shut.clear()
        await bench.settle()
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(3)]
        assert [n for n in shop.begun("second") if n in (1, 2)] == [1, 2]


async def test_the_filter_sees_all_headers_again(database: str) -> None:
    """I1: decoding sees only the headers of the allow-list; a record that is put back must not be filtered for that."""
    gate = Gate()
    shop = Shop(gated(gate, filters=True))
    async with Bench(shop.app, database, settings=FAST) as bench:
        gate.shut = {0}
        await bench.deliver(shop.topic, Order(key="a", n=0), headers=[("wanted", b"yes")])
        await until(lambda: gate.asked[0] > 2)
        gate.shut.clear()
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS")]


async def test_records_that_are_looked_up_wait_behind_the_first_of_them_that_waits(database: str) -> None:
    """P16, I7: of those asked for together some have rows, some not; nobody overtakes, nobody runs twice."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=LAZY) as bench:
        shop.shut = {"first 0", "second 1", "first 2", "first 3", "second 4"}
        await deliver(bench, shop.topic, ["z", "x", "k", "k", "y"])
        await until_row(bench, "kafka_offset = 1")
        await until_row(bench, "kafka_offset = 4")  # `high` is 5; 0, 2 and 3 have no rows
        shop.began.clear()
        gate.shut = {2}
        # Caution (P21) ends with the first record, so that the others are decoded when they are looked up.
        bench.settings = replace(bench.settings, in_flight_max=1)

        await bench.crash_now()
        shop.shut.clear()
        await until(lambda: gate.asked[2] > 2)

        assert not {2, 3} & set(shop.begun("first"))
        gate.shut.clear()
        await bench.settle()
        assert [n for n in shop.begun("first") if n in (2, 3)] == [2, 3]
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(5)]


async def test_a_raw_row_waits_as_a_row_and_is_not_blamed(database: str) -> None:
    """P21, P22: after a death the rows come first; that one of them cannot be decoded yet kills nobody."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=LAZY) as bench:
        shop.shut = {"first 0", "first 1", "first 2"}
        await deliver(bench, shop.topic, ["a", "a", "b"])
        await until(lambda: "first 0" in shop.began)
        gate.shut = {0}
        shop.began.clear()
        bench.settings = replace(bench.settings, persist_after=FAST.persist_after)

        await bench.crash_now()
        shop.shut.clear()
        await until_row(bench, "kafka_offset = 2")
        await until(lambda: gate.asked[0] > 3)
        assert not shop.began, "raw rows under order_by run one after the other"
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("PENDING",)]

        gate.shut.clear()
        await bench.settle()
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(3)]
        assert [n for n in shop.begun("first") if n < 2] == [0, 1]


async def test_a_suspect_that_waits_has_not_killed_its_process(database: str) -> None:
    """P22: its start alone is taken back, and others run meanwhile; however often it waits, it is not buried."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=LAZY) as bench:
        shop.shut = {"second 0"}
        await deliver(bench, shop.topic, ["a", "b"])
        await until_row(bench, "kafka_offset = 0")
        await until_row(bench, "kafka_offset = 1 AND status = 'SUCCESS'")
        await bench.crash_now()
        await until(lambda: shop.began.count("second 0") == 2)
        await bench.crash_now()
        await until(lambda: shop.began.count("second 0") == 3)
        gate.shut = {0}
        asked = gate.asked[0]

        await bench.crash_now()
        await until(lambda: gate.asked[0] > asked + 5)
        await deliver(bench, shop.topic, ["c"], start=2)
        await until_row(bench, "kafka_offset = 2 AND status = 'SUCCESS'")

        shop.shut.clear()
        gate.shut.clear()
        await bench.settle()
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(3)]
        assert not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE kafka_alone > 0")


async def test_an_open_row_waits_with_its_key_while_rows_of_other_keys_go_on(database: str) -> None:
    """I7, P15: a row of an earlier owner is in its order already."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.shut = {"first 0", "first 2"}
        await deliver(bench, shop.topic, ["a", "a", "b"])
        for n in (0, 1, 2):
            await until_row(bench, f"kafka_offset = {n}")
        gate.shut = {0}

        ref = bench.ref(shop.topic)
        await bench.release(ref)
        shop.shut.clear()
        await until_row(bench, "kafka_offset = 0 AND owner_xid IS NULL")
        await until_row(bench, "kafka_offset = 2 AND owner_xid IS NULL")
        await bench.claim(ref)
        await until_row(bench, "kafka_offset = 2 AND status = 'SUCCESS'")
        await until(lambda: gate.asked[0] > 3)
        assert await statuses(bench) == [(0, "PENDING"), (1, "PENDING"), (2, "SUCCESS")]

        await bench.release(ref)
        await until_row(bench, "kafka_offset = 0 AND owner_xid IS NULL")
        await bench.claim(ref)
        gate.shut.clear()
        await bench.settle()
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(3)]
        assert [name for name in shop.ended if name.startswith("second")] == ["second 2", "second 0", "second 1"]


@pytest.mark.parametrize("kind", ["transaction", "batch"])
async def test_fused_records_wait_before_their_group(database: str, kind: str) -> None:
    """P19: decoding is admission's; a group never waits for a format."""
    gate = Gate()
    app = App("shop")
    topic = gated(gate)

    if kind == "transaction":

        @app.transaction(on=topic)
        async def book(tx: Transaction, order: Order) -> None:
            await tx.execute("INSERT INTO booked VALUES (%s)", (order.n,))
    else:

        @app.batch(on=topic)
        async def load(tx: Transaction, orders: Sequence[Order]) -> None:
            for order in orders:
                await tx.execute("INSERT INTO booked VALUES (%s)", (order.n,))

    async with Bench(app, database, settings=FAST) as bench:
        await bench.execute("CREATE TABLE booked (n integer PRIMARY KEY)")
        gate.shut = {1}
        await deliver(bench, topic, ["a", "a", "b"])
        await until_row(bench, "kafka_offset = 0 AND status = 'SUCCESS'")
        await until(lambda: gate.asked[1] > 3)
        assert await bench.fetch_all("SELECT n FROM booked") == [(0,)]

        gate.shut.clear()
        await bench.settle()
        assert await bench.fetch_all("SELECT n FROM booked ORDER BY n") == [(0,), (1,), (2,)]


async def test_what_cannot_be_decoded_after_all_is_a_dead_letter(database: str) -> None:
    """I1: the wait ends with the other answer, too; the record's bytes and all behind it are there."""
    gate = Gate()
    shop = Shop(gated(gate))
    async with Bench(shop.app, database, settings=FAST) as bench:
        gate.shut = {0}
        await deliver(bench, shop.topic, ["a", "a"])
        await until(lambda: gate.asked[0] > 1)
        gate.refused = {0}
        await bench.settle()

        assert await statuses(bench) == [(0, "ERROR"), (1, "SUCCESS")]
        rows = await bench.fetch_all("SELECT reason, convert_from(record_value, 'UTF8') FROM dbos.dead_letter")
        assert rows == [("undecodable", '{"key":"a","n":0}')]


async def test_a_transaction_that_needs_what_is_not_there_yet_is_run_again(database: str) -> None:
    """P25, I5: rolled back, no attempt, and the workflow goes on behind it; also what was taken out of a fused group."""
    app = App("shop")
    topic = Topic("orders", Order)
    calls = Counter[str]()

    @app.transaction()
    async def record(tx: Transaction, order: Order) -> None:
        await tx.execute("INSERT INTO booked VALUES (%s, 'step')", (order.n,))
        calls["step"] += 1
        if calls["step"] < 4:
            raise NotYet("subject orders-value: HTTP 503", again_in=SOON)

    @app.workflow(on=topic)
    async def fulfil(order: Order) -> None:
        await record(order)

    fused_topic = Topic("refunds", Order)

    @app.transaction(on=fused_topic)
    async def refund(tx: Transaction, order: Order) -> None:
        await tx.execute("INSERT INTO booked VALUES (%s, 'fused')", (order.n,))
        calls["fused"] += 1
        if calls["fused"] < 4:
            raise NotYet("subject refunds-value: HTTP 503", again_in=SOON)

    async with Bench(app, database, settings=FAST) as bench:
        await bench.execute("CREATE TABLE booked (n integer, kind text)")
        await bench.deliver(topic, Order(key="a", n=1))
        await bench.deliver(fused_topic, Order(key="a", n=2))
        await bench.settle()

        assert sorted(await bench.fetch_all("SELECT n, kind FROM booked")) == [(1, "step"), (2, "fused")]
        assert calls == {"step": 4, "fused": 4}
        assert await bench.fetch_all("SELECT DISTINCT status FROM dbos.workflow_status") == [("SUCCESS",)]
