"""What DBOS's SDK for TypeScript writes, read as JSON (superjson 1.13 of dbos-sdk 4.7; tests/interop has the SDK itself)."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from engine.handlers import UndecodableError
from processor.arguments import CallArguments
from processor.dbos_values import loads, plain_text
from processor.values import decoder


def written(value: Any, values: Any = None, **meta: Any) -> str:
    found = {**meta, **({} if values is None else {"values": values})}
    return json.dumps({"json": value, **({"meta": found} if found else {}), "__dbos_serializer": "superjson"})


@pytest.mark.parametrize(
    "text, value",
    [
        (written({"a": [1, None]}), {"a": [1, None]}),
        (written("2026-01-01T00:00:00.000Z", ["Date"]), "2026-01-01T00:00:00.000Z"),
        (written(["a", "b"], ["set"]), ["a", "b"]),
        (written([["k", 1]], ["map"]), {"k": 1}),
        (written([[1, ["x"]]], ["map", {"0.1": ["set"]}]), {"1": ["x"]}),
        (written({"m": [["k", "9007199254740993"]]}, {"m": ["map", {"0.1": ["bigint"]}]}), {"m": {"k": 2**53 + 1}}),
        (written({"a": None, "b": [None]}, {"a": ["undefined"], "b.0": ["undefined"]}), {"b": [None]}),
        (written({"a.b": {"c": None}}, {"a\\.b.c": ["undefined"]}), {"a.b": {}}),
        (written({"a\\.b": "1"}, {"a\\\\\\.b": ["bigint"]}, v=1), {"a\\.b": 1}),
        (written("NaN", ["number"]), "NaN"),
        (written([0, 255], [["custom", "Buffer"]]), "AP8="),
        (written([1, 2], [["typed-array", "Int32Array"]]), [1, 2]),
        (written({"name": "E", "message": "m"}, ["Error"]), {"name": "E", "message": "m"}),
        (written({"a": {"n": 1}, "b": {"n": 1}}, referentialEqualities={"a": ["b"]}), {"a": {"n": 1}, "b": {"n": 1}}),
        ('[{"a": 1}]', [{"a": 1}]),
        ('{"json": 1, "__dbos_serializer": "other"}', {"json": 1, "__dbos_serializer": "other"}),
        ('{"text": "\\"__dbos_serializer\\""}', {"text": '"__dbos_serializer"'}),
    ],
)
def test_values_are_read_by_their_meta(text: str, value: Any) -> None:
    assert loads(text) == value
    assert json.loads(plain_text(text)) == value


def test_a_negative_zero_stays_one() -> None:
    assert str(loads(written("-0", ["number"]))) == "-0.0"


@pytest.mark.parametrize(
    "text, problem",
    [
        (written({"a": None}, {"a": [["symbol", "s"]]}), r"a is a \['symbol', 's'\], which JSON has nothing for"),
        (written([[{"x": 1}, 1]], ["map"]), "the value is a Map whose keys are objects"),
        (written({"m": [[1, "a"], ["1", "b"]]}, {"m": ["map"]}), "m is a Map with two keys that are both '1'"),
        (written({"a": {"b": None}}, referentialEqualities={"a": ["a.b"]}), "a has itself inside of it"),
        (written({"b": None}, referentialEqualities=[["b"]]), "it has itself inside of it"),
        (written({"a": 1}, {"b.c": ["Date"]}), "its meta names b, which is not there"),
        ("gASVBQAAAAAAAABLAS4=", "it is pickled, and no pickle is read here"),
        ("{", "it is no JSON"),
    ],
)
def test_what_json_has_nothing_for_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        loads(text)


class Order(BaseModel):
    at: datetime
    tags: set[str]
    prices: dict[int, float] = {}
    note: str | None = None


def test_models_read_what_the_sdk_wrote() -> None:
    text = written(
        [{"at": "2026-01-01T00:00:00.000Z", "tags": ["a"], "prices": [[1, "Infinity"]], "note": None}],
        {"0.at": ["Date"], "0.tags": ["set"], "0.prices": ["map", {"0.1": ["number"]}], "0.note": ["undefined"]},
    )
    order = Order(at=datetime(2026, 1, 1, tzinfo=UTC), tags={"a"}, prices={1: float("inf")})

    def pay(order: Order, day: date | None, times: int = 3) -> None: ...

    arguments = CallArguments("pay", pay, {"order": Order, "day": date | None, "times": int}.__getitem__)
    inputs = json.loads(text)
    inputs["json"] += [None, None]
    inputs["meta"]["values"]["2"] = ["undefined"]
    assert arguments.decode(json.dumps(inputs)) == ([order, None], {})

    inside = {path[2:]: kind for path, kind in inputs["meta"]["values"].items() if path[:2] == "0."}
    assert decoder(Order, "message")(written(inputs["json"][0], inside)) == order


def test_a_message_that_is_no_json_is_refused_with_its_name() -> None:
    """As a `recv` gets it: an error that names the topic, not one of a parser."""
    for model in (Any, Order):
        with pytest.raises(UndecodableError, match="message of topic 't': .*it is pickled"):
            decoder(model, "message of topic 't'")("gASVBQAAAAAAAABLAS4=")
