"""Records of another program's producer, through Kafka, in Avro and Protobuf; the registry goes away and comes back."""

import asyncio
import json
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka import schema_registry as client
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from pydantic import BaseModel

from consumers.mock import MockCluster
from processor import App, Avro, Protobuf, Settings, Topic
from processor.runtime import running
from tests.fixtures.kafka import Kafka, unique
from tests.fixtures.messages import message_class
from tests.fixtures.schema_registry import RegistryServer, schema_registry

WAIT_S = 60


class Order(BaseModel):
    order_id: str
    n: int


def schema(name: str) -> str:
    fields = [{"name": "order_id", "type": "string"}, {"name": "n", "type": "int"}]
    return json.dumps({"type": "record", "name": name, "namespace": "shop", "fields": fields})


@pytest.fixture
def server() -> Generator[RegistryServer]:
    with schema_registry() as running_server:
        yield running_server


class Elsewhere:
    """Another program: the client's producer and serializers, with a registry client of its own."""

    def __init__(self, broker: MockCluster | Kafka, server: RegistryServer) -> None:
        self._producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        self._client = client.SchemaRegistryClient({"url": server.url})

    def avro(self, name: str, **conf: Any) -> Callable[..., Any]:
        make: Any = AvroSerializer  # its own annotation has no arguments
        return make(self._client, schema(name), conf={"subject.name.strategy.type": "RECORD", **conf})

    def protobuf(self) -> Callable[..., Any]:
        conf = {"subject.name.strategy.type": "TOPIC"}
        make: Any = ProtobufSerializer
        return make(message_class("shop.Order"), self._client, conf=conf)

    def produce(self, topic: str, serializer: Callable[..., Any], values: Sequence[Any], *, partition: int) -> None:
        for value in values:
            headers: list[tuple[str, str | bytes | None]] = []
            payload = serializer(value, SerializationContext(topic, MessageField.VALUE, headers))
            self._producer.produce(topic, payload, key="k", partition=partition, headers=headers)
        assert self._producer.flush(WAIT_S) == 0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def partitions(settings: Settings) -> list[dict[str, Any]]:
    """As `processor partitions list` says it, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "processor", "partitions", "list", "--json"),
        env={"PROCESSOR_POSTGRES_DSN": settings.postgres.dsn.get_secret_value()},
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    return [json.loads(line) for line in told.decode().splitlines()]


async def test_a_partition_waits_for_its_schema_and_the_others_do_not(
    broker: MockCluster | Kafka, database: str, server: RegistryServer
) -> None:
    """I1, I7, I8: as from another program, with the ID in front or the GUID in a header; nothing lost, in order, visible."""
    name = unique("orders")
    broker.create_topic(name, partitions=2)
    app, seen = App(unique("shop")), dict[str, list[Order]]()

    @app.workflow(on=Topic(name, Order, format=Avro()))
    async def handle(order: Order) -> None:
        seen.setdefault(order.order_id, []).append(order)

    settings = Settings.model_validate(
        {
            "postgres": {"dsn": database},
            "kafka": {"bootstrap_servers": broker.bootstrap_servers},
            "registry": {"url": server.url, "retry_max": "100ms"},
            "executor": {"drain": "5s"},
        }
    )
    elsewhere = Elsewhere(broker, server)
    first, second = elsewhere.avro("First"), elsewhere.avro("Second")
    framing: Any = getattr(client, "header_schema_id_serializer")  # noqa: B009  # which has no type of its own
    in_header = elsewhere.avro("Third", **{"schema.id.serializer": framing})
    orders = [{"order_id": "a", "n": n} for n in range(20)]
    elsewhere.produce(name, first, orders[:5], partition=0)
    elsewhere.produce(name, first, [{"order_id": "b", "n": 0}], partition=1)
    async with running(app, settings):
        await until(lambda: len(seen.get("a", [])) == 5 and len(seen.get("b", [])) == 1)

        # Encoded while the registry is there, consumed when it is not.
        server.fail(503, only="/schemas")
        elsewhere.produce(name, second, orders[5:10], partition=0)
        elsewhere.produce(name, in_header, orders[10:15], partition=0)
        elsewhere.produce(name, first, orders[15:], partition=0)
        elsewhere.produce(name, first, [{"order_id": "b", "n": 1}], partition=1)
        await until(lambda: len(seen["b"]) == 2)
        await until(lambda: server.asked("/schemas/ids/2") > 2)
        async with asyncio.timeout(WAIT_S):
            while (waits := [each["waits"] for each in await partitions(settings)]) == [None, None]:
                pass
        assert waits == ["schema registry: schema 2: HTTP 503: as the test says", None]
        assert [order.n for order in seen["a"]] == list(range(5))

        server.work()
        await until(lambda: len(seen["a"]) == 20)
        assert [order.n for order in seen["a"]] == list(range(20))
        async with asyncio.timeout(WAIT_S):
            while [each["next"] for each in await partitions(settings)] != [20, 2]:
                pass
        assert [each["waits"] for each in await partitions(settings)] == [None, None]
        assert [each["dead_letters"] for each in await partitions(settings)] == [0, 0]


async def test_messages_of_another_program_with_what_their_file_imports(
    mock_cluster: MockCluster, database: str, server: RegistryServer
) -> None:
    """Protobuf: the message's place in its file, and the schema of the file it imports, come from the registry."""
    name = unique("orders")
    mock_cluster.create_topic(name, partitions=1)
    order_class, seen = message_class("shop.Order"), list[Any]()
    app = App("shop")

    @app.workflow(on=Topic(name, order_class, format=Protobuf()))
    async def handle(order: Any) -> None:
        seen.append(order)

    elsewhere = Elsewhere(mock_cluster, server)
    orders = [order_class(order_id="a", n=n, price=message_class("shop.Money")(cents=n)) for n in range(3)]
    elsewhere.produce(name, elsewhere.protobuf(), orders, partition=0)
    settings = {
        "postgres": {"dsn": database},
        "kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers},
        "registry": {"url": server.url},
        "executor": {"drain": "5s"},
    }
    async with running(app, Settings.model_validate(settings)):
        await until(lambda: len(seen) == 3)

    assert seen == orders
    assert server.asked("/subjects/money.proto/versions/1") == 1
