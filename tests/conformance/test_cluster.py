"""What brokers are asked without blocking the loop, when they do not answer."""

import asyncio
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from consumers.cluster import Cluster
from consumers.mock import MockCluster
from consumers.settings import GroupSettings
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, unique
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


class WithoutController:
    """A client whose brokers were restarted: it knows of no controller until it has asked for everything again."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self._knows = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._admin, name)

    def list_topics(self, *args: Any, **kwargs: Any) -> Any:
        self._knows = True
        return self._admin.list_topics(*args, **kwargs)

    def describe_topics(self, topics: Any, **kwargs: Any) -> dict[str, Future[Any]]:
        if self._knows:
            return self._admin.describe_topics(topics, **kwargs)
        failed: Future[Any] = Future()
        failed.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT, "Failed while waiting for controller")))
        return dict.fromkeys(self.names, failed)

    names: tuple[str, ...] = ()


async def test_a_client_that_waits_for_a_controller_asks_again_who_it_is(kafka: Kafka) -> None:
    """I8: other requests were answered, so it was not replaced, and no partition of its was attached any more."""
    topic = unique("orders")
    kafka.create_topic(topic, 1)
    cluster = Cluster(GroupSettings(bootstrap_servers=kafka.bootstrap_servers, group="g"))
    await cluster.open([topic])
    known = await cluster.topic(topic)
    lost = WithoutController(cluster._admin)  # pyright: ignore[reportPrivateUsage]
    lost.names = (topic,)
    cluster._admin = lost  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(KafkaException, match="waiting for controller"):
        await cluster.topic(topic)
    assert (await cluster.topic(topic)).topic_id == known.topic_id

    cluster._admin = lost._admin  # pyright: ignore[reportPrivateUsage]
    await asyncio.to_thread(cluster.close)
