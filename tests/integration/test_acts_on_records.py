"""Acts on workflows of records: resumed in their partition and order, forked without it, never deleted (P18, P29, I1)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from engine.acts import Refusal
from engine.payloads import PayloadKeys
from processor import (
    App,
    BlockKey,
    Record,
    Topic,
    Transaction,
    WorkflowActError,
    WorkflowFilter,
    WorkflowStatus,
    current_workflow,
    sleep,
)
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, Shop, statuses, two, until, until_row
from tests.integration.test_not_yet import Gate, gated

SEVERAL_LOOKS = timedelta(milliseconds=400)


async def test_a_cancelled_record_is_resumed_behind_what_was_open_of_its_key(database: str) -> None:
    """P18, I7: at `high` of that moment; what waits before it goes first, what comes later waits behind it."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.shut = {"first 0", "first 1"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.deliver(shop.topic, Order(key="a", n=1))
        await until_row(bench, "kafka_offset = 1")
        await bench.app.retrieve("orders-0-0").cancel()
        shop.shut.discard("first 0")
        await until(lambda: "first 1" in shop.began)
        assert await bench.app.retrieve("orders-0-0").resume()
        await until(lambda: "orders-0-0" in bench.source(shop.topic).inbox.runs)
        await bench.deliver(shop.topic, Order(key="a", n=2))
        shop.shut.clear()
        await bench.settle()

        assert shop.begun("second") == [1, 0, 2]
        assert shop.began.count("first 0") == 2
        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS"), (2, "SUCCESS")]


async def test_what_blocked_its_key_is_resumed_before_what_waited_behind_it(database: str) -> None:
    """Decision 0003: nothing of the key ran since, so it keeps its place; its dead letter counts as retried."""
    shop = Shop(policy=BlockKey())
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.fails["second 0"] = 1
        for n in range(3):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await bench.settle()
        await until_row(bench, "kafka_offset = 1")
        acted = await bench.app.resume_workflows(["orders-0-0", "orders-0-1"])
        await until_row(bench, "kafka_offset = 2 AND status = 'SUCCESS'")

        assert acted.done == ["orders-0-0"]
        assert acted.refused == {"orders-0-1": Refusal.OPEN}
        assert shop.ended == [f"{step} {n}" for n in range(3) for step in ("first", "second")]
        assert await bench.fetch_all("SELECT state FROM dbos.dead_letter") == [("RETRIED",)]
        assert await bench.fetch_all("SELECT 1 FROM dbos.hold") == []


@pytest.mark.parametrize("moves", [False, True])
async def test_a_step_that_still_runs_keeps_the_key_from_its_resumed_workflow(database: str, *, moves: bool) -> None:
    """P12, P18, I7: its row names its owner until that step has ended, here or at another owner."""
    shop = Shop()
    async with two(database, shop.app) as (one, other):
        shop.shut = {"first 0"}
        await one.deliver(shop.topic, Order(key="a", n=0))
        await until_row(one, "kafka_offset = 0")
        await one.app.retrieve("orders-0-0").cancel()
        if moves:
            await one.release(one.ref(shop.topic))
            await other.claim(other.ref(shop.topic))
        assert await one.app.retrieve("orders-0-0").resume()
        await other.fetch_all("SELECT pg_sleep(%s)", (SEVERAL_LOOKS.total_seconds(),))
        assert shop.began == ["first 0"]
        shop.shut.clear()
        await until_row(one, "status = 'SUCCESS'")

        assert shop.began == ["first 0", "first 0", "second 0"]
        assert shop.ended == ["first 0", "first 0", "second 0"]


async def test_a_resumed_record_survives_the_death_of_its_process(database: str) -> None:
    """I4, I8: its partition's next owner goes on with it."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.fails["second 0"] = 1
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        shop.shut = {"second 0"}
        await bench.app.retrieve("orders-0-0").resume()
        await until(lambda: shop.began.count("second 0") == 2)
        await bench.crash_now()
        shop.shut.clear()
        await bench.settle()

        assert shop.begun("first") == [0]
        assert await statuses(bench) == [(0, "SUCCESS")]


async def test_a_records_workflow_is_never_deleted(database: str) -> None:
    """I1, I2: its row is what keeps the record from running again when it is delivered once more."""
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        with pytest.raises(WorkflowActError, match=r"orders-0-0: a record started it"):
            await bench.app.retrieve("orders-0-0").delete()
        assert (await bench.app.delete_workflows(["orders-0-0"])).refused == {"orders-0-0": Refusal.OF_RECORD}
        listed = await bench.app.list_workflows(WorkflowFilter(is_of_record=True))
        assert [info.id for info in listed] == ["orders-0-0"]


# -- forks


class Parcel(BaseModel):
    name: str


class Handlers:
    """A handler of each kind."""

    def __init__(self) -> None:
        self.app = app = App("kinds")
        self.calls: list[str] = []
        self.parcels = Topic("parcels", Parcel, key=lambda parcel: parcel.name, headers={"trace"})
        self.letters = Topic("letters", Parcel, headers={"trace"})
        self.blobs = Topic("blobs", bytes)
        self.fused = Topic("fused", Parcel)
        self.batches = Topic("batches", Parcel)

        @app.step()
        async def note(what: str) -> str:
            self.calls.append(what)
            return what

        @app.workflow(on=self.parcels)
        async def send(parcel: Parcel) -> str:
            await note("one")
            return await note(f"two {parcel.name} {current_workflow().record.headers}")

        @app.workflow(on=self.letters)
        async def write(letter: Record[Parcel]) -> str:
            await note("one")
            return await note(f"two {letter.event.name} {letter.offset} {letter.headers}")

        @app.workflow(on=self.blobs)
        async def keep(blob: bytes) -> int:
            await note("one")
            return len(blob)

        @app.transaction(on=self.fused)
        async def book(tx: Transaction, parcel: Parcel) -> None:
            await tx.execute("INSERT INTO booked VALUES (%s)", (parcel.name,))

        @app.batch(on=self.batches)
        async def load(tx: Transaction, parcels: Sequence[Parcel]) -> None:
            for parcel in parcels:
                await tx.execute("INSERT INTO booked VALUES (%s)", (parcel.name,))


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_fork_of_a_record_gets_the_record_and_has_no_source(database: str, *, sealed: bool) -> None:
    """P29: event, headers and coordinates as the first had them, whatever the codec; no key, no partition, no dead letter."""
    kinds = Handlers()
    settings = replace(FAST, payload_keys=PayloadKeys({"k": b"k" * 32}, "k")) if sealed else FAST
    async with Bench(kinds.app, database, settings=settings) as bench:
        await bench.execute("CREATE TABLE booked (name text)")
        sent: list[tuple[Topic[Any], Any]] = [
            (kinds.parcels, Parcel(name="p")),
            (kinds.letters, Parcel(name="l")),
            (kinds.blobs, b"\xff\x00\x01"),
            (kinds.fused, Parcel(name="f")),
            (kinds.batches, Parcel(name="b")),
        ]
        for topic, event in sent:
            await bench.deliver(topic, event, headers=[("trace", b"t-1"), ("secret", b"s")])
        await bench.settle()
        results = {t.name: await bench.app.retrieve(f"{t.name}-0-0").result() for t, _ in sent}
        kinds.calls.clear()
        for topic, _ in sent:
            steps = 2 if topic in (kinds.parcels, kinds.letters, kinds.blobs) else 1
            await bench.app.retrieve(f"{topic.name}-0-0").fork(from_step=steps, id=f"fork {topic.name}")
        forks = {t.name: await bench.app.retrieve(f"fork {t.name}").result() for t, _ in sent}

        assert forks == results
        trace = "(('trace', b't-1'),)"
        assert sorted(kinds.calls) == [f"two l 0 {trace}", f"two p {trace}"]
        assert await bench.fetch_all("SELECT name, count(*) FROM booked GROUP BY 1 ORDER BY 1") == [("b", 2), ("f", 2)]
        sources = await bench.fetch_all(
            "SELECT DISTINCT kafka_source, kafka_offset, kafka_key FROM dbos.workflow_status WHERE forked_from IS NOT NULL"
        )
        assert sources == [(None, None, None)]


async def test_a_fork_waits_for_what_its_format_needs(database: str) -> None:
    """P29: a registry that does not answer is nobody's failure; nothing is written meanwhile."""
    app, gate = App("gated"), Gate()
    orders = gated(gate)

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> int:
        return order.n

    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(key="a", n=1))
        await bench.settle()
        gate.shut.add(1)
        fork = await app.retrieve("orders-0-0").restart(id="f")
        await until(lambda: "f" in bench.engine.commons.runs)
        assert (await fork.status()).status is WorkflowStatus.PENDING
        gate.shut.clear()

        assert await fork.result() == 1


async def test_a_fork_of_a_record_recovers_like_any_workflow_without_a_source(database: str) -> None:
    """I4, I8: after its process has died somebody takes it, from its own history."""
    kinds = Handlers()
    async with Bench(kinds.app, database) as bench:
        await bench.deliver(kinds.parcels, Parcel(name="p"))
        await bench.settle()
        kinds.calls.clear()
        bench.crash(after=kinds.app.steps["note"])
        handle = await bench.app.retrieve("parcels-0-0").restart(id="r")
        await until(lambda: bench.crashes)
        await bench.settle()

        assert await handle.result() == "two p ()"
        assert kinds.calls == ["one", "one", "two p ()"]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.recovery WHERE workflow_uuid = 'r'") == [(1,)]


async def test_a_fork_does_not_wait_for_the_key_of_its_record(database: str) -> None:
    """P29: it has no source; whoever holds the key is no business of its."""
    app = App("keys")
    orders = Topic("orders", Order, key=lambda order: order.key)

    @app.step()
    async def note(n: int) -> int:
        return n

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> int:
        n = await note(order.n)
        if n:
            await sleep(timedelta(days=1))
        return n

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(key="a", n=0))
        await bench.deliver(orders, Order(key="a", n=1))
        await bench.settle()
        fork = await bench.app.retrieve("orders-0-0").restart()

        assert await fork.result() == 0
        assert (await bench.app.retrieve("orders-0-1").status()).status is WorkflowStatus.PENDING
