"""Cases known to lose or duplicate records that no other test shows. "Case n" is row n of docs/guarantees.md.

With `Bench` where only the engine is concerned, on the real Kafka where it is.
"""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from consumers.settings import Subscription
from engine.settings import EngineSettings
from engine.telemetry import RecordsDecided, SourceDropped
from processor import App, Retry, TerminalError, Topic, Transaction, current_workflow
from processor.testing import Bench
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, unique
from tests.integration.members import Member, settled, texts
from tests.integration.members import until as until_members

FAST = EngineSettings(
    conninfo="", lease=timedelta(seconds=1.5), heartbeat=timedelta(seconds=0.3), scan=timedelta(milliseconds=50)
)


class Order(BaseModel):
    key: str
    n: int


orders = Topic("orders", Order, key=lambda order: order.key)


@asynccontextmanager
async def two(database: str, app: App) -> AsyncGenerator[tuple[Bench, Bench]]:
    """Two processes' worth over one log."""
    async with (
        Bench(app, database, executor="one", settings=FAST) as one,
        Bench(app, database, executor="two", settings=FAST, beside=one) as other,
    ):
        yield one, other


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def statuses(bench: Bench) -> list[tuple[object, ...]]:
    return await bench.fetch_all("SELECT kafka_offset, status FROM dbos.workflow_status ORDER BY 1")


# -- progress


async def test_progress_never_passes_a_record_that_has_no_row(database: str) -> None:
    """Cases 2 and 3, I1, I3: looked at in one snapshot, again and again, while records end in any order."""
    app = App("shop")

    @app.step()
    async def work(order: Order) -> None:
        await asyncio.sleep(0.04 if order.n % 9 == 0 else 0.001 * (order.n % 5))

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await work(order)

    async with Bench(app, database) as bench:
        seen: list[tuple[int, int]] = []

        async def look() -> None:
            while not seen or seen[-1][0] < 400:
                rows = await bench.fetch_all(
                    """
                    SELECT (k.value::json ->> 'next')::bigint,
                           (SELECT count(*) FROM dbos.workflow_status
                             WHERE kafka_offset < (k.value::json ->> 'next')::bigint)
                      FROM dbos.event_dispatch_kv AS k
                    """
                )
                seen.extend((row[0], row[1]) for row in rows)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        for n in range(400):
            await bench.deliver(orders, Order(key=f"k{n}", n=n))
            if n % 20 == 0:
                await asyncio.sleep(0.01)
        await bench.settle()
        async with asyncio.timeout(60):
            await looking

        assert [rows for _, rows in seen] == [next_offset for next_offset, _ in seen]
        assert sorted(seen) == seen
        assert len({next_offset for next_offset, _ in seen}) > 3


async def test_a_partition_that_comes_back_begins_where_its_other_owner_ended(database: str) -> None:
    """Case 5: nothing of a former claim is remembered; progress is read anew."""
    app = App("shop")
    calls: Counter[int] = Counter()

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        calls[order.n] += 1

    async with two(database, app) as (one, other):
        for n in range(5):
            await one.deliver(orders, Order(key="a", n=n))
        await one.settle()
        await one.release(one.ref(orders))
        for n in range(5, 10):
            await other.deliver(orders, Order(key="a", n=n))
        await other.settle()
        await other.release(other.ref(orders))

        await one.claim(one.ref(orders))
        assert one.source(orders).progress.next == 10
        await one.deliver(orders, Order(key="a", n=10))
        await one.settle()

        assert calls == dict.fromkeys(range(11), 1)


async def test_progress_that_somebody_moved_back_is_not_overwritten_and_runs_nothing_twice(database: str) -> None:
    """Case 34, I3, P16: a new epoch ends the owner's claim; what has a row below `high` is looked up, not run."""
    app = App("shop")
    calls: Counter[int] = Counter()

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        calls[order.n] += 1

    async with Bench(app, database, settings=FAST) as bench:
        for n in range(10):
            await bench.deliver(orders, Order(key="a", n=n))
        await bench.settle()

        await bench.execute(
            """
            UPDATE dbos.event_dispatch_kv
               SET update_seq = update_seq + 1, value = jsonb_set(value::jsonb, '{next}', '3')::text
            """
        )
        await bench.deliver(orders, Order(key="a", n=10))
        await until(lambda: [event for event in bench.events if isinstance(event, SourceDropped)])
        await bench.settle()

        # The last one ran under the claim that was taken away, and was refused; whatever was recorded did not run again.
        assert {n: count for n, count in calls.items() if n < 10} == dict.fromkeys(range(10), 1)
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(11)]
        known = [event for event in bench.events if isinstance(event, RecordsDecided) and event.decision == "known"]
        assert sum(event.count for event in known) == 7


async def test_a_renamed_handler_knows_the_rows_of_its_former_name(database: str) -> None:
    """Case 34, I2: records between progress and `high` have rows under the old name; they are known, not another's."""
    former, renamed = App("shop"), App("shop")
    calls: list[int] = []

    @former.workflow(on=orders, name="old")
    async def old(order: Order) -> None:
        calls.append(order.n)

    @renamed.workflow(on=orders, name="new", renamed_from="old")
    async def new(order: Order) -> None:
        calls.append(order.n)

    async with Bench(former, database) as bench:
        for n in range(3):
            await bench.deliver(orders, Order(key="a", n=n), timestamp_ms=1_000 + n)
        await bench.settle()
        await bench.execute(
            """
            UPDATE dbos.event_dispatch_kv
               SET update_seq = update_seq + 1, value = jsonb_set(value::jsonb, '{next}', '1')::text
            """
        )
    async with Bench(renamed, database) as bench:
        for n in range(1, 5):
            await bench.deliver(orders, Order(key="a", n=n), offset=n, timestamp_ms=1_000 + n)
        await bench.settle()

        assert calls == list(range(5))
        assert await statuses(bench) == [(n, "SUCCESS") for n in range(5)]


async def test_offsets_that_do_not_exist_hold_nothing_back(database: str) -> None:
    """Case 24: a compacted log has gaps, and may end in one."""
    app = App("shop")

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None: ...

    async with Bench(app, database) as bench:
        for offset in (0, 5, 9):
            await bench.deliver(orders, Order(key="a", n=offset), offset=offset)
        bench.source(orders).reached(15)
        await until(lambda: bench.source(orders).progress.next == 15)
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS"), (5, "SUCCESS"), (9, "SUCCESS")]


# -- failures


async def test_two_records_that_fail_at_once_are_both_run_again(database: str) -> None:
    """Case 15: each from its own row; nothing seeks, so neither retry can undo the other's."""
    app = App("shop")
    attempts: Counter[int] = Counter()
    both = asyncio.Barrier(2)

    @app.step()
    async def work(order: Order) -> None:
        attempts[order.n] += 1
        if order.n in (3, 7) and attempts[order.n] == 1:
            await both.wait()
            raise ConnectionError("away")

    @app.workflow(on=orders, retry=Retry(attempts=2, first_delay=timedelta(milliseconds=30)))
    async def fulfil(order: Order) -> None:
        await work(order)

    async with Bench(app, database) as bench:
        for n in range(10):
            await bench.deliver(orders, Order(key=f"k{n}", n=n))
        await bench.settle()
        await until(lambda: attempts[3] == attempts[7] == 2)
        await bench.settle()

        assert await statuses(bench) == [(n, "SUCCESS") for n in range(10)]
        assert attempts == {n: 2 if n in (3, 7) else 1 for n in range(10)}


async def test_attempts_are_counted_in_the_row_wherever_it_runs(database: str) -> None:
    """Case 17, P28: three attempts, the first at another owner; then one dead letter."""
    app = App("shop")
    attempts: list[int] = []

    @app.step()
    async def work() -> None:
        raise ConnectionError("away")

    @app.workflow(on=orders, retry=Retry(attempts=3, first_delay=timedelta(hours=1)))
    async def fulfil(order: Order) -> None:
        attempts.append(current_workflow().attempt)
        await work()

    async with two(database, app) as (one, other):
        await one.deliver(orders, Order(key="a", n=0))
        await one.settle()
        await one.release(one.ref(orders))
        await other.claim(other.ref(orders))
        for hours in (2, 6):
            await other.advance(timedelta(hours=hours))
            await other.settle()

        assert attempts == [1, 2, 3]
        assert await other.fetch_all("SELECT workflow_uuid, reason FROM dbos.dead_letter") == [("orders-0-0", "failed")]


async def test_a_record_that_fails_after_its_partition_moved_is_one_dead_letter(database: str) -> None:
    """Case 18, P12: written under the row fence, with the outcome, by whoever ran it; the new owner only waits."""
    app = App("shop")
    gate = asyncio.Event()
    began: list[int] = []

    @app.step()
    async def work(order: Order) -> None:
        began.append(order.n)
        await gate.wait()
        if order.n == 0:
            raise TerminalError("broken")

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        await work(order)

    async with two(database, app) as (one, other):
        await one.deliver(orders, Order(key="a", n=0))
        await one.deliver(orders, Order(key="a", n=1))
        await until(lambda: began == [0])
        await one.release(one.ref(orders))
        await other.claim(other.ref(orders))
        gate.set()
        assert await one.engine.late.all_ended(60)
        await other.settle()

        assert await statuses(other) == [(0, "ERROR"), (1, "SUCCESS")]
        assert await other.fetch_all("SELECT kafka_offset FROM dbos.dead_letter") == [(0,)]
        assert began == [0, 1]


# -- rebalances


@pytest.mark.parametrize("how", ["released", "fenced"])
async def test_a_batch_under_way_when_its_partition_goes_takes_effect_once(database: str, how: str) -> None:
    """Case 16, I5, P19: it commits with its progress before the release, or not at all, and runs again whole."""
    app = App("shop")
    gate = asyncio.Event()
    batches: list[int] = []

    @app.batch(on=orders, size=50)
    async def load(tx: Transaction, batch: Sequence[Order]) -> None:
        batches.append(len(batch))
        await tx.execute_many("INSERT INTO entry (n) VALUES (%s)", [(order.n,) for order in batch])
        await gate.wait()

    async with two(database, app) as (one, other):
        await one.execute("CREATE TABLE entry (id bigint GENERATED ALWAYS AS IDENTITY, n int)")
        for n in range(80):
            await one.deliver(orders, Order(key=f"k{n % 7}", n=n))
        await until(lambda: batches)
        if how == "released":
            leaving = asyncio.create_task(one.release(one.ref(orders)))
            await asyncio.sleep(0.05)
            gate.set()
            await leaving
            await other.claim(other.ref(orders))
            await other.settle()
        else:
            await one.execute("UPDATE dbos.event_dispatch_kv SET update_seq = update_seq + 1")
            gate.set()
            await one.settle()

        assert await one.fetch_all("SELECT n FROM entry ORDER BY n") == [(n,) for n in range(80)]
        assert await statuses(one) == [(n, "SUCCESS") for n in range(80)]


# -- Kafka


async def test_an_open_transaction_of_a_producer_is_shown_and_what_is_behind_it_waits(
    kafka: Kafka, database: str
) -> None:
    """Case 26: nobody can read beyond it; the lag says that it is the producer's. Case 27: what it aborts never runs."""
    topic = unique("orders")
    kafka.create_topic(topic, 1)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": unique("tx"), "log_level": 0}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in texts("aborted", 3):
        producer.produce(topic, value, partition=0)
    producer.flush(30)
    member = Member(database, kafka.bootstrap_servers, unique("billing"), Subscription(topic=topic, handler="fulfil"))
    await member.start()
    try:
        await asyncio.to_thread(produce, kafka.bootstrap_servers, topic, texts("behind", 5))
        await until_members(
            lambda: (end := member.partitions[0].log_end if member.partitions else None) and end.open_transactions == 8,
            member,
        )
        assert not member.ran

        await asyncio.to_thread(producer.abort_transaction, 30)
        await settled(database, 5, member)

        assert member.ran.keys() == set(texts("behind", 5))
    finally:
        await member.stop()


async def test_offsets_that_expired_in_kafka_mean_nothing(kafka: Kafka, database: str) -> None:
    """Cases 28 and 41: the mirror is never read back, so its loss moves nothing."""
    topic, group = unique("orders"), unique("billing")
    kafka.create_topic(topic, 1)
    subscription = Subscription(topic=topic, handler="fulfil")
    produce(kafka.bootstrap_servers, topic, texts("a", 5))
    first = Member(database, kafka.bootstrap_servers, group, subscription)
    await first.start()
    await settled(database, 5, first)
    await first.stop()
    kafka.admin.delete_consumer_groups([group])[group].result(30)
    produce(kafka.bootstrap_servers, topic, texts("b", 5))

    second = Member(database, kafka.bootstrap_servers, group, subscription)
    await second.start()
    await settled(database, 10, second)
    await second.stop()

    assert second.ran.keys() == set(texts("b", 5))


def test_importing_an_app_makes_no_client_and_starts_no_thread(tmp_path: Path) -> None:
    """Case 39: a client made before a fork hands the parent's records to the child; here none is made before `start`."""
    (tmp_path / "shop.py").write_text(
        "from processor import App, Topic\n"
        "app = App('shop')\n"
        "@app.workflow(on=Topic('orders', str))\n"
        "async def fulfil(order: str) -> None: ...\n"
    )
    program = (
        "import threading, shop\n"
        "from pathlib import Path\n"
        "from processor.config import Settings\n"
        "from processor.runtime import Runtime\n"
        "Runtime(shop.app, Settings())\n"
        "assert threading.enumerate() == [threading.main_thread()], threading.enumerate()\n"
        "task = Path('/proc/self/task')\n"
        "names = [(each / 'comm').read_text().strip() for each in task.iterdir()] if task.is_dir() else []\n"
        "assert not [name for name in names if name.startswith('rdk:')], names\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
