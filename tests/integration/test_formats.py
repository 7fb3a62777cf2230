"""Topics in the formats of a schema registry, on a real Postgres and a registry that speaks its HTTP API (decision 0011)."""

import asyncio
import json
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import fastavro
import pytest
from pydantic import BaseModel, Field

from consumers.settings import RegistrySettings
from engine.settings import EngineSettings
from engine.telemetry import DecodingWaits
from processor import App, Avro, JsonSchema, Protobuf, Record, Topic, Transaction, publish, sync
from processor.testing import Bench
from tests.fixtures.messages import message_class
from tests.fixtures.schema_registry import RegistryServer, schema_registry
from tests.integration.protocol import FAST, until, until_row

AVRO = json.dumps(
    {
        "type": "record",
        "name": "Order",
        "namespace": "shop",
        "fields": [{"name": "order_id", "type": "string"}, {"name": "n", "type": "int"}],
    }
)


class Order(BaseModel):
    order_id: str
    n: int = Field(ge=0)


FORMATS = [
    pytest.param(Avro(schema=AVRO), id="avro"),
    pytest.param(JsonSchema(), id="json"),
    pytest.param(Protobuf(message=message_class("shop.Order")), id="protobuf"),
]


@pytest.fixture
def server() -> Generator[RegistryServer]:
    with schema_registry() as running:
        yield running


def settings_of(server: RegistryServer, **changes: Any) -> RegistrySettings:
    whole: dict[str, Any] = {"url": server.url, "registers": True, "retry_max": timedelta(milliseconds=50), **changes}
    return RegistrySettings(**whole)


class Shop:
    """One handler that keeps what it sees. `seen` has events or their records."""

    def __init__(self, topic: Topic[Any]) -> None:
        self.topic = topic
        self.app = App("shop")
        self.seen: list[Any] = []
        self.is_shut = False

        @self.app.step()
        async def first(n: int) -> None:
            while self.is_shut:
                await asyncio.sleep(0.005)

        @self.app.step()
        async def second(n: int) -> None:
            pass

        @self.app.workflow(on=topic)
        async def handle(record: Record[Any]) -> None:
            self.seen.append(record)
            await first(0)
            await second(0)

    def events(self) -> list[Any]:
        return [record.event for record in self.seen]

    def bench(self, database: str, registry: RegistrySettings, settings: EngineSettings = FAST) -> Bench:
        return Bench(self.app, database, settings=settings, registry=registry)


async def dead_letters(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.fetch_all(
        "SELECT kafka_offset, reason, error::json ->> 'message', record_value FROM dbos.dead_letter ORDER BY 1"
    )


def avro(schema: Any, value: Any, *, known: Any = None) -> bytes:
    """A value as another program writes it."""
    written, names = BytesIO(), dict[str, Any]()
    if known is not None:
        fastavro.parse_schema(known, names)
    fastavro.schemaless_writer(written, fastavro.parse_schema(schema, names), value)  # pyright: ignore[reportUnknownMemberType]  # its IO is of anything
    return written.getvalue()


# -- what is read and written


@pytest.mark.parametrize("format_", FORMATS)
async def test_an_event_comes_as_it_was_published_also_after_a_crash(
    database: str, server: RegistryServer, format_: Any
) -> None:
    """I2: the row has the bytes as they were; recovery decodes them alike."""
    shop = Shop(Topic("orders", Order, format=format_))
    async with shop.bench(database, settings_of(server)) as bench:
        shop.is_shut = True
        await bench.deliver(shop.topic, Order(order_id="o-1", n=7))
        await until_row(bench, "kafka_offset = 0")

        await bench.crash_now()
        shop.is_shut = False
        await bench.settle()

        assert shop.events() == [Order(order_id="o-1", n=7)] * 2
        assert await bench.fetch_all("SELECT request::json ->> 'encoding', status FROM dbos.workflow_status") == [
            ("base64", "SUCCESS")
        ]
    assert server.asked("/subjects/orders-value/versions") == 1


async def test_a_protobuf_topic_can_have_the_messages_themselves(database: str, server: RegistryServer) -> None:
    """With what its file imports, registered beside it and referred to."""
    order_class, money = message_class("shop.Order"), message_class("shop.Money")
    shop = Shop(Topic("orders", order_class, format=Protobuf()))
    order = order_class(order_id="o-1", n=7, price=money(cents=2**40, currency="EUR"), note=b"\x00\xff")
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, order)
        await bench.settle()

    assert shop.events() == [order]
    assert set(server.registry.subjects) == {"money.proto", "orders-value"}
    assert server.registry.subjects["orders-value"][0].body["references"][0]["name"] == "money.proto"


async def test_what_avro_knows_of_types_arrives_as_python_has_it(database: str, server: RegistryServer) -> None:
    """Logical types, enums, optional and nested records: both ways."""

    class Colour(Enum):
        RED = "red"

    class Line(BaseModel):
        price: Decimal
        colour: Colour

    class Full(BaseModel):
        at: datetime
        ident: UUID
        blob: bytes
        lines: list[Line]
        note: str | None = None

    price = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    line = {
        "type": "record",
        "name": "Line",
        "fields": [
            {"name": "price", "type": price},
            {"name": "colour", "type": {"type": "enum", "name": "Colour", "symbols": ["red", "blue"]}},
        ],
    }
    schema = {
        "type": "record",
        "name": "Full",
        "fields": [
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "ident", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "blob", "type": "bytes"},
            {"name": "lines", "type": {"type": "array", "items": line}},
            {"name": "note", "type": ["null", "string"], "default": None},
        ],
    }
    event = Full(
        at=datetime(2026, 1, 31, 8, 0, 0, 123_000, UTC),
        ident=uuid4(),
        blob=b"\x00\xff",
        lines=[Line(price=Decimal("12.50"), colour=Colour.RED)],
    )
    shop = Shop(Topic("orders", Full, format=Avro(schema=json.dumps(schema))))
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, event)
        await bench.settle()

    assert shop.events() == [event]


async def test_a_record_of_another_version_is_read_into_the_schema_of_the_program(
    database: str, server: RegistryServer
) -> None:
    """Avro's resolution: a field that the writer had not gets its default, one that the reader has not is passed over."""
    written = {
        "type": "record",
        "name": "Order",
        "fields": [{"name": "order_id", "type": "string"}, {"name": "old", "type": "int"}],
    }
    mine = {
        "type": "record",
        "name": "Order",
        "fields": [{"name": "order_id", "type": "string"}, {"name": "n", "type": "int", "default": 5}],
    }
    _, answer = server.registry.register({"schema": json.dumps(written)}, "elsewhere-value")
    payload = avro(written, {"order_id": "o-1", "old": 3})
    shop = Shop(Topic("orders", Order, format=Avro(schema=json.dumps(mine))))
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, b"\0" + answer["id"].to_bytes(4) + payload)
        await bench.settle()

    assert shop.events() == [Order(order_id="o-1", n=5)]


@pytest.mark.parametrize("framing", ["magic 0", "magic 1", "header"])
async def test_every_framing_is_read_also_after_a_crash(database: str, server: RegistryServer, framing: str) -> None:
    """The header that says which schema it is is stored for recovery, and is not the handler's."""
    schema = json.dumps({"type": "object", "title": "Order", "properties": {"n": {"type": "integer"}}})
    server.registry.register({"schema": schema, "schemaType": "JSON"}, "orders-value")
    stored = server.registry.schemas[0]
    guid = b"\1" + UUID(stored.guid).bytes
    payload = b'{"order_id": "o-1", "n": 7}'
    value = {"magic 0": b"\0" + stored.id.to_bytes(4) + payload, "magic 1": guid + payload, "header": payload}[framing]
    headers = [("__value_schema_id", guid), ("trace", b"t")] if framing == "header" else [("trace", b"t")]
    shop = Shop(Topic("orders", Order, format=JsonSchema(), headers=("trace",)))
    async with shop.bench(database, settings_of(server)) as bench:
        shop.is_shut = True
        await bench.deliver(shop.topic, value, headers=headers)
        await until_row(bench, "kafka_offset = 0")
        await bench.crash_now()
        shop.is_shut = False
        await bench.settle()

        assert shop.events() == [Order(order_id="o-1", n=7)] * 2
        assert [record.headers for record in shop.seen] == [(("trace", b"t"),)] * 2
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_schemas_that_a_schema_refers_to_are_fetched_as_well(database: str, server: RegistryServer) -> None:
    """Each of them is a question of its own: decoding is tried again until it asks for nothing more."""
    money = {"type": "record", "name": "shop.Money", "fields": [{"name": "cents", "type": "long"}]}
    order = {"type": "record", "name": "shop.Paid", "fields": [{"name": "price", "type": "shop.Money"}]}
    server.registry.register({"schema": json.dumps(money)}, "money")
    references = [{"name": "shop.Money", "subject": "money", "version": 1}]
    _, answer = server.registry.register({"schema": json.dumps(order), "references": references}, "orders-value")
    payload = avro(order, {"price": {"cents": 5}}, known=money)

    class Money(BaseModel):
        cents: int

    class Paid(BaseModel):
        price: Money

    shop = Shop(Topic("orders", Paid, format=Avro()))
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, b"\0" + answer["id"].to_bytes(4) + payload)
        await bench.settle()

    assert shop.events() == [Paid(price=Money(cents=5))]
    assert server.asked("/subjects/money/versions/1") == 1


# -- what cannot be read


def framed(server: RegistryServer, payload: bytes, number: int = 1) -> bytes:
    return b"\0" + number.to_bytes(4) + payload


@pytest.mark.parametrize(
    "value,words",
    [
        (b'{"order_id": "secret"}', "it does not begin with a schema's ID"),
        (b"", "it does not begin with a schema's ID"),
        (b"\0\0\0", "it does not begin with a schema's ID"),
        (b"\0\0\0\0\1\xff\xff secret", "it cannot be read with its schema"),
        (b"\0\0\0\0\7 secret", "the schema registry has no schema 7"),
        (b"\0\0\0\0\1\x0csecret\x09", "not Order: n: "),
    ],
)
@pytest.mark.parametrize("format_", [Avro(schema=AVRO), Avro()], ids=["its schema", "as written"])
async def test_what_cannot_be_read_is_a_dead_letter_with_its_bytes_and_no_word_of_them(
    database: str, server: RegistryServer, format_: Avro, value: bytes, words: str
) -> None:
    """I1: at once, in the commit that moves progress; the next record of the partition goes on."""
    server.registry.register({"schema": AVRO}, "orders-value")
    shop = Shop(Topic("orders", Order, format=format_))
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, value)
        await bench.deliver(shop.topic, framed(server, b"\x06o-1\x0e"))
        await bench.settle()

        ((offset, reason, message, bytes_),) = await dead_letters(bench)
        assert (offset, reason, bytes(bytes_)) == (0, "undecodable", value)
        assert message.startswith("orders-0-0: ")
        assert words in message
        assert "secret" not in message
        assert shop.events() == [Order(order_id="o-1", n=7)]


@pytest.mark.parametrize(
    "format_", [JsonSchema(), Protobuf(message=message_class("shop.Order"))], ids=["json", "protobuf"]
)
async def test_other_formats_name_the_field_and_never_the_value(
    database: str, server: RegistryServer, format_: Any
) -> None:
    shop = Shop(Topic("orders", Order, format=format_))
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, Order(order_id="o-1", n=1))
        good = bench.log[bench.ref(shop.topic)][0].value or b""
        json_, broken = good[:5] + b'{"order_id": "secret", "n": "secret"}', good[:5] + b"secret"
        for value in (json_, broken, broken[:3], good[:4] + b"\x63" + good[5:]):
            await bench.deliver(shop.topic, value)
        await bench.settle()

        letters = await dead_letters(bench)
        assert [offset for offset, *_ in letters] == [1, 2, 3, 4]
        assert not [message for _, _, message, _ in letters if "secret" in message]
        if isinstance(format_, JsonSchema):
            assert "n: its schema has another 'type'" in letters[0][2]
        assert "has no schema 99" in letters[3][2]


async def test_json_of_a_registry_has_no_numbers_that_json_has_not(database: str, server: RegistryServer) -> None:
    """As plain JSON: the registry's reader takes them all."""
    shop = Shop(Topic("orders", Order, format=JsonSchema()))
    async with shop.bench(database, settings_of(server)) as bench:
        await bench.deliver(shop.topic, Order(order_id="o-1", n=1))
        good = bench.log[bench.ref(shop.topic)][0].value or b""
        for number in (b"NaN", b"1e999", b"7"):
            await bench.deliver(shop.topic, good[:5] + b'{"order_id": "o-2", "n": 1, "other": ' + number + b"}")
        await bench.settle()

        letters = await dead_letters(bench)
        assert [(offset, "not JSON: NaN, Infinity" in message) for offset, _, message, _ in letters] == [
            (1, True),
            (2, True),
        ]


async def test_a_schema_that_refers_to_the_internet_is_not_followed(database: str, server: RegistryServer) -> None:
    """The client would fetch it in the middle of decoding, from whatever host a schema names."""
    with schema_registry() as elsewhere:
        schema = json.dumps({"type": "object", "properties": {"n": {"$ref": f"{elsewhere.url}/schemas/types"}}})
        server.registry.register({"schema": schema, "schemaType": "JSON"}, "orders-value")
        shop = Shop(Topic("orders", Order, format=JsonSchema()))
        async with shop.bench(database, settings_of(server)) as bench:
            await bench.deliver(shop.topic, framed(server, b'{"order_id": "o-1", "n": 1}'))
            await bench.settle()

            ((_, _, message, _),) = await dead_letters(bench)
            assert "cannot be read with its schema" in message
        assert elsewhere.requests == []


# -- a registry in trouble


TROUBLES: list[tuple[str, Callable[[RegistryServer], None], str]] = [
    ("stopped", lambda server: server.stop(), "refused"),
    ("500", lambda server: server.fail(500, only="/schemas"), "HTTP 500"),
    ("503", lambda server: server.fail(503, only="/schemas"), "HTTP 503"),
    ("429", lambda server: server.fail(429, only="/schemas"), "HTTP 429"),
    ("unauthorised", lambda server: server.fail(401, only="/schemas"), "credentials"),
    ("a proxy's 404", lambda server: server.fail(404, 404, only="/schemas"), "is registry.url right"),
    ("hangs", lambda server: server.hang(), "timeout"),
]


@pytest.mark.parametrize(
    "trouble,words", [(act, words) for _, act, words in TROUBLES], ids=[name for name, *_ in TROUBLES]
)
async def test_a_registry_in_trouble_is_a_pause_and_not_a_loss(
    database: str, server: RegistryServer, trouble: Callable[[RegistryServer], None], words: str
) -> None:
    """I1, I7: the partition waits, with its reason; a partition of schemas that are known goes on; then all is handled."""
    _, known = server.registry.register({"schema": AVRO}, "orders-value")
    _, new = server.registry.register({"schema": AVRO.replace("Order", "Order2")}, "orders-other")
    shop = Shop(Topic("orders", Order, format=Avro()))
    registry = settings_of(server, timeout=timedelta(milliseconds=200))
    async with shop.bench(database, registry) as bench:
        await bench.deliver(shop.topic, framed(server, b"\x02a\x02", known["id"]))
        await bench.settle()
        trouble(server)

        await bench.deliver(shop.topic, framed(server, b"\x02b\x04", new["id"]))
        await bench.deliver(shop.topic, framed(server, b"\x02c\x06", known["id"]))
        await bench.deliver(shop.topic, framed(server, b"\x02d\x08", known["id"]), partition=1)
        await until(lambda: [event for event in bench.events if isinstance(event, DecodingWaits)])
        await until(lambda: Order(order_id="d", n=4) in shop.events())
        reason = next(event.reason for event in bench.events if isinstance(event, DecodingWaits))
        assert words in reason.lower() or words in reason
        assert f"schema {new['id']}" in reason
        assert [event.order_id for event in shop.events()] == ["a", "d"]

        if trouble is TROUBLES[0][1]:
            server.start()
        server.work()
        await bench.settle()
        assert [event.order_id for event in shop.events()] == ["a", "d", "b", "c"]
        assert not await dead_letters(bench)


def publishing(kind: str, orders: Topic[Order], shipments: Topic[Order], calls: list[str]) -> App:  # noqa: C901  # a list of handlers
    """An app that publishes each order, in one of the ways there are."""
    app = App("shop")

    if kind == "workflow":

        @app.workflow(on=orders)
        async def tell(order: Order) -> None:
            calls.append(order.order_id)
            await publish(shipments, order)

    elif kind == "sync workflow":

        @app.workflow(on=orders)
        def tell_sync(order: Order) -> None:
            calls.append(order.order_id)
            sync.publish(shipments, order)

    elif kind == "step":

        @app.transaction()
        async def ship(tx: Transaction, order: Order) -> None:
            calls.append(order.order_id)
            await tx.publish(shipments, order)

        @app.workflow(on=orders)
        async def handle(order: Order) -> None:
            await ship(order)

    elif kind == "fused":

        @app.transaction(on=orders)
        async def ship_at_once(tx: Transaction, order: Order) -> None:
            calls.append(order.order_id)
            await tx.publish(shipments, order)

    else:

        @app.batch(on=orders)
        async def ship_all(tx: Transaction, each: Sequence[Order]) -> None:
            calls.extend(order.order_id for order in each)
            for order in each:
                await tx.publish(shipments, order)

    return app


@pytest.mark.parametrize("kind", ["workflow", "sync workflow", "step", "fused", "batch"])
async def test_publishing_waits_for_the_registry_as_well(
    database: str, server: RegistryServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """P25, I9: an encoding that is not possible yet is waited for, or its transaction run again; no attempt, no failure."""
    orders = Topic("orders", Order)
    shipments = Topic("shipments", Order, format=Avro(schema=AVRO))
    calls: list[str] = []
    app = publishing(kind, orders, shipments, calls)
    server.stop()
    async with Bench(app, database, settings=FAST, registry=settings_of(server)) as bench:
        await bench.deliver(orders, Order(order_id="o-1", n=1))
        await until(lambda: bool(calls) and "shipments-value" in caplog.text)
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") in ([], [("PENDING",)])

        server.start()
        await bench.settle()
        assert await bench.fetch_all("SELECT record_value FROM dbos.outbox") == [(b"\0\0\0\0\1\x06o-1\x02",)]
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]
        assert await bench.published(shipments) == [Order(order_id="o-1", n=1)]


async def test_a_schema_is_looked_up_unless_registering_is_asked_for(database: str, server: RegistryServer) -> None:
    """A program that only happens to publish must not change what the registry has."""
    orders = Topic("orders", Order, format=Avro(schema=AVRO))
    named = Topic("sales", Order, format=Avro(schema=AVRO, subject_names="topic_record", register=True))
    by_record = Topic("sales", Order, format=Avro(schema=AVRO, subject_names="record", register=True))
    shop = Shop(orders)
    async with shop.bench(database, settings_of(server, registers=False)):

        def encode(topic: Topic[Order]) -> bytes | None:
            return topic.encode(Order(order_id="o-1", n=1))[1]

        with pytest.raises(
            ValueError, match="no schema of this program under subject 'orders-value'.*Subject 'orders-value' not found"
        ):
            await asyncio.to_thread(encode, orders)
        assert not server.registry.subjects

        assert await asyncio.to_thread(encode, named)
        assert await asyncio.to_thread(encode, by_record)
        assert set(server.registry.subjects) == {"sales-shop.Order", "shop.Order"}
