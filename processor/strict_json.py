"""What pydantic takes for JSON and is none, or becomes a value that JSON cannot hold: NaN, Infinity, 1e999. Pure.

The grammar has 1e999; whoever reads it as a float gets infinity, which could then be neither recorded nor passed on as
JSON. Such a number is refused wherever it stands in the payload of a model that could get an infinity from it, as NaN is.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NoReturn, cast

from pydantic import TypeAdapter

# As numbers that overflow a float look. Also found inside of text, which is why `_problem` has the last word.
_MAY_OVERFLOW = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{309}")

_FINITE = frozenset(
    {
        *("bool", "bytes", "date", "datetime", "enum", "int", "literal", "none", "str", "time", "timedelta", "uuid"),
        *("dict", "frozenset", "list", "set", "tuple"),
        *("default", "definition-ref", "definitions", "nullable", "tagged-union", "union"),
        *("dataclass", "dataclass-args", "dataclass-field", "model", "model-field", "model-fields"),
        *("typed-dict", "typed-dict-field"),
    }
)
"""Kinds of pydantic's schemas that yield no infinity by themselves."""

_NO_SCHEMAS = ("metadata", "serialization", "ref", "schema_ref")


def checker(adapter: TypeAdapter[Any]) -> Callable[[bytes], str | None]:
    """A function that says why a payload, which the adapter has taken, is not JSON after all; None: it is.

    It costs two searches in the payload, and one more where the model has floats or fields of any kind; more only where
    they find something.
    """
    if _is_finite(adapter.core_schema):
        return _without_numbers
    return _with_numbers


def _without_numbers(value: bytes) -> str | None:
    return _problem(value, refuse_overflow=False) if b"NaN" in value or b"Infinity" in value else None


def _with_numbers(value: bytes) -> str | None:
    if b"NaN" in value or b"Infinity" in value or _MAY_OVERFLOW.search(value) is not None:
        return _problem(value, refuse_overflow=True)
    return None


def _is_finite(schema: object) -> bool:
    """Whether nothing of a schema can be a float: all kinds are known, and no further fields are allowed."""
    if isinstance(schema, Mapping):
        parts = cast("Mapping[str, object]", schema)
        kind = parts.get("type")
        if isinstance(kind, str) and kind not in _FINITE:
            return False
        if "allow" in (parts.get("extra_behavior"), parts.get("extra_fields_behavior")):
            return False
        return all(_is_finite(part) for name, part in parts.items() if name not in _NO_SCHEMAS)
    if isinstance(schema, Sequence) and not isinstance(schema, str | bytes):
        return all(_is_finite(part) for part in cast("Sequence[object]", schema))
    return True


def _problem(value: bytes, *, refuse_overflow: bool) -> str | None:
    """What is wrong, if the words and digits are not only inside of strings. Slow, and reached only when they occur."""
    refusing: Any = {"parse_float": _finite, "parse_int": _finite} if refuse_overflow else {}
    try:
        json.loads(value, parse_constant=_refuse_constant, **refusing)
    except ValueError as error:
        return f"not JSON: {error}"
    return None


def _finite(digits: str) -> float:
    if not isfinite(found := float(digits)):
        raise ValueError("a number is larger than a float can hold")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}: NaN and Infinity are no JSON values")
