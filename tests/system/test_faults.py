"""Faults of processes and servers, each with work in flight, each followed by the audit (I1, I2, I6, I7, I8)."""

import asyncio
import signal
import time

import pytest

from tests.fixtures.kafka import Kafka, KafkaServer
from tests.fixtures.postgres import PostgresServer
from tests.system.field import Field

STORM_S = 12


@pytest.mark.kafka
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_members_that_come_and_go_every_second(kafka: Kafka, database: str, protocol: str) -> None:
    """P9, P11, P12: partitions move again and again while records are processed."""
    async with Field(kafka.bootstrap_servers, database, "transactional", protocol=protocol) as field:
        steady = field.worker("steady")
        await field.feed_until(asyncio.ensure_future(field.at_work(steady)))
        ends = time.monotonic() + STORM_S
        turn = 0
        while time.monotonic() < ends:
            guest = field.worker(f"guest-{turn % 3}")
            await field.feed_until(asyncio.ensure_future(asyncio.sleep(1)), rate=100)
            if turn % 3 == 2:
                await guest.kill()
            turn += 1
            leaver = field.workers[f"guest-{turn % 3}"] if turn >= 3 else None
            if leaver is not None and leaver.is_running:
                leaver.process.send_signal(signal.SIGTERM)
                await field.feed_until(asyncio.ensure_future(leaver.ended()), rate=100)
        await field.finish()


@pytest.mark.kafka
async def test_a_stopped_process_that_wakes_after_its_partitions_moved_changes_nothing(
    kafka: Kafka, database: str
) -> None:
    """P1, P6, P7: SIGSTOP for longer than lease and session; what it had in flight is another's when it wakes."""
    async with Field(kafka.bootstrap_servers, database, "transactional") as field:
        zombie = field.worker("zombie")
        assert await field.freeze_at_work(zombie) > 0
        field.worker("heir")
        done = (await field.books.standing()).done
        await field.feed_until(asyncio.ensure_future(field.until_done(done + 500)), rate=100)

        zombie.process.send_signal(signal.SIGCONT)
        await field.finish()
        assert zombie.is_running, field.logs()


@pytest.mark.private_kafka
async def test_a_broker_that_restarts(private_kafka: KafkaServer, database: str) -> None:
    async with Field(private_kafka.bootstrap_servers, database, "fused") as field:
        worker = field.worker("one")
        await field.feed_until(asyncio.ensure_future(field.at_work(worker)))
        async with field.held_at_effects():
            field.produce(500)
            await asyncio.to_thread(private_kafka.stop)
        await asyncio.to_thread(private_kafka.start)
        await field.finish()
        assert worker.is_running, field.logs()


@pytest.mark.kafka
@pytest.mark.private_postgres
@pytest.mark.parametrize("kind", ["transactional", "fused"])
async def test_a_postgres_that_stops_at_once_and_comes_back(
    kafka: Kafka, private_postgres: PostgresServer, kind: str
) -> None:
    """P25: weather is nobody's failure; P23, P24: what was under way is settled."""
    async with Field(kafka.bootstrap_servers, private_postgres.dsn(), kind) as field:
        worker = field.worker("one")
        for _ in range(2):
            await field.feed_until(asyncio.ensure_future(field.at_work(worker)))
            async with field.held_at_effects():
                field.produce(300)
                await asyncio.to_thread(private_postgres.restart, "immediate")
        await field.finish()
        assert worker.is_running, field.logs()
