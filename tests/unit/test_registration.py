"""What an app refuses before anything runs, and what it makes of the rest."""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from processor import (
    App,
    BlockKey,
    ConfigurationError,
    Cron,
    DeadLetter,
    Ordering,
    Retry,
    SyncTransaction,
    Tick,
    Topic,
    Transaction,
)
from tests.unit.registering import Order, Other, orders, untyped


@pytest.fixture
def app() -> App:
    return App("shop")


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


def _nothing() -> int:
    return 3


def _two(event: object, other: object) -> int:
    return 3


@pytest.mark.parametrize("option", ["key", "order_by", "where"])
@pytest.mark.parametrize("function, takes", [(_nothing, r"\(\)"), (_two, r"\(event: object, other: object\)")])
def test_a_function_of_a_topic_that_cannot_take_its_argument_is_refused_with_the_topics_name(
    option: str, function: Any, takes: str
) -> None:
    """It would fail at the first record, or at the first event that is published."""
    with pytest.raises(ConfigurationError, match=f"topic 'orders': {option}= is called with one argument.*{takes}"):
        Topic("orders", Order, **{option: function})


def test_a_function_whose_signature_python_does_not_know_is_believed() -> None:
    assert Topic("orders", str, key=str).encode("a") == (b"a", b"a")


def test_a_function_that_has_more_arguments_with_defaults_is_taken() -> None:
    assert Topic("orders", str, key=lambda event, suffix="-": event + suffix).encode("a") == (b"a-", b"a")


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
