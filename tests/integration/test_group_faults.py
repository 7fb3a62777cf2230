"""What goes wrong around a member: Postgres or the brokers are away, producers send nonsense, there are bugs of ours."""

import asyncio
import ctypes
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import Producer

from consumers import telemetry
from consumers.mock import MockCluster
from consumers.settings import GroupProtocol, Subscription
from engine.migrations import migrate
from engine.records import Record
from engine.source import Source
from engine.telemetry import ServiceFailed
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, KafkaServer, unique
from tests.fixtures.postgres import PostgresServer
from tests.integration.members import Broker, Member, Members, fetch, settled, texts, until, workflows

# -- outages


async def test_an_outage_of_postgres_at_an_assignment_disturbs_no_rebalance(
    mock_cluster: MockCluster, topic: str, private_postgres: PostgresServer, members: Members
) -> None:
    """Section 0.7 of the notes: claims wait for Postgres, the group settles without."""
    address = private_postgres.dsn()
    await migrate(address)
    mock_cluster.create_topic(topic, 2)
    member = Member(
        address,
        mock_cluster.bootstrap_servers,
        unique("billing"),
        Subscription(topic=topic, handler="fulfil"),
    )
    await member.engine.start()
    await asyncio.to_thread(private_postgres.stop, "immediate")
    try:
        await member.group.start()
        await until(lambda: len(member.partitions) == 2, member)
        assert "attached" not in member.states.values()
        await asyncio.to_thread(private_postgres.start)
        await until(lambda: set(member.states.values()) == {"attached"}, member)
        produce(mock_cluster.bootstrap_servers, topic, texts("a", 20))
        await settled(address, 20, member)
    finally:
        await member.stop()


async def test_an_outage_of_the_brokers_loses_and_repeats_nothing(
    private_kafka: KafkaServer, topic: str, database: str, members: Members, protocol: GroupProtocol
) -> None:
    """Killed, and back with the same data."""
    kafka = private_kafka.kafka()
    kafka.create_topic(topic, 2)
    member = await members(kafka, protocol=protocol)
    produce(kafka.bootstrap_servers, topic, texts("a", 100))
    await settled(database, 100, member)

    await asyncio.to_thread(private_kafka.kill)
    await asyncio.to_thread(private_kafka.start)
    await asyncio.to_thread(produce, kafka.bootstrap_servers, topic, texts("b", 100), partition=1)
    await settled(database, 200, member)

    assert set(member.ran.values()) == {1}


# -- what bad producers send


async def test_a_header_whose_name_is_no_text_makes_one_dead_letter_and_stops_nobody(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """Case 40: the client cannot give such headers, and says so with an error that would come at every try."""
    mock_cluster.create_topic(topic, 1)
    # Enough of them that Python has specialised the call which reads the headers.
    before = texts("before", 100)
    produce(mock_cluster.bootstrap_servers, topic, before, key="k")
    produce_with_a_header_named(b"\xff\xfe", mock_cluster.bootstrap_servers, topic, b"strange")
    produce(mock_cluster.bootstrap_servers, topic, ["after"], key="k")

    member = await members(mock_cluster)
    await until(lambda: member.ran.keys() == {*before, "after"}, member)
    while (found := await workflows(database)) != {"SUCCESS": 101, "ERROR": 1}:
        assert found.total() <= 102
        await asyncio.sleep(0.05)

    ((reason, value, error),) = await fetch(database, "SELECT reason, record_value, error FROM dbos.dead_letter")
    assert (reason, value) == ("undecodable", b"strange")
    assert "a header's name is not UTF-8" in error
    assert not member.told(telemetry.ClientRecreated)


# -- bugs of ours


def break_down(*_: object, **__: object) -> None:
    raise TypeError("a bug of ours")


async def test_a_bug_where_records_are_taken_ends_the_member_and_loses_nothing(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    """I1: no position that lies behind the records which were not taken moves progress; the next process runs them."""
    broker.create_topic(topic, 2)
    broken = await members(broker)
    await until(lambda: set(broken.states.values()) == {"attached"}, broken)
    (source,) = (each for each in broken.engine.sources.attached() if each.ref.partition == 0)
    source.inbox.deliver = break_down
    for partition in range(2):
        produce(broker.bootstrap_servers, topic, texts(f"{partition}-", 20), partition=partition, key="k")

    await until(broken.group.failed.done, broken)
    await broken.stop()
    healthy = await members(broker)
    await settled(database, 40, broken, healthy)

    assert isinstance(broken.group.failed.exception(), TypeError)
    assert not [text for text in broken.ran if text.startswith("0-")]
    assert set((broken.ran + healthy.ran).values()) == {1}


@pytest.mark.parametrize("where", ["claim", "stored"])
async def test_a_bug_in_a_partitions_life_ends_the_member_and_is_not_tried_again(
    broker: Broker, topic: str, members: Members, where: str
) -> None:
    broker.create_topic(topic, 1)

    def prepare(member: Member) -> None:
        setattr(member.engine.sources, where, break_down)

    broken = await members(broker, prepare=prepare)
    await until(broken.group.failed.done, broken)

    assert isinstance(broken.group.failed.exception(), TypeError)
    assert [event.error for event in broken.told(ServiceFailed)] == [broken.group.failed.exception()]


async def test_a_batch_that_is_lost_on_its_way_to_the_engine_is_noticed_by_the_next(
    kafka: Kafka, topic: str, database: str, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: nothing behind the gap runs, all is fetched again from the stored progress; a gap of Kafka's own is none."""
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, texts("a", 20))
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": unique("tx")})
    await asyncio.to_thread(producer.init_transactions)
    producer.begin_transaction()
    producer.produce(topic, "aborted", partition=0)
    await asyncio.to_thread(producer.flush)
    await asyncio.to_thread(producer.abort_transaction)
    member = await members(kafka)
    await settled(database, 20, member)
    deliver, lost = Source.deliver, list[Record]()

    def lose(source: Source, records: list[Record]) -> None:
        monkeypatch.setattr(Source, "deliver", deliver)
        lost.extend(records)

    monkeypatch.setattr(Source, "deliver", lose)
    produce(kafka.bootstrap_servers, topic, texts("b", 10))
    await until(lambda: lost, member)
    produce(kafka.bootstrap_servers, topic, texts("c", 10))
    await settled(database, 40, member)

    assert set(member.ran.values()) == {1}
    (failed,) = member.told(ServiceFailed)
    assert "what was fetched from offset" in str(failed.error)
    assert list(member.ran) == [*texts("a", 20), *texts("b", 10), *texts("c", 10)]


async def test_progress_that_a_newer_version_wrote_halts_its_partition_alone(
    broker: Broker, topic: str, database: str, members: Members
) -> None:
    broker.create_topic(topic, 2)
    first = await members(broker)
    await until(lambda: set(first.states.values()) == {"attached"}, first)
    await first.stop()
    await fetch(
        database,
        """UPDATE dbos.event_dispatch_kv
              SET value = left(value, -1) || ',"newer":1}'
            WHERE key = %s AND service_name LIKE 'kafka:%%'""",
        f"{topic}-0",
    )

    second = await members(broker)
    await until(lambda: "newer" in second.partitions[0].reason if second.partitions else False, second)

    assert second.states[0] == "halted"
    assert "a newer version wrote it" in second.partitions[0].reason


# -- helpers


def produce_with_a_header_named(name: bytes, bootstrap_servers: str, topic: str, value: bytes) -> None:
    """As producers in other languages can: this client's own takes text only."""
    folder = Path(confluent_kafka.__file__).parent
    (library,) = [*folder.parent.glob("confluent_kafka.libs/librdkafka*"), *folder.glob(".dylibs/librdkafka*")][:1]
    client = ctypes.CDLL(str(library))
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(client, function).restype = ctypes.c_void_p
    said = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(client.rd_kafka_conf_new())
    client.rd_kafka_conf_set(settings, b"bootstrap.servers", bootstrap_servers.encode(), said, 512)
    producer = ctypes.c_void_p(client.rd_kafka_new(0, settings, said, 512))
    headers = ctypes.c_void_p(client.rd_kafka_headers_new(1))
    client.rd_kafka_header_add(headers, name, len(name), b"v", 1)
    # RD_KAFKA_VTYPE_: TOPIC 1, PARTITION 3, VALUE 4, MSGFLAGS 7 (2: copy), HEADERS 10, END 0.
    size = ctypes.c_size_t(len(value))
    assert client.rd_kafka_producev(producer, 1, topic.encode(), 3, 0, 4, value, size, 7, 2, 10, headers, 0) == 0
    assert client.rd_kafka_flush(producer, 10_000) == 0
    client.rd_kafka_destroy(producer)
