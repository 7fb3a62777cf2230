"""What becomes of a payload, and of a result, in both directions."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr, field_validator

from engine.handlers import UndecodableError
from processor.codec import Json, Raw, Text, UnencodableTypeError, codec_for, result_codec
from processor.records import RawRecord


class Order(BaseModel):
    order_id: str
    amount_cents: int = 0

    @field_validator("order_id")
    @classmethod
    def _no_bombs(cls, value: str) -> str:
        if value == "bomb":
            raise KeyError("the validator broke")
        return value


@dataclass
class Point:
    x: int
    y: float


def record(value: bytes | None) -> RawRecord:
    return RawRecord("orders", 3, 1187, b"k", value)


def decode(value: bytes) -> Order:
    return Json(Order).decode(value, record(value))


def test_json_is_validated_into_the_model() -> None:
    assert decode(b'{"order_id": "o-1", "amount_cents": 4200}') == Order(order_id="o-1", amount_cents=4200)


def test_an_escaped_nul_is_an_ordinary_character() -> None:
    """What is stored holds the escape, so Postgres text never meets the character itself."""
    assert decode(b'{"order_id": "a\\u0000b"}').order_id == "a\x00b"


def test_a_wrong_field_is_named_with_its_record_and_without_its_value() -> None:
    with pytest.raises(UndecodableError) as caught:
        decode(b'{"order_id": "o-1", "amount_cents": "4111-1111-1111-1111"}')

    message = str(caught.value)
    assert message.startswith("orders-3-1187: not Order: amount_cents: ")
    assert "4111" not in message
    assert caught.value.__context__ is None, "pydantic's error holds the payload, and tracebacks show contexts"


def test_many_wrong_fields_are_counted_not_listed() -> None:
    codec = Json(list[int])
    payload = b"[" + b",".join([b'"x"'] * 1_000) + b"]"

    with pytest.raises(UndecodableError, match="and 995 more"):
        codec.decode(payload, record(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b'{"order_id": "o-1"} trailing',
        b'{"order_id": "\xff"}',
        b'{"order_id": "\\ud800"}',
        b'{"order_id": "a\x00b"}',
        b'\xef\xbb\xbf{"order_id": "o-1"}',
        b"[" * 100_000,
        b'{"order_id": "o-1", "other": NaN}',
        b'{"order_id": "o-1", "other": [-Infinity]}',
    ],
)
def test_what_is_no_json_is_undecodable(payload: bytes) -> None:
    """Also what many parsers let pass: the text is stored as it stands, and every language has to read it."""
    with pytest.raises(UndecodableError, match="^orders-3-1187: "):
        decode(payload)


def test_words_that_look_like_numbers_are_fine_inside_of_text() -> None:
    assert decode(b'{"order_id": "NaN and Infinity"}').order_id == "NaN and Infinity"


class Measured(BaseModel):
    value: float = 0
    name: str = ""


class Open(BaseModel, extra="allow"):
    name: str = ""


class Nested(BaseModel):
    parts: dict[str, list[Measured | None]] = {}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1.5E+400", "1" + "0" * 400, "-" + "9" * 400 + ".5"])
@pytest.mark.parametrize(
    "model, payload",
    [
        (Measured, '{"value": %s}'),
        (Measured, '{"ignored": %s}'),
        (Open, '{"other": [%s]}'),
        (Nested, '{"parts": {"a": [null, {"value": %s}]}}'),
        (dict[str, Any], '{"a": %s}'),
    ],
)
def test_a_number_that_would_become_infinity_is_undecodable_as_nan_is(model: Any, payload: str, number: str) -> None:
    for refused in (number, "NaN"):
        with pytest.raises(UndecodableError, match="^orders-3-1187: not (JSON|.*: Input should be a valid number)"):
            codec_for(model).decode((payload % refused).encode(), record(None))


@pytest.mark.parametrize("number", ["1e308", "1.7976931348623157e308", "0e999", "1e-999", "1" + "0" * 308 + ".0"])
def test_what_only_resembles_one_is_fine(number: str) -> None:
    name = "1e999 of " + "0" * 400

    text = f'{{"value": {number}, "name": "{name}"}}'

    assert codec_for(Measured).decode(text.encode(), record(None)) == Measured(value=float(number), name=name)


def test_a_model_without_floats_takes_numbers_of_any_size() -> None:
    class Counted(BaseModel):
        count: int
        note: str | None = None

    assert codec_for(Counted).decode(b'{"count": 1%s}' % (b"0" * 400), record(None)).count == 10**400
    assert codec_for(Counted).decode(b'{"count": 1, "ignored": 1e999}', record(None)).count == 1


def test_a_validator_that_raises_anything_makes_the_record_undecodable() -> None:
    with pytest.raises(UndecodableError, match=r"a validator of Order raised KeyError: 'the validator broke'"):
        decode(b'{"order_id": "bomb"}')


def test_bytes_are_taken_as_they_are_and_text_as_utf8() -> None:
    raw, text = codec_for(bytes), codec_for(str)

    assert isinstance(raw, Raw)
    assert isinstance(text, Text)
    assert raw.decode(b"\xff\x00", record(b"")) == b"\xff\x00"
    assert text.decode("zażółć".encode(), record(b"")) == "zażółć"
    with pytest.raises(UndecodableError, match="orders-3-1187: not UTF-8 text: byte 2"):
        text.decode(b"ok\xff", record(b""))


def test_an_event_is_written_so_that_its_codec_reads_it() -> None:
    event = Order(order_id="o-1", amount_cents=1)

    assert decode(Json(Order).encode(event)) == event


def test_a_model_without_a_json_schema_is_refused() -> None:
    class Socket:
        pass

    with pytest.raises(
        UnencodableTypeError, match="Socket cannot be written as JSON: it is a class that pydantic knows"
    ):
        codec_for(Socket)
    with pytest.raises(UnencodableTypeError, match=r"Socket\] cannot be written as JSON: nor can its Socket$"):
        codec_for(list[Socket])


@pytest.mark.parametrize(
    "annotation, value",
    [
        (None, None),
        (int, 7),
        (int, True),
        (str, "zażółć \x00"),
        (bytes, b"\xff\x00"),
        (float, math.inf),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
        (dict[str, bytes], {"k": b"\xfe"}),
        (Point, Point(1, 0.5)),
        (list[Order] | None, [Order(order_id="o")]),
    ],
)
def test_a_result_comes_back_equal(annotation: Any, value: Any) -> None:
    """I4: what a replay gives the workflow is what the first run gave it."""
    result = result_codec(annotation)

    assert result.decode(result.encode(value)) == value


@pytest.mark.parametrize(
    "annotation, value",
    [
        (int, "seven"),
        (int, 1.5),
        (str, 1),
        (str, None),
        (bool, 1),
        (bytes, "x"),
        (None, 7),
        (str, "\ud800"),
        (Order, Point(1, 1.0)),
        (Order, None),
        (list[int], (1, 2)),
    ],
)
def test_a_result_of_another_type_than_announced_is_refused(annotation: Any, value: Any) -> None:
    """A replay would give the workflow something else, or nothing that can be read."""
    with pytest.raises((TypeError, ValueError)):
        result_codec(annotation).encode(value)


@pytest.mark.parametrize("annotation", [object(), type("Socket", (), {})])
def test_a_result_type_that_cannot_be_written_is_refused(annotation: Any) -> None:
    with pytest.raises(UnencodableTypeError):
        result_codec(annotation)


class Refund(Order):
    reason: str = ""


class Secret(BaseModel):
    token: SecretStr


class Aliased(BaseModel):
    order_id: str = Field(validation_alias="orderId", serialization_alias="ORDER")


ALIASED = Aliased.model_validate({"orderId": "o"})


@pytest.mark.parametrize(
    "annotation, value, given",
    [
        (Any, (1, 2), [1, 2]),
        (Any, Order(order_id="o"), {"order_id": "o", "amount_cents": 0}),
        (list[Any], [(1,), datetime(2026, 1, 1, tzinfo=UTC)], [[1], "2026-01-01T00:00:00Z"]),
        (dict[Any, int], {1: 2}, {"1": 2}),
        (int, True, 1),
        (Order, Refund(order_id="o", reason="r"), Order(order_id="o")),
        (list[Order], [Refund(order_id="o", reason="r")], [Order(order_id="o")]),
        (Secret, Secret(token=SecretStr("t")), Secret(token=SecretStr("*" * 10))),
        (Aliased, ALIASED, ALIASED),
    ],
)
def test_a_result_is_handed_over_as_every_replay_has_it(annotation: Any, value: Any, given: Any) -> None:
    """I4: what JSON cannot keep is lost at once, where its author sees it, and not only after a crash."""
    result = result_codec(annotation)

    text, live = result.record(value)

    assert (type(live), live) == (type(given), given)
    assert result.decode(text) == live


@pytest.mark.parametrize(
    "annotation, value, problem",
    [
        pytest.param(
            int,
            10**5_000,
            "step 'x': the result is no int that can be recorded: int could not be read back",
            id="a number too long",
        ),
        (
            Measured,
            Measured(value=math.inf),
            r"Measured could not be read back: .*value: Input should be a valid number",
        ),
        (list[Order], [Order.model_construct(order_id="bomb")], "a validator of .* raised KeyError"),
    ],
)
def test_a_result_that_no_replay_could_read_is_refused_by_its_path(annotation: Any, value: Any, problem: str) -> None:
    """Recorded, it would fail its workflow only after a rest or a crash."""
    with pytest.raises(TypeError, match=problem):
        result_codec(annotation, "step 'x': the result").record(value)


def test_fields_are_recorded_by_their_names_and_read_by_aliases_from_others() -> None:
    """A model that validates by one alias and serializes by another comes back; a client writes the alias."""
    result = result_codec(Aliased)

    assert result.encode(ALIASED) == '{"order_id":"o"}'
    assert result.read('{"orderId": "o"}') == result.decode('{"orderId": "o"}') == ALIASED
