"""Where a group begins, and what keeps it from beginning."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.cimpl import NewPartitions

from consumers.settings import GroupProtocol, Security, StartAt, StartAtTime, Subscription
from engine.errors import ConfigurationError
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, KafkaServer, unique
from tests.fixtures.kafka import Security as BrokerSecurity
from tests.integration.members import Broker, Member, Members, ids, settled, texts, until

# -- where to begin


async def test_latest_is_resolved_once_for_all_partitions(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    """K5: what was there is skipped by decision; what comes while nobody runs is not."""
    broker.create_topic(topic, 2)
    produce(broker.bootstrap_servers, topic, texts("before", 5))
    latest = Subscription(topic=topic, handler="fulfil", start=StartAt.LATEST)
    first = await members(broker, latest)
    await until(lambda: set(first.states.values()) == {"attached"}, first)
    await first.stop()
    for partition in range(2):
        produce(broker.bootstrap_servers, topic, texts(f"between{partition}-", 5), partition=partition)

    second = await members(broker, latest)
    await settled(database, 10, second)

    assert all(text.startswith("between") for text in second.ran)


async def test_a_group_moves_from_its_offsets_in_kafka(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Migration: from what the group had committed; a partition it never committed begins at its start."""
    kafka.create_topic(topic, 2)
    for partition in range(2):
        produce(kafka.bootstrap_servers, topic, texts(f"{partition}-", 10), partition=partition)
    group = unique("moved")
    commit(kafka, group, topic, 7)

    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=StartAt.COMMITTED), group=group)
    await settled(database, 13, member)

    assert {"0-7", "0-8", "0-9", "1-0"} <= member.ran.keys()
    assert "0-6" not in member.ran


async def test_a_group_without_offsets_in_kafka_does_not_guess(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, ["0"])

    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=StartAt.COMMITTED))
    await until(lambda: "no committed offsets" in member.partitions[0].reason if member.partitions else False, member)

    assert member.states == {0: "halted"}
    assert await ids(database) == []


async def test_a_start_at_a_time_finds_the_first_record_since(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    kafka.create_topic(topic, 2)
    for second in (1_000, 2_000, 3_000):
        produce(kafka.bootstrap_servers, topic, [str(second)], timestamp=second * 1_000)

    start = StartAtTime(datetime.fromtimestamp(1_500, UTC))
    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=start))
    await settled(database, 2, member)

    assert member.ran.keys() == {"2000", "3000"}


async def test_a_partition_discovered_later_starts_at_its_beginning(
    kafka: Kafka, topic: str, database: str, members: Members
) -> None:
    """Section 2.5 of the notes: with `latest`, what is produced before its discovery would be skipped."""
    kafka.create_topic(topic, 1)
    member = await members(kafka, Subscription(topic=topic, handler="fulfil", start=StartAt.LATEST))
    await until(lambda: member.states == {0: "attached"}, member)

    kafka.admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
    produce(kafka.bootstrap_servers, topic, texts("early", 5), partition=1)
    await settled(database, 5, member)

    assert len(member.ran) == 5


async def test_topics_that_match_a_pattern_are_consumed(
    broker: Broker, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    for name in ("eu", "us"):
        broker.create_topic(f"{topic}.{name}", 1)
        produce(broker.bootstrap_servers, f"{topic}.{name}", [name])

    member = await members(broker, Subscription(topic=f"^{topic}\\..*", handler="fulfil"), protocol=protocol)
    await settled(database, 2, member)

    assert await ids(database) == [f"{topic}.eu-0-0", f"{topic}.us-0-0"]


async def test_a_topic_that_appears_later_is_consumed_from_its_start_if_it_matches(
    broker: Broker, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """What was produced before it was noticed is not skipped; a topic that does not match is left alone."""
    broker.create_topic(f"{topic}.eu", 1)
    every = Subscription(topic=f"^{topic}\\..*", handler="fulfil")
    member = await members(broker, every, protocol=protocol)
    await until(lambda: member.states == {0: "attached"}, member)

    for name in (f"{topic}.us", f"{topic}-other"):
        broker.create_topic(name, 1)
        produce(broker.bootstrap_servers, name, texts(name, 3))
    await settled(database, 3, member)
    produce(broker.bootstrap_servers, f"{topic}.us", [f"{topic}.us3"])
    produce(broker.bootstrap_servers, f"{topic}.eu", ["eu"])
    await settled(database, 5, member)

    assert member.ran == dict.fromkeys([*texts(f"{topic}.us", 4), "eu"], 1)
    assert {each.source.topic for each in member.group.snapshot().partitions} == {f"{topic}.eu", f"{topic}.us"}


# -- what is wrong at start


async def test_a_topic_that_does_not_exist_is_named_at_start(broker: Broker, topic: str, members: Members) -> None:
    with pytest.raises(ConfigurationError, match=topic):
        await members(broker)


async def test_brokers_that_do_not_answer_are_named_at_start(topic: str, database: str) -> None:
    """Within `startup_max`, with the client's last word."""
    subscription = Subscription(topic=topic, handler="fulfil")
    member = Member(database, "127.0.0.1:9", "billing", subscription, startup_max=timedelta(seconds=1))

    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:9 did not answer"):
        await member.start()


@pytest.mark.private_kafka
async def test_wrong_credentials_are_refused_at_start(topic: str, database: str) -> None:
    """And right ones are not."""
    with KafkaServer(security=BrokerSecurity()) as server:
        kafka = server.kafka()
        kafka.create_topic(topic, 1)
        produce(kafka.bootstrap_servers, topic, ["0"])
        subscription = Subscription(topic=topic, handler="fulfil")

        def member(password: str) -> Member:
            security = Security(
                tls=True,
                ca=os.fspath(server.ca_file),
                mechanism="SCRAM-SHA-512",
                username="alice",
                password=password,
            )
            return Member(database, server.scram_servers, unique("billing"), subscription, security=security)

        with pytest.raises(ConfigurationError, match="does not let us in") as refused:
            await member("guessed").start()
        assert "guessed" not in str(refused.value)
        right = await member("alice-secret").start()
        await settled(database, 1, right)
        await right.stop()


@pytest.mark.private_kafka
async def test_oauth_tokens_are_asked_for(topic: str, database: str) -> None:
    from base64 import urlsafe_b64encode
    from json import dumps
    from time import time

    def token(config: str) -> tuple[str, float]:
        assert config == ""
        expires = time() + 300
        parts = [{"alg": "none"}, {"sub": "alice", "iat": int(time()), "exp": int(expires)}]
        encoded = [urlsafe_b64encode(dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        return ".".join([*encoded, ""]), expires

    with KafkaServer(security=BrokerSecurity()) as server:
        kafka = server.kafka()
        kafka.create_topic(topic, 1)
        produce(kafka.bootstrap_servers, topic, ["0"])
        security = Security(tls=True, ca=os.fspath(server.ca_file), mechanism="OAUTHBEARER", oauth_token=token)
        subscription = Subscription(topic=topic, handler="fulfil")

        member = Member(database, server.oauth_servers, unique("billing"), subscription, security=security)
        await member.start()
        await settled(database, 1, member)
        await member.stop()


# -- helpers


def commit(broker: Broker, group: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group, "log_level": 0})
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    finally:
        consumer.close()
