"""What brokers are asked without blocking the loop, when they do not answer."""

import asyncio
from datetime import timedelta

from confluent_kafka import KafkaException

from consumers.cluster import Cluster
from consumers.mock import MockCluster
from consumers.settings import GroupSettings
from tests.conformance.members import produce
from tests.fixtures.kafka import unique
from tests.fixtures.relay import relay


class Hasty(Cluster):
    """Gives its client up after two seconds, not half a minute."""

    replace_after_s = 2.0


async def test_a_client_that_has_lost_sight_of_its_brokers_is_replaced() -> None:
    """I8: without it nothing is claimed any more (librdkafka issue 5301). It is told here not to bootstrap again."""
    topic = unique("moved")
    with MockCluster() as before, MockCluster() as after:
        before.create_topic(topic, 1)
        after.create_topic(topic, 1)
        produce(after.bootstrap_servers, topic, ["0", "1"])
        async with relay(before.bootstrap_servers) as address:
            cluster = Hasty(
                GroupSettings(
                    bootstrap_servers=address.address,
                    group="g",
                    request_max=timedelta(seconds=1),
                    options={"metadata.recovery.strategy": "none"},
                )
            )
            await cluster.open([topic])
            assert (await cluster.log(topic, 0)).end == 0

            address.target = after.bootstrap_servers
            await asyncio.to_thread(before.close)
            refusals = 0
            async with asyncio.timeout(60):
                while True:
                    try:
                        log = await cluster.log(topic, 0)
                        break
                    except KafkaException:
                        refusals += 1

            assert log.end == 2
            assert refusals >= 2
            await asyncio.to_thread(cluster.close)
