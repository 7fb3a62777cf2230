"""Over TLS with a password: a process of its own, killed, and another in its place (I1, I2, I7)."""

import asyncio

import pytest

from tests.fixtures.kafka import KafkaServer, Security
from tests.system.field import Field


@pytest.mark.private_kafka
async def test_a_worker_over_sasl_ssl_with_scram_is_killed_and_nothing_is_lost_or_doubled(database: str) -> None:
    """The plain listener is the producer's only: a worker knows the address of the secure one, and of its brokers."""
    with KafkaServer(security=Security({"worker": "worker-secret"})) as server:
        settings = {
            "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": server.scram_servers,
            "PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "PROCESSOR_KAFKA_SSL_CA": str(server.ca_file),
            "PROCESSOR_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "PROCESSOR_KAFKA_SASL_USERNAME": "worker",
            "PROCESSOR_KAFKA_SASL_PASSWORD": "worker-secret",
        }
        async with Field(server.bootstrap_servers, database, "transactional", settings=settings) as field:
            worker = field.worker("one")
            await field.feed_until(asyncio.ensure_future(field.at_work(worker)))
            async with field.held_at_effects():
                await worker.kill()
            field.worker("one")
            await field.finish()

            assert worker.is_running, field.logs()
            assert "worker-secret" not in field.logs()
