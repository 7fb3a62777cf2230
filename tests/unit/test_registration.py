"""What an app refuses before anything runs, and what it makes of the rest."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from engine.handlers import Decision, HandlerKind, UndecodableError
from processor import (
    App,
    BlockKey,
    ConfigurationError,
    Cron,
    DeadLetter,
    HaltPartition,
    Ordering,
    RawRecord,
    Record,
    Retry,
    SyncTransaction,
    Tick,
    Topic,
    Transaction,
    current_step,
    current_workflow,
)


class Order(BaseModel):
    order_id: str


class Other(BaseModel):
    x: int


orders = Topic("orders", Order)


def untyped(decorator: Any) -> Any:
    """Hide from pyright the mistake under test; tests/typing shows that it finds it."""
    return decorator


@pytest.fixture
def app() -> App:
    return App("shop")


def raw(value: bytes | None = b'{"order_id": "o-1"}', *, key: bytes | None = b"k", headers: Any = ()) -> RawRecord:
    return RawRecord("orders", 3, 1187, key, value, timestamp_ms=1_500, headers=headers)


# -- what is refused --


def test_a_second_handler_for_a_topic_and_group_is_refused(app: App) -> None:
    """One handler per topic and group: each would see half of the records (case 35)."""

    @app.workflow(on=orders)
    async def first(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=r"(?s)'orders' has two handlers.*'first' and 'second'.*group="):

        @app.workflow(on=Topic("orders", Order))
        async def second(order: Order) -> None: ...

    @app.workflow(on=orders, group="audit")
    async def third(order: Order) -> None: ...

    assert list(app.workflows) == ["first", "third"]


def test_a_handler_of_another_model_than_its_topics_is_refused(app: App) -> None:
    with pytest.raises(
        ConfigurationError, match=r"workflow .*wrong: its argument order is Other, Topic\('orders', Order\) has Order"
    ):

        @untyped(app.workflow(on=orders))
        async def wrong(order: Other) -> None: ...


def test_a_handler_of_a_wider_type_than_its_topics_is_taken(app: App) -> None:
    @app.workflow(on=orders)
    async def wide(order: BaseModel) -> None: ...

    assert not app.workflows["wide"].wants_record


def test_a_handler_that_forgets_tombstones_is_refused(app: App) -> None:
    deletions = Topic("orders", Order, tombstone="deliver")

    with pytest.raises(ConfigurationError, match="has Order or None"):

        @untyped(app.workflow(on=deletions))
        async def forgets(order: Order) -> None: ...

    @app.workflow(on=deletions)
    async def remembers(order: Order | None) -> None: ...


def test_a_handler_of_a_schedule_takes_a_tick(app: App) -> None:
    nightly = Cron("0 3 * * *")

    with pytest.raises(ConfigurationError, match=r"its argument order is Order, Cron\('0 3.* has `Tick`"):

        @untyped(app.workflow(on=nightly))
        async def wrong(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="its argument tick is not annotated"):

        @app.workflow(on=nightly)
        async def silent(tick) -> None: ...  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]  # the mistake

    for mistake in (lambda: None, lambda a, b: None, lambda *, tick: None):  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]  # the mistakes
        mistake.__name__, mistake.__annotations__ = "mistake", {"return": None}
        with pytest.raises(ConfigurationError, match="takes one argument, `tick: Tick`"):
            untyped(app.workflow(on=nightly))(mistake)

    @app.workflow(on=nightly)
    def right(tick: Tick, note: str = "") -> None: ...

    handler = app.workflows["right"].handler()
    assert (list(app.workflows), handler.cron, handler.arguments is not None) == (["right"], nightly, True)


@pytest.mark.parametrize(
    "option", [{"on_failure": BlockKey()}, {"breaker": None}, {"persist_first": True}, {"group": "g"}]
)
def test_what_is_about_records_is_refused_for_a_schedule(app: App, option: dict[str, Any]) -> None:
    async def close(tick: Tick) -> None: ...

    with pytest.raises(ConfigurationError, match=f"{next(iter(option))}= is about the records of a topic"):
        untyped(app.workflow)(on=Cron("0 3 * * *"), **option)(close)


def test_a_schedule_starts_no_transaction_and_no_batch(app: App) -> None:
    for decorator in (app.transaction, app.batch):
        with pytest.raises(ConfigurationError, match=r"on=Cron\(.*; it takes a Topic"):

            @untyped(decorator)(on=Cron("0 3 * * *"))
            async def fused(tx: Transaction, tick: Tick) -> None: ...


def test_a_name_of_which_no_id_can_be_made_is_refused_for_a_schedule(app: App) -> None:
    async def close(tick: Tick) -> None: ...

    with pytest.raises(ConfigurationError, match="no control characters"):
        app.workflow(on=Cron("0 3 * * *"), name="close\nday")(close)


@pytest.mark.parametrize("kind", ["step", "transaction", "workflow"])
def test_a_result_that_cannot_be_written_is_refused_with_function_and_type(app: App, kind: str) -> None:
    decorators: dict[str, Callable[[], Any]] = {
        "step": app.step,
        "transaction": app.transaction,
        "workflow": lambda: app.workflow(on=orders),
    }

    async def opens(tx: Any) -> socket.socket:
        raise AssertionError

    with pytest.raises(ConfigurationError, match=rf"{kind} .*opens: its result cannot be recorded: socket cannot"):
        decorators[kind]()(opens)


def test_a_result_without_annotation_is_refused(app: App) -> None:
    """A replay could not read it back as what it was."""
    with pytest.raises(ConfigurationError, match="say what it returns"):

        @app.step()
        def silent(): ...


def test_an_argument_that_cannot_be_stored_is_refused(app: App) -> None:
    with pytest.raises(ConfigurationError, match="argument connection cannot be recorded: socket cannot"):

        @app.workflow()
        def plain(connection: socket.socket) -> None: ...


def test_an_annotation_that_exists_only_for_type_checkers_is_refused_by_name(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)annotation of 'return' is read at import.*TYPE_CHECKING"):

        def later() -> None: ...

        later.__annotations__["return"] = "Nowhere"
        app.step()(later)


def test_a_transaction_takes_the_transaction_of_its_colour(app: App) -> None:
    with pytest.raises(
        ConfigurationError, match=r"takes `tx: SyncTransaction`\.\s+from processor import SyncTransaction"
    ):

        @app.transaction()
        def wrong(tx: Transaction) -> None: ...

    with pytest.raises(
        ConfigurationError, match=r"its first argument is the transaction, `tx: \w+`\.\s+from processor import "
    ):

        @untyped(app.transaction())
        async def none() -> None: ...


def test_a_batch_handler_takes_a_sequence(app: App) -> None:
    with pytest.raises(ConfigurationError, match=r"a batch handler takes a sequence"):

        @untyped(app.batch(on=orders))
        async def load(tx: Transaction, order: Order) -> None: ...


@pytest.mark.parametrize("fn", [untyped(lambda order: None), print, Order])  # pyright: ignore[reportUnknownLambdaType]  # no name, no types
def test_what_has_no_name_or_is_no_function_is_refused(app: App, fn: Any) -> None:
    with pytest.raises(ConfigurationError):
        app.workflow(on=orders)(fn)


def test_a_method_that_handles_records_is_refused(app: App) -> None:
    """After a crash nobody knows which object's method a record was for."""
    decorate: Any = app.transaction(on=orders)
    with pytest.raises(ConfigurationError, match="a method"):

        class Shop:  # pyright: ignore[reportUnusedClass]
            @decorate
            def charge(self, tx: SyncTransaction, order: Order) -> None: ...


def test_two_steps_of_one_name_are_refused(app: App) -> None:
    @app.step(name="charge")
    def one() -> None: ...

    with pytest.raises(ConfigurationError, match="'charge' is registered twice"):

        @app.transaction(name="charge")
        async def two(tx: Transaction) -> None: ...


@pytest.mark.parametrize("name", ["", "a b", "x" * 250, "^(", ".", "a/b"])
def test_a_name_kafka_has_not_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="topic "):
        Topic(name, Order)


def test_dead_letters_that_would_come_back_to_their_handler_are_refused(app: App) -> None:
    """One that fails again would go round for ever."""

    async def fulfil(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="its dead letters go to 'orders', which it consumes"):
        app.workflow(on=orders, on_failure=DeadLetter(topic="orders"))(fulfil)
    with pytest.raises(ConfigurationError, match=r"its dead letters go to 'orders\.dead', which it consumes"):
        app.workflow(on=Topic(r"^orders\..*", Order), on_failure=DeadLetter(topic="orders.dead"))(fulfil)
    app.workflow(on=orders, on_failure=DeadLetter(topic="orders.dead"))(fulfil)


def test_options_of_a_topic_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="order_by"):
        Topic("orders", Order, ordering=Ordering.NONE, order_by=lambda order: order.order_id)
    with pytest.raises(ConfigurationError, match=r"\('trace',\)"):
        Topic("orders", Order, headers="trace")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"on_failure": BlockKey}, r"on_failure=BlockKey, the class; it takes DeadLetter\(\), BlockKey\(\)"),
        ({"on_failure": "dead"}, "on_failure='dead'"),
        ({"retry": 3}, "retry=3; it takes Retry"),
        ({"breaker": True}, "breaker=True"),
        ({"group": ""}, "group=''"),
        ({"renamed_from": 3}, "renamed_from=3"),
        ({"on": "orders"}, "on='orders'; it takes a Topic"),
    ],
)
def test_an_option_of_another_type_is_refused(app: App, options: dict[str, Any], message: str) -> None:
    """Unrefused, `on_failure=BlockKey` would let a key go on that was to be blocked."""
    given: dict[str, Any] = {"on": orders, **options}

    async def fulfil(order: Order) -> None: ...

    async def book(tx: Transaction, order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=f"workflow .*fulfil: {message}"):
        app.workflow(**given)(fulfil)
    with pytest.raises(ConfigurationError, match=f"transaction .*book: {message}"):
        app.transaction(**given)(book)
    assert not app.workflows


def test_a_step_that_could_not_run_as_told_is_refused(app: App) -> None:
    def charge(order: Order) -> None: ...

    async def book(tx: Transaction, order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="timeout=5; it takes a timedelta"):
        app.step(timeout=untyped(5))(charge)
    with pytest.raises(ConfigurationError, match="timeout=0:00:00"):
        app.step(timeout=timedelta(0))(charge)
    with pytest.raises(ConfigurationError, match="isolation='snapshot'"):
        app.transaction(isolation=untyped("snapshot"))(book)
    with pytest.raises(ConfigurationError, match="size='5'"):
        app.batch(on=orders, size=untyped("5"))
    with pytest.raises(ValueError, match=r"a tuple of exception types, as \(TimeoutError,\)"):
        Retry(on=untyped(TimeoutError))
    assert not app.steps


@pytest.mark.parametrize(
    "options", [{"ordering": "key"}, {"where": 3}, {"key": "order_id"}, {"order_by": "order_id"}], ids=str
)
def test_an_option_of_a_topic_of_another_type_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"topic 'orders': {next(iter(options))}="):
        Topic("orders", Order, **options)


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
