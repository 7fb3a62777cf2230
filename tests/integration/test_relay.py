"""The relay on a real Postgres and a real Kafka: exactly once for readers of committed records, in order per key (I9)."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from confluent_kafka import Producer
from psycopg import AsyncConnection

from consumers.telemetry import (
    OutboxPublished,
    RelayClaimed,
    RelayHalted,
    RelayInterrupted,
    RelayReleased,
    TopicRefused,
)
from engine.crashpoints import CrashPoint
from engine.outbox import OutboxError, discard, resume, waiting
from engine.outgoing import Outgoing
from engine.telemetry import ExecutorLost
from tests.fixtures.kafka import Kafka, KafkaServer, unique
from tests.fixtures.postgres import PostgresServer
from tests.integration.relay_faults import Stalled, murmur2_partition, stored_position
from tests.integration.relaying import PATIENCE_S, Outbox, Process, append, read, running, until, values

pytestmark = pytest.mark.kafka


@pytest.fixture
def topic(kafka: Kafka) -> str:
    name = unique("events")
    kafka.create_topic(name, 4)
    return name


@pytest.fixture
async def outbox(database: str) -> Outbox:
    return await Outbox(database).named_anew()


@pytest.fixture
async def operator(database: str) -> AsyncGenerator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection


async def test_events_reach_kafka_once_as_they_were_written(kafka: Kafka, outbox: Outbox, topic: str) -> None:
    """I9: bytes, headers, tombstones; time is that of the commit; the key chooses the partition as Java's clients do."""
    events = [
        Outgoing(topic, b"a", b"\x00\xff", (("h", b"1"), ("h", None), ("n", b""))),
        Outgoing(topic, b"a", None),
        Outgoing(topic, None, b""),
    ]
    async with await AsyncConnection.connect(outbox.dsn) as connection:
        await append(connection, events)
    [(created_at,)] = await outbox.query("SELECT created_at FROM dbos.outbox LIMIT 1")

    async with running(process := Process(outbox.dsn, kafka.bootstrap_servers)):
        await outbox.emptied()

    found = {(message.key(), message.value()): message for message in read(kafka.bootstrap_servers, topic)}
    assert len(found) == 3
    first = found[b"a", b"\x00\xff"]
    assert first.headers() == [("h", b"1"), ("h", None), ("n", b"")]
    assert first.timestamp()[1] == created_at
    assert first.partition() == found[b"a", None].partition() == murmur2_partition(b"a", 4)
    assert found[None, b""].headers() is None
    assert [event.counts for event in process.saw(OutboxPublished)] == [{topic: 3}]


async def test_a_relay_with_nothing_to_do_opens_nothing_in_kafka(outbox: Outbox) -> None:
    """An app that never publishes needs no topic of ours, no permission, not even a broker."""
    async with running(process := Process(outbox.dsn, "127.0.0.1:1")):
        await process.until(RelayClaimed)
        await asyncio.sleep(0.5)

        assert process.saw(RelayInterrupted) == []


async def test_committers_that_overlap_are_published_once_in_the_order_of_their_keys(
    kafka: Kafka, outbox: Outbox, topic: str
) -> None:
    """I9: slow transactions with low numbers, rollbacks, many keys, small batches, the relay at work all the time."""
    await outbox.query("CREATE TABLE counter (key int PRIMARY KEY, n int NOT NULL)")
    await outbox.query("INSERT INTO counter SELECT k, 0 FROM generate_series(0, 9) AS k")

    async def commit(random: Random) -> None:
        async with await AsyncConnection.connect(outbox.dsn, autocommit=True) as connection:
            for _ in range(40):
                keys = sorted(random.sample(range(10), random.randint(1, 3)))
                try:
                    async with connection.transaction():
                        events: list[Outgoing] = []
                        for key in keys:
                            cursor = await connection.execute(
                                "UPDATE counter SET n = n + 1 WHERE key = %s RETURNING n", [key]
                            )
                            row = await cursor.fetchone()
                            assert row is not None
                            events.append(Outgoing(topic, str(key).encode(), str(row[0]).encode()))
                        await append(connection, events)
                        await asyncio.sleep(random.choice([0, 0, 0.001, 0.01]))
                        if random.random() < 0.15:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    pass

    async with running(process := Process(outbox.dsn, kafka.bootstrap_servers, batch_rows_max=7)):
        await asyncio.gather(*(commit(Random(n)) for n in range(8)))
        await outbox.emptied()

    found: dict[bytes, list[int]] = {}
    for message in read(kafka.bootstrap_servers, topic):
        found.setdefault(message.key(), []).append(int(message.value()))
    for key, n in await outbox.query("SELECT key, n FROM counter"):
        assert found[str(key).encode()] == list(range(1, n + 1))
    assert len(process.saw(OutboxPublished)) > 20, "batches were small"


async def test_a_standby_takes_over_at_once_when_the_relay_stops(kafka: Kafka, outbox: Outbox, topic: str) -> None:
    first, second = (Process(outbox.dsn, kafka.bootstrap_servers) for _ in range(2))
    async with running(second_later := second):
        await second.until(RelayClaimed)
        await first.start()
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
        assert first.saw(RelayClaimed) == []
        await second_later.stop()

        await first.until(RelayClaimed)
        await outbox.publish("b", topic=topic)
        await outbox.emptied()
        await first.stop()

    assert values(kafka.bootstrap_servers, topic) == ["a", "b"]
    assert (await outbox.state()).executor_id is None


async def test_a_dead_relays_batch_is_published_by_the_next_whatever_of_it_was_done(
    kafka: Kafka, outbox: Outbox, topic: str
) -> None:
    """I9, P2: a relay stops dead at each of its gaps, with its transaction open; a standby goes on from what stands."""
    points = [point for point in CrashPoint if point.is_of_relay]
    for n, point in enumerate(points):
        with Stalled(point) as stalled:
            dead = Process(outbox.dsn, kafka.bootstrap_servers, batch_rows_max=3)
            await dead.start()
            await dead.until(RelayClaimed)
            await outbox.publish(*(f"{n}.{i}" for i in range(5)), topic=topic)
            await until(lambda stalled=stalled: stalled.reached, lambda point=point: point)
            await dead.engine.abort()
            async with running(process := Process(outbox.dsn, kafka.bootstrap_servers, batch_rows_max=3)):
                await process.until(RelayClaimed)
                await outbox.emptied()
            stalled.go_on()  # a zombie now: what it still does counts nowhere
            await dead.relay.stop(timedelta(seconds=20))

    assert values(kafka.bootstrap_servers, topic) == [f"{n}.{i}" for n in range(len(points)) for i in range(5)]


async def test_a_zombie_that_wakes_is_fenced_and_its_batch_published_once(
    kafka: Kafka, outbox: Outbox, topic: str
) -> None:
    """I9, P2: its executor was declared dead while it stood between producing and committing."""
    with Stalled(CrashPoint.RELAY_POSITIONED) as stalled:
        async with running(zombie := Process(outbox.dsn, kafka.bootstrap_servers)):
            await zombie.until(RelayClaimed)
            await outbox.publish("a", "b", topic=topic)
            await until(lambda: stalled.reached)
            zombie.engine.lease.is_held_back = True
            async with running(process := Process(outbox.dsn, kafka.bootstrap_servers)):
                await process.until(OutboxPublished)
                stalled.go_on()
                zombie.engine.lease.is_held_back = False
                await zombie.until(ExecutorLost)
                await outbox.publish("c", topic=topic)
                await outbox.emptied()

                assert zombie.saw(OutboxPublished) == []

    assert values(kafka.bootstrap_servers, topic) == ["a", "b", "c"]


async def test_two_relays_that_both_believe_in_their_claim_publish_once(
    kafka: Kafka, outbox: Outbox, topic: str
) -> None:
    """I9: the claim is taken from under a relay again and again; the order of an opening is what protects."""
    processes = [Process(outbox.dsn, kafka.bootstrap_servers, batch_rows_max=5) for _ in range(2)]
    async with running(*processes):
        for n in range(150):
            await outbox.publish(f"{n}", topic=topic)
            if n % 10 == 0:
                await outbox.query(
                    "UPDATE dbos.outbox_relay SET executor_id = NULL, epoch = epoch + n %% 2 FROM (SELECT %s::int AS n) AS t",
                    [n // 10],
                )
                for process in processes:
                    process.engine.outbox_hints.hinted("released")
        await outbox.emptied()

    assert values(kafka.bootstrap_servers, topic) == [str(n) for n in range(150)]
    assert sum(len(process.saw(RelayClaimed)) for process in processes) > 5


async def test_a_claim_whose_beat_stands_still_is_taken_though_its_executor_lives(
    kafka: Kafka, outbox: Outbox, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that hangs, in a process whose lease does not."""
    monkeypatch.setattr("engine.batches.STUCK_S", 0.5)
    monkeypatch.setattr("consumers.relay.STANDBY_S", 0.1)
    async with running(Process(outbox.dsn, kafka.bootstrap_servers)) as _:
        hangs = Process(outbox.dsn, kafka.bootstrap_servers)
        await hangs.engine.start()
        await outbox.query(
            "UPDATE dbos.outbox_relay SET executor_id = %s, epoch = epoch + 1", [hangs.engine.executor_id]
        )
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
        assert (await outbox.state()).executor_id != hangs.engine.executor_id
        await hangs.engine.stop(timedelta(seconds=5))


# -- what Kafka refuses


async def test_a_topic_that_is_missing_waits_and_the_others_go_on(kafka: Kafka, outbox: Outbox, topic: str) -> None:
    """In order, once it is there; and nobody creates it by looking for it."""
    missing = unique("missing")
    async with running(
        process := Process(outbox.dsn, kafka.bootstrap_servers, refused_retry=timedelta(milliseconds=200))
    ):
        await outbox.publish("a", topic=topic)
        await outbox.publish("1", "2", topic=missing)
        await outbox.publish("b", topic=topic)
        await process.until(TopicRefused, 2)
        await outbox.publish("3", topic=missing)
        await outbox.publish("c", topic=topic)
        await process.until(OutboxPublished, 2)
        assert process.relay.snapshot().refused == (missing,)
        assert missing not in kafka.admin.list_topics(timeout=30).topics

        kafka.create_topic(missing)
        await outbox.emptied()
        assert process.relay.snapshot().refused == ()

    assert values(kafka.bootstrap_servers, topic) == ["a", "b", "c"]
    assert values(kafka.bootstrap_servers, missing) == ["1", "2", "3"]


async def test_an_event_that_its_topic_does_not_take_waits_for_an_operator_and_the_others_go_on(
    kafka: Kafka, outbox: Outbox, topic: str, operator: AsyncConnection[Any]
) -> None:
    """I10: too large, found out by the broker, in the middle of a transaction with others."""
    small = unique("small")
    kafka.create_topic(small, 1, max_message_bytes="1000")
    async with running(
        process := Process(outbox.dsn, kafka.bootstrap_servers, refused_retry=timedelta(milliseconds=200))
    ):
        async with operator.transaction():
            await Outbox.publish_in(operator, "a", topic=topic)
            await Outbox.publish_in(operator, "1", Random(1).randbytes(2_500).hex(), "2", topic=small)
            await Outbox.publish_in(operator, "b", topic=topic)
        [refused, *_] = await process.until(TopicRefused)
        assert (refused.topic, "too large" in refused.error) == (small, True)
        await process.until(OutboxPublished)

        large = next(row for row in await waiting(operator, "dbos", topic=small) if len(row.value or b"") > 1000)
        assert await discard(operator, "dbos", [large.outbox_id], note="too large") == 1
        await outbox.emptied()

    assert sorted(values(kafka.bootstrap_servers, topic)) == ["a", "b"]
    assert values(kafka.bootstrap_servers, small) == ["1", "2"]
    [*_, act] = await outbox.query("SELECT action, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id")
    assert act == ("discard event", f"{small}; too large")
    with pytest.raises(OutboxError, match="does not wait"):
        await discard(operator, "dbos", [large.outbox_id], note="again")


# -- histories that do not belong together


async def test_a_position_ahead_of_the_table_halts_until_an_operator_decides(
    kafka: Kafka, outbox: Outbox, topic: str, operator: AsyncConnection[Any]
) -> None:
    """I9: the database lost a batch that Kafka has. What was published since the backup stands in the table again."""
    servers = kafka.bootstrap_servers
    async with running(Process(outbox.dsn, servers)):
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
    backup = await outbox.query("SELECT number, token FROM dbos.outbox_relay")
    async with running(Process(outbox.dsn, servers)):
        await outbox.publish("lost", topic=topic)
        await outbox.emptied()
    await outbox.query("UPDATE dbos.outbox_relay SET number = %s, token = %s", backup[0])
    await outbox.publish("again", "b", topic=topic)

    async with running(process := Process(outbox.dsn, servers)):
        [halted] = await process.until(RelayHalted)
        assert "Kafka has batch 2, the database knows of 1: it has lost commits" in halted.reason
        await outbox.publish("c", topic=topic)
        state = await outbox.state()
        assert (state.halted, state.waiting) == (halted.reason, 3)
        [again, *_] = await waiting(operator, "dbos")

        with pytest.raises(OutboxError, match="not halted"):
            await operator.execute("UPDATE dbos.outbox_relay SET halted = NULL")
            await resume(operator, "dbos", note="too early")
        await operator.execute("UPDATE dbos.outbox_relay SET halted = %s", [halted.reason])
        await discard(operator, "dbos", [again.outbox_id], note="published before the backup was restored")
        assert await resume(operator, "dbos", note="restored on purpose") == halted.reason
        await outbox.emptied()

    assert values(servers, topic) == ["a", "lost", "b", "c"]
    audit = await outbox.query("SELECT action, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id")
    assert audit[-1] == ("resume relay", f"{halted.reason}; restored on purpose")


async def test_a_position_of_another_history_halts(kafka: Kafka, outbox: Outbox, topic: str) -> None:
    """I9: the same number and another batch: a copy of the database relays to the same brokers."""
    async with running(Process(outbox.dsn, kafka.bootstrap_servers)):
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
    await outbox.query("UPDATE dbos.outbox_relay SET token = 'of the copy'")
    await outbox.publish("b", topic=topic)

    async with running(process := Process(outbox.dsn, kafka.bootstrap_servers)):
        [halted] = await process.until(RelayHalted)

    assert "batch 1 in Kafka is not the one that the database has" in halted.reason
    assert values(kafka.bootstrap_servers, topic) == ["a"]


async def test_a_position_that_is_gone_halts(
    kafka: Kafka, outbox: Outbox, topic: str, operator: AsyncConnection[Any]
) -> None:
    """Other brokers, or offsets that expired. Resumed, everything that stands is published."""
    async with running(Process(outbox.dsn, kafka.bootstrap_servers)):
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
    group = f"onceflow-relay-{(await outbox.state()).name}"
    kafka.admin.delete_consumer_groups([group])[group].result(30)
    await outbox.publish("b", topic=topic)

    async with running(process := Process(outbox.dsn, kafka.bootstrap_servers)):
        [halted] = await process.until(RelayHalted)
        assert "Kafka has no position of this outbox, and batch 1 was published" in halted.reason

        await resume(operator, "dbos", note="offsets expired")
        await outbox.emptied()
        await outbox.publish("c", topic=topic)
        await outbox.emptied()

    assert values(kafka.bootstrap_servers, topic) == ["a", "b", "c"]


async def test_a_position_that_does_not_move_is_committed_again_before_brokers_forget_it(
    kafka: Kafka, outbox: Outbox, topic: str
) -> None:
    async with running(Process(outbox.dsn, kafka.bootstrap_servers, refresh=timedelta(milliseconds=300))):
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
        group = f"onceflow-relay-{(await outbox.state()).name}"
        await asyncio.to_thread(kafka.admin.delete_consumer_groups([group])[group].result, 30)
        async with asyncio.timeout(PATIENCE_S):
            while not (stored := await asyncio.to_thread(stored_position, kafka, group)):
                await asyncio.sleep(0.1)

    state = await outbox.state()
    assert stored == (
        state.number,
        json.dumps({"token": (await outbox.query("SELECT token FROM dbos.outbox_relay"))[0][0]}),
    )


async def test_a_restored_database_halts_its_relay(kafka: Kafka, topic: str, private_postgres: PostgresServer) -> None:
    """I9, P4: the relay lives through it, and meets the table of the backup."""
    from engine.migrations import migrate

    dsn = private_postgres.dsn()
    await migrate(dsn)
    outbox = Outbox(dsn)
    async with running(process := Process(dsn, kafka.bootstrap_servers)):
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
        backup = await asyncio.to_thread(private_postgres.base_backup)
        await outbox.publish("b", topic=topic)
        await outbox.emptied()

        await asyncio.to_thread(private_postgres.restore, backup)
        await outbox.publish("c", topic=topic)
        [halted] = await process.until(RelayHalted)

        assert "it has lost commits" in halted.reason
        async with await AsyncConnection.connect(dsn, autocommit=True) as operator:
            await resume(operator, "dbos", note="restored")
        await outbox.emptied()

    assert values(kafka.bootstrap_servers, topic) == ["a", "b", "c"]


# -- outages


@pytest.mark.timeout(600)  # three starts of a broker (50 s each were seen on a busy machine), then waits of their own
async def test_brokers_that_are_killed_and_come_back_lose_and_double_nothing(
    private_kafka: KafkaServer, outbox: Outbox
) -> None:
    """I9: three kills with transactions under way."""
    kafka = private_kafka.kafka()
    topic = unique("events")
    kafka.create_topic(topic, 3)
    published = 0
    async with running(process := Process(outbox.dsn, private_kafka.bootstrap_servers, batch_rows_max=20)):
        for _ in range(3):
            for _ in range(30):
                await outbox.publish(*(str(published + n) for n in range(10)), topic=topic)
                published += 10
            await asyncio.to_thread(private_kafka.kill)
            await outbox.publish(*(str(published + n) for n in range(10)), topic=topic)
            published += 10
            await asyncio.to_thread(private_kafka.start)
        await outbox.emptied()

    assert values(private_kafka.bootstrap_servers, topic) == [str(n) for n in range(published)]
    assert process.saw(RelayHalted) == []


async def test_a_database_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    kafka: Kafka, topic: str, private_postgres: PostgresServer
) -> None:
    """I9, P24: a lost COMMIT of a batch is settled by reading what stands."""
    from engine.migrations import migrate

    dsn = private_postgres.dsn()
    await migrate(dsn)
    outbox = Outbox(dsn)
    published = 0
    async with running(process := Process(dsn, kafka.bootstrap_servers, batch_rows_max=5)):
        for _ in range(3):
            for _ in range(20):
                await outbox.publish(*(str(published + n) for n in range(10)), topic=topic)
                published += 10
            await asyncio.to_thread(private_postgres.kill)
            await asyncio.to_thread(private_postgres.start)
        await outbox.emptied()

    assert values(kafka.bootstrap_servers, topic) == [str(n) for n in range(published)]
    assert process.saw(RelayHalted) == []


async def test_a_producer_of_the_same_name_fences_the_relay_which_opens_anew(
    kafka: Kafka, outbox: Outbox, topic: str
) -> None:
    async with running(process := Process(outbox.dsn, kafka.bootstrap_servers)):
        await outbox.publish("a", topic=topic)
        await outbox.emptied()
        other = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": f"onceflow-relay-{(await outbox.state()).name}",
                "log_level": 0,
            }
        )
        await asyncio.to_thread(other.init_transactions, 30)
        await outbox.publish("b", topic=topic)
        await outbox.emptied()
        other.close()

        assert "fenced" in process.saw(RelayInterrupted)[0].error
        assert process.saw(RelayReleased) == []

    assert values(kafka.bootstrap_servers, topic) == ["a", "b"]


async def test_rows_below_the_floor_are_found_within_its_time(
    kafka: Kafka, outbox: Outbox, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence that began anew (a logical copy): later, and not lost."""
    monkeypatch.setattr("engine.floor.LOOK_BELOW_S", 0.3)
    async with running(Process(outbox.dsn, kafka.bootstrap_servers)):
        for n in range(20):
            await outbox.publish(str(n), topic=topic)
            await asyncio.sleep(0.02)
        await outbox.emptied()
        await outbox.query("UPDATE dbos.outbox_relay SET floor = 1000")
        await outbox.query("ALTER TABLE dbos.outbox ALTER outbox_id RESTART")
        await outbox.publish("again", topic=topic)
        async with asyncio.timeout(PATIENCE_S):
            while await outbox.query("SELECT 1 FROM dbos.outbox"):
                await asyncio.sleep(0.05)

    assert Counter(values(kafka.bootstrap_servers, topic)) == Counter([*(str(n) for n in range(20)), "again"])
