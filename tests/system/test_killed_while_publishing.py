"""Worker and relay processes killed with SIGKILL at every gap, frozen and replaced: every event once, in order (I5, I9)."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random

import pytest

from engine.crashpoints import CrashPoint
from processor.demo.processes import Processes
from processor.demo.workers import Worker
from tests.fixtures.kafka import Kafka, unique
from tests.integration.relaying import Outbox, read
from tests.system.field import SHORT, Field
from tests.system.test_crash_points import PASSES, POINTS

RELAY_POINTS = [point for point in CrashPoint if point.is_of_relay]
NOT_OF_EVENTS = {CrashPoint.CLAIMED, CrashPoint.DELIVERED, CrashPoint.RELEASED}
"""Nothing is published there: test_crash_points.py."""
BEFORE_EVENTS = {CrashPoint.TRANSACTION_OPEN, CrashPoint.TRANSACTION_WRITTEN}
"""Nor there, where workflows publish, whose transactions do not."""

EVENTS = 3_000
KEYS = 20


@pytest.mark.kafka
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["fused", "transactional", "workflow", "batch"])
async def test_what_handlers_publish_is_in_kafka_if_and_only_if_its_effect_is_in_the_table(
    kafka: Kafka, database: str, kind: str
) -> None:
    """I9: the worker handles and relays, and dies at each point of either; of the relay's, at one for kinds beside the first."""
    booked, dead = unique("booked"), unique("dead")
    for topic in (booked, dead):
        kafka.create_topic(topic, 3)
    outbox = await Outbox(database).named_anew()
    settings = {"BOOKED": booked, "DEAD": dead, "PROCESSOR_OUTBOX_BATCH_MAX": "50", "PUBLISH_FROM": kind}
    of_relay = RELAY_POINTS if kind == "fused" else [CrashPoint.RELAY_PRODUCED]
    elsewhere = NOT_OF_EVENTS
    if kind == "workflow":
        kind, elsewhere = "transactional", NOT_OF_EVENTS | BEFORE_EVENTS
    async with Field(
        kafka.bootstrap_servers, database, kind, app="tests.system.publishing:app", settings=settings
    ) as field:
        for point in [*of_relay, *(point for point in POINTS[kind] if point not in elsewhere)]:
            passes = 2 if point.is_of_relay and point is not CrashPoint.RELAY_CLAIMED else PASSES.get(point, 1)
            worker = field.worker("one", CRASH_AT=f"{point}:{passes}", PROCESSOR_KAFKA_GROUP_INSTANCE_ID="one")
            ended = asyncio.ensure_future(worker.ended())
            await field.feed_until(ended)
            assert ended.result() == -signal.SIGKILL, f"{point}\n{field.logs()}"

        field.worker("one", PROCESSOR_KAFKA_GROUP_INSTANCE_ID="one")
        await field.finish()
        await outbox.emptied()
        effects = await field.books.query(f"SELECT customer, sequence FROM {field.books.table} ORDER BY id")
        letters = await field.books.query("SELECT record_value FROM dbos.dead_letter")

    assert len(effects) > 1_000
    assert by_customer([json.loads(message.value()) for message in read(kafka.bootstrap_servers, booked)]) == (
        by_customer([{"customer": customer, "sequence": sequence} for customer, sequence in effects])
    )
    found = Counter(message.value() for message in read(kafka.bootstrap_servers, dead))
    assert found == Counter(bytes(value) for (value,) in letters)


@pytest.mark.kafka
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
async def test_relays_that_are_killed_and_frozen_beside_each_other_publish_once(
    kafka: Kafka, database: str, seed: int
) -> None:
    """I9, P2: a zombie that wakes holds a batch that its successor has published; one of them always relays."""
    topic = unique("events")
    kafka.create_topic(topic, 3)
    outbox = await Outbox(database).named_anew()
    random = Random(seed)
    async with relays(kafka, database) as workers:
        feeding = asyncio.create_task(feed(outbox, topic, Random(seed)))
        faults = 0
        while not feeding.done() or faults < 8:
            worker = random.choice(workers)
            if not worker.is_running:
                worker.start()
            elif random.random() < 0.5:
                worker.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(random.choice([0.5, 4.5]))
                worker.process.send_signal(signal.SIGCONT)
            else:
                await worker.kill()
                point = random.choice(RELAY_POINTS)
                worker.start(CRASH_AT=f"{point}:{random.randint(1, 3)}")
            faults += 1
            await asyncio.sleep(random.uniform(0.2, 1.5))
        published = await feeding
        for worker in workers:  # also those that are still to die: with both, nobody relays
            if worker.is_running:
                await worker.kill()
            worker.start()
        await outbox.emptied()

    found: dict[str, list[str]] = {}
    for message in read(kafka.bootstrap_servers, topic):
        found.setdefault(message.key().decode(), []).append(message.value().decode())
    assert found == published


@asynccontextmanager
async def relays(kafka: Kafka, database: str) -> AsyncGenerator[list[Worker]]:
    """Two `processor relay` beside each other."""
    processes = Processes()
    settings = SHORT | {
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PROCESSOR_POSTGRES_DSN": database,
        "PROCESSOR_OUTBOX_BATCH_MAX": "20",
    }
    workers = [
        Worker(processes, name, settings, program=("-m", "tests.system.worker", "relay")) for name in ("one", "two")
    ]
    try:
        for worker in workers:
            worker.start()
        yield workers
    finally:
        await asyncio.to_thread(processes.close)


async def feed(outbox: Outbox, topic: str, random: Random) -> dict[str, list[str]]:
    """Publish events at a rate; returns those of each key in the order of their commits."""
    published: dict[str, list[str]] = {}
    for n in range(0, EVENTS, 5):
        key = f"k{random.randrange(KEYS)}"
        names = [str(n + i) for i in range(5)]
        await outbox.publish(*names, topic=topic, key=key)
        published.setdefault(key, []).extend(names)
        await asyncio.sleep(0.02)
    return published


def by_customer(booked: list[dict[str, object]]) -> dict[object, list[object]]:
    """What a reader of one customer's events sees, in order."""
    found: dict[object, list[object]] = {}
    for each in booked:
        found.setdefault(each["customer"], []).append(each["sequence"])
    return found
