"""Events at the call of `publish`: encoded, checked, kept, forgotten behind a savepoint (I9, I10)."""

from typing import Any

import pytest
from pydantic import BaseModel

from engine.outgoing import (
    PUBLISHED_BYTES_MAX,
    PUBLISHED_MAX,
    Outgoing,
    Publications,
    PublishError,
    headers_column,
    is_topic_name,
    outgoing,
)
from processor import Topic


class Order(BaseModel):
    n: int


orders = Topic("orders", Order, key=lambda order: order.n)


def event(name: str = "a", value: bytes | None = b"") -> Outgoing:
    return Outgoing("t", None, value, ((name, None),))


def test_the_topic_says_key_and_value() -> None:
    assert outgoing(orders, Order(n=7), headers={"a": "ü", "b": b"\x00", "c": None}) == Outgoing(
        "orders", b"7", b'{"n":7}', (("a", b"\xc3\xbc"), ("b", b"\x00"), ("c", None))
    )
    assert outgoing(orders, Order(n=7), key="other").key == b"other"
    assert outgoing(orders, Order(n=7), headers=[("a", "1"), ("a", "2")]).headers == (("a", b"1"), ("a", b"2"))


def _fails(_: Order) -> str:
    raise ZeroDivisionError


def _no_key(_: Order) -> float:
    return 1.5


wrongly: Any = outgoing
topic: Any = Topic
"""As who has no type checker calls them."""


@pytest.mark.parametrize(
    "given, refused",
    [
        (lambda: wrongly(Topic("^o.*", Order), Order(n=1)), "a pattern stands for many topics"),
        (lambda: wrongly(orders, {"n": 1}), "the dict cannot be encoded"),
        (lambda: wrongly(orders, Order.model_construct(n="x")), "the Order cannot be encoded"),
        (lambda: wrongly(topic("o", Order, key=_fails), Order(n=1)), "ZeroDivisionError"),
        (lambda: wrongly(topic("o", Order, key=_no_key), Order(n=1)), "a key is str, bytes, int or None"),
        (lambda: wrongly(orders, None), "a tombstone says which key it deletes"),
        (lambda: wrongly(Topic("o", bytes), b"x" * 11, bytes_max=10), "11 bytes with key and headers"),
        (
            lambda: wrongly(orders, Order(n=1), headers={"h" * 100: None}, bytes_max=100),
            "outbox.event_bytes_max is 100",
        ),
        (lambda: wrongly(orders, Order(n=1), headers={"a\0b": ""}), "is no name of a header"),
        (lambda: wrongly(orders, Order(n=1), headers={"a": 1}), "header 'a' is int"),
        (lambda: wrongly(orders, Order(n=1), headers=[(1, "a")]), "1 is no name of a header"),
    ],
)
def test_what_could_not_be_published_is_refused_with_its_topic_and_why(given: Any, refused: str) -> None:
    with pytest.raises(PublishError, match=r"^topic '") as raised:
        given()

    assert refused in str(raised.value)


def test_a_codec_that_returns_no_bytes_is_found_out() -> None:
    class Wrong:
        embeds_json = False

        def decode(self, value: bytes, record: Any) -> str:
            return value.decode()

        def encode(self, event: str) -> Any:
            return event

    with pytest.raises(PublishError, match="its value was encoded as str, which is not bytes"):
        outgoing(Topic("o", str, format=Wrong()), "text")


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "x" * 249])
def test_names_kafka_takes(name: str) -> None:
    assert is_topic_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "x" * 250, "a\n"])
def test_names_kafka_has_not(name: str) -> None:
    assert not is_topic_name(name)


def test_a_transaction_publishes_no_more_than_memory_can_hold() -> None:
    """I10."""
    many = Publications()
    for _ in range(PUBLISHED_MAX):
        many.add(event())
    with pytest.raises(PublishError, match=f"has published {PUBLISHED_MAX} events"):
        many.add(event())

    large = Publications()
    half = event(value=b"x" * (PUBLISHED_BYTES_MAX // 2))
    large.add(half)
    with pytest.raises(PublishError, match="has published 1 events"):
        large.add(event(value=b"x" * (PUBLISHED_BYTES_MAX // 2 + 1)))


def test_a_savepoint_takes_back_what_follows_and_its_bytes() -> None:
    events = Publications()
    events.add(event("1"))
    events.savepoint("a")
    events.add(event("2"))
    events.savepoint("a")
    events.add(event("3"))

    events.roll_back_to("a")
    assert [e.headers[0][0] for e in events.events] == ["1", "2"]
    events.roll_back_to("a")
    assert [e.headers[0][0] for e in events.events] == ["1", "2"], "the newer one of this name stays"
    events.roll_back_to("unknown")
    assert len(events.events) == 2


def test_headers_are_stored_as_any_bytes() -> None:
    assert headers_column(()) is None
    assert headers_column((("a", b"\xff"), ("b", None), ("ü", b""))) == '[["a", "/w=="], ["b", null], ["\\u00fc", ""]]'
