"""What registration makes of functions: handlers, steps, and what they are outside of a workflow."""

import asyncio
from collections.abc import Sequence

import pytest

from engine.handlers import Decision, HandlerKind, UndecodableError
from processor import (
    App,
    ConfigurationError,
    HaltPartition,
    Ordering,
    RawRecord,
    Record,
    Retry,
    SyncTransaction,
    Topic,
    Transaction,
    current_step,
    current_workflow,
)
from tests.unit.registering import Order, orders, raw


@pytest.fixture
def app() -> App:
    return App("shop")


# -- what is built --


def test_a_workflow_becomes_a_handler(app: App) -> None:
    @app.workflow(on=orders, retry=Retry(attempts=3), on_failure=HaltPartition(), breaker=None, persist_first=True)
    async def fulfil(order: Order) -> int:
        return 1

    handler = app.workflows["fulfil"].handler()

    assert (handler.name, handler.kind, handler.is_async) == ("fulfil", HandlerKind.JOURNALED, True)
    assert handler.function is fulfil.fn
    assert handler.format.decode(raw()) == Order(order_id="o-1")
    assert handler.format.embeds_json
    assert handler.encode(7) == "7"
    assert handler.ordering_key(raw(), None) == b"k"
    assert (handler.retry.attempts, handler.on_failure, handler.breaker) == (3, HaltPartition(), None)
    assert handler.persist_first
    assert len(handler.version) == 16


def test_fused_handlers_keep_their_kind_and_size(app: App) -> None:
    @app.transaction(on=orders)
    def book(tx: SyncTransaction, order: Order) -> None: ...

    @app.batch(on=Topic("clicks", Order), size=70)
    async def load(tx: Transaction, clicks: Sequence[Record[Order]]) -> None: ...

    booked, loaded = (app.workflows[name].handler() for name in ("book", "load"))

    assert (booked.kind, booked.is_async) == (HandlerKind.TRANSACTION, False)
    assert (loaded.kind, loaded.batch_max) == (HandlerKind.BATCH, 70)
    assert isinstance(loaded.format.decode(raw()), Record)
    assert not callable(book), "records start it, nobody else"


def test_a_handler_that_asks_for_the_record_gets_it_with_allowed_headers_only(app: App) -> None:
    traced = Topic("orders", Order, headers=("trace", "tenant"))

    @app.workflow(on=traced)
    def fulfil(order: Record[Order]) -> None: ...

    headers = (("trace", b"1"), ("authorization", b"secret"), ("trace", b"2"))
    record = app.workflows["fulfil"].handler().format.decode(raw(headers=headers))

    assert record.event == Order(order_id="o-1")
    assert (str(record), record.key, record.headers) == ("orders-3-1187", b"k", (("trace", b"1"), ("trace", b"2")))
    assert (record.header("trace"), record.header("authorization")) == (b"2", None)
    assert record.timestamp.isoformat() == "1970-01-01T00:00:01.500000+00:00"


def test_annotations_may_be_text(app: App) -> None:
    @app.workflow(on=orders)
    def fulfil(order: "Record[Order]") -> "list[int]":
        return []

    assert app.workflows["fulfil"].wants_record


@pytest.mark.parametrize(
    "topic, key",
    [
        (Topic("t", Order), b"k"),
        (Topic("t", Order, order_by=lambda order: order.order_id), b"o-1"),
        (Topic("t", Order, order_by=lambda order: 7), b"7"),
        (Topic("t", Order, order_by=lambda order: None), None),
        (Topic("t", Order, ordering=Ordering.NONE), None),
    ],
)
def test_a_record_is_ordered_by_its_key_or_by_what_the_topic_says(
    app: App, topic: Topic[Order], key: bytes | None
) -> None:
    app.workflow(on=topic)(_handles)
    handler = app.workflows["_handles"].handler()

    assert handler.ordering_key(raw(), handler.format.decode(raw())) == key
    assert handler.orders_by_argument == (topic.order_by is not None)


def test_an_order_by_that_raises_makes_the_record_undecodable(app: App) -> None:
    app.workflow(on=Topic("t", Order, order_by=lambda order: order.order_id[9]))(_handles)

    with pytest.raises(UndecodableError, match="orders-3-1187: order_by of its topic raised IndexError"):
        app.workflows["_handles"].handler().ordering_key(raw(), Order(order_id="o-1"))


def test_tombstones_and_filtered_records_are_decided_before_decoding() -> None:
    """I1: passed over by decision, counted, never dropped."""
    topic = Topic("orders", Order, where=lambda record: record.key == b"k")
    delivering = Topic("orders", Order, tombstone="deliver")

    assert topic.decide(raw(None)) is Decision.TOMBSTONE
    assert topic.decide(raw(key=b"other")) is Decision.FILTERED
    assert topic.decide(raw()) is None
    assert delivering.decide(raw(None)) is None


def test_a_delivered_tombstone_is_no_event_and_keeps_its_records_order(app: App) -> None:
    topic = Topic("orders", Order, tombstone="deliver", order_by=lambda order: order.order_id)

    @app.workflow(on=topic)
    def fulfil(order: Order | None) -> None: ...

    handler = app.workflows["fulfil"].handler()

    assert handler.format.decode(raw(None)) is None
    assert handler.ordering_key(raw(None), None) == b"k"


def test_a_codec_of_the_users_own_reads_payload_and_headers(app: App) -> None:
    class Versioned:
        embeds_json = False

        def decode(self, value: bytes, record: RawRecord) -> Order:
            return Order(order_id=f"{dict(record.headers)['schema']!r} {value!r}")

        def encode(self, event: Order) -> bytes:
            return event.order_id.encode()

    app.workflow(on=Topic("orders", Order, format=Versioned()))(_handles)
    handler = app.workflows["_handles"].handler()

    assert handler.format.decode(raw(b"\x01", headers=(("schema", b"7"),))) == Order(order_id="b'7' b'\\x01'")
    assert not handler.format.embeds_json


def test_a_pattern_covers_the_topics_whose_whole_name_matches() -> None:
    pattern = Topic(r"^orders\..*", Order)

    assert pattern.is_pattern
    assert pattern.covers("orders.placed")
    assert not pattern.covers("old.orders.placed")


def test_an_event_is_written_under_the_topics_key() -> None:
    topic = Topic("orders", Order, key=lambda order: order.order_id)

    assert topic.encode(Order(order_id="o-1")) == (b"o-1", b'{"order_id":"o-1"}')


# -- outside of a workflow --


async def test_outside_of_a_workflow_a_step_is_a_plain_call(app: App) -> None:
    @app.step()
    async def double(n: int) -> int:
        return n * 2

    @app.step()
    def triple(n: int) -> int:
        return n * 3

    @app.workflow()
    async def both(n: int) -> int:
        return await double(n) + await app.run_step(triple, n)

    assert await double(2) == 4
    assert triple(2) == 6
    assert await both.fn(2) == 10
    with pytest.raises(ConfigurationError, match="does not run in this process"):
        await both(2)
    assert await app.run_step(lambda: double(5), name="ten") == 10
    assert await app.run_step(asyncio.sleep, 0, "slept") == "slept"


async def test_a_transaction_outside_of_a_workflow_says_what_to_do(app: App) -> None:
    @app.transaction()
    async def record(tx: Transaction, order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=r"record.fn\(tx, ...\)"):
        await record(Order(order_id="o-1"))
    with pytest.raises(Exception, match="outside"):
        await app.run_step(record, Order(order_id="o-1"))


async def test_an_inline_step_without_a_name_is_refused(app: App) -> None:
    with pytest.raises(ConfigurationError, match="say name="):
        await app.run_step(lambda: 1)


def test_asking_what_runs_where_nothing_runs_is_an_error() -> None:
    with pytest.raises(ConfigurationError):
        current_workflow()
    with pytest.raises(ConfigurationError):
        current_step()


def test_a_decorated_function_keeps_its_name_and_docstring(app: App) -> None:
    @app.step(name="other")
    def charge() -> None:
        """Charge the card."""

    assert (charge.__doc__, vars(charge)["__name__"], charge.name) == ("Charge the card.", "charge", "other")


def _handles(order: Order) -> None: ...
