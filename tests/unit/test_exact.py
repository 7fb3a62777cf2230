"""Values that come back from JSON exactly, told without reading them back (decision 0033)."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, TypeAdapter

from processor.codec import result_codec
from processor.exact import proof_of


class Line(BaseModel):
    sku: str
    count: int | None = None


class Order(BaseModel, frozen=True):
    order_id: str = Field(alias="orderId")
    lines: list[Line]
    counts: dict[str, int] = {}
    is_paid: bool = False
    weight: float = 0.0


class Gift(Line):
    note: str


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Text(str):
    __slots__ = ()


class Names(list[str]):
    pass


@dataclass
class Point:
    x: int


def is_proven(annotation: Any, value: Any) -> bool:
    proof = proof_of(TypeAdapter(annotation))
    return proof is not None and proof(value)


@pytest.mark.parametrize(
    "annotation, value",
    [
        (int, 7),
        (bool, True),
        (str, "zażółć"),
        (int | str | None, None),
        (float, -0.0),
        (list[float | None], [1.5, None]),
        (list[int], [1, 2]),
        (list[list[bool]], [[True], []]),
        (dict[str, int], {"a": 1}),
        (dict[str, list[str]], {"a": ["b"]}),
        (list[int] | None, None),
        (list[int] | None, [1]),
    ],
)
def test_plain_types_are_proven(annotation: Any, value: Any) -> None:
    assert is_proven(annotation, value)
    text, given = result_codec(annotation).record(value)
    assert given is value
    assert result_codec(annotation).decode(text) == value


@pytest.mark.parametrize(
    "annotation, value",
    [
        (int, True),
        (int, Size.LARGE),
        (str, Colour.RED),
        (str, Text("a")),
        (float, math.inf),
        (float, 1),
        (Any, 1),
        (object, "a"),
        (list[Any], [1]),
        (list[int], [1, True]),
        (list[str], Names(["a"])),
        (dict[str, Any], {"a": (1,)}),
        (dict[int, int], {1: 2}),
        (dict[str, str], {Text("a"): "b"}),
        (tuple[int, ...], (1,)),
        (Literal["a"], "a"),
        (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
        (Annotated[int, Field(ge=0)], 1),
        (SecretStr, SecretStr("a")),
        (Line, Line(sku="s", count=1)),
        (list[Line], [Gift(sku="s", count=1, note="n")]),
        (Point, Point(1)),
    ],
)
def test_what_may_come_back_otherwise_is_not(annotation: Any, value: Any) -> None:
    """A subclass, what JSON has no word for, and models: of those reading back is the proof."""
    assert not is_proven(annotation, value)


lines = st.builds(Line, sku=st.text(), count=st.none() | st.integers())
orders = st.builds(
    Order,
    orderId=st.text(),
    lines=st.lists(lines | st.builds(Gift, sku=st.text(), count=st.integers(), note=st.text()), max_size=3),
    counts=st.dictionaries(st.text(), st.integers() | st.booleans(), max_size=3),
    is_paid=st.booleans(),
    weight=st.floats(allow_nan=False),
)


def exactly(value: Any) -> Any:
    """A value with all its types, and which fields were set."""
    if isinstance(value, BaseModel):
        fields = {name: exactly(each) for name, each in vars(value).items()}
        return type(value), fields, value.__pydantic_fields_set__
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return dict, [(exactly(key), exactly(each)) for key, each in items]
    if isinstance(value, list):
        return list, [exactly(each) for each in cast("list[Any]", value)]
    return type(value), value


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(Size)
Plain = None | bool | int | float | str


@given(
    st.tuples(st.just(list[Order]), st.lists(orders, max_size=3))
    | st.tuples(st.just(list[Plain]), st.lists(plain))
    | st.tuples(st.just(dict[str, list[Plain]]), st.dictionaries(st.text(), st.lists(plain), max_size=3))
    | st.tuples(st.just(list[dict[str, int]]), st.lists(st.dictionaries(st.text(), st.integers(), max_size=2)))
)
def test_what_is_handed_over_is_what_is_read_back_to_the_last_type(case: tuple[Any, Any]) -> None:
    """I4: whether it was proven, or read back."""
    annotation, value = case
    result = result_codec(annotation)
    try:
        text, given = result.record(value)
    except TypeError:
        return  # a text of surrogates, or infinity in a model

    assert exactly(given) == exactly(result.decode(text))
