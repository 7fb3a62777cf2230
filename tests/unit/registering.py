"""What tests of registration share: two models, a topic, and a record of it."""

from typing import Any

from pydantic import BaseModel

from processor import (
    RawRecord,
    Topic,
)


class Order(BaseModel):
    order_id: str


class Other(BaseModel):
    x: int


orders = Topic("orders", Order)


def untyped(decorator: Any) -> Any:
    """Hide from pyright the mistake under test; tests/typing shows that it finds it."""
    return decorator


def raw(value: bytes | None = b'{"order_id": "o-1"}', *, key: bytes | None = b"k", headers: Any = ()) -> RawRecord:
    return RawRecord("orders", 3, 1187, key, value, timestamp_ms=1_500, headers=headers)
