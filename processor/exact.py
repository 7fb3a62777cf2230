"""Which values JSON brings back as they were, told without reading them back.

    annotation ─at registration─▶ pydantic's schema ─▶ a proof, or none
    value ─proof─▶ it is of those very types: what its text says is what the workflow has

Of numbers, texts, and lists and dicts of them. It costs a fifth of reading them back, and as much as that for models, which
are read back therefore (decision 0033). What is not known to be exact counts as not exact: a word of pydantic's that is not read
here, a subclass of what is announced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Proof = Callable[[Any], bool]
Schema = Mapping[str, Any]

_SCALARS: Mapping[str, type] = {"none": type(None), "bool": bool, "int": int, "str": str}


def proof_of(adapter: TypeAdapter[Any]) -> Proof | None:
    """What tells of a value whether it comes back exactly; `None`: nothing does, for values of this type."""
    return _proof(cast("Schema", adapter.core_schema))


def _proof(schema: Schema) -> Proof | None:
    if (kinds := _kinds(schema)) is not None:
        return lambda value: type(value) in kinds
    match schema["type"]:
        case "nullable" if _only(schema, "schema"):
            inner = _proof(schema["schema"])
            return None if inner is None else (lambda value: value is None or inner(value))
        case "list" if _only(schema, "items_schema"):
            return _of_list(schema["items_schema"])
        case "dict" if _only(schema, "keys_schema", "values_schema"):
            return _of_dict(schema["keys_schema"], schema["values_schema"])
        case "float" if _only(schema):
            return _is_finite
        case _:
            return None


def _kinds(schema: Schema) -> frozenset[type] | None:
    """The types of a scalar, or of a choice of scalars: JSON tells them from each other."""
    match schema["type"]:
        case "nullable" if _only(schema, "schema"):
            inner = _kinds(schema["schema"])
            return None if inner is None else inner | {type(None)}
        case "union" if _only(schema, "choices"):
            choices = [_kinds(choice) for choice in schema["choices"] if not isinstance(choice, tuple)]
            found = [choice for choice in choices if choice is not None]
            return frozenset[type]().union(*found) if len(found) == len(schema["choices"]) else None
        case name if name in _SCALARS and _only(schema):
            return frozenset({_SCALARS[name]})
        case _:
            return None


def _only(schema: Schema, *words: str) -> bool:
    """Whether a schema says nothing of its type but these words."""
    return set(schema) == {"type", *words}


def _is_finite(value: Any) -> bool:
    """Infinity is written as a model likes."""
    return type(value) is float and isfinite(value)


def _of_list(items: Schema) -> Proof | None:
    if (kinds := _kinds(items)) is not None:
        return lambda value: type(value) is list and kinds.issuperset(map(type, cast("list[Any]", value)))
    item = _proof(items)
    return None if item is None else (lambda value: type(value) is list and all(map(item, cast("list[Any]", value))))


def _of_dict(keys: Schema, values: Schema) -> Proof | None:
    if keys["type"] != "str" or not _only(keys):
        return None
    if (kinds := _kinds(values)) is not None:
        of_values: Callable[[Any], bool] = lambda found: kinds.issuperset(map(type, found))  # noqa: E731  # as its sibling
    elif (item := _proof(values)) is not None:
        of_values = lambda found: all(map(item, found))  # noqa: E731  # as its sibling
    else:
        return None
    text = frozenset({str})

    def proof(value: Any) -> bool:
        if type(value) is not dict:
            return False
        items = cast("dict[Any, Any]", value)
        return text.issuperset(map(type, items)) and of_values(items.values())

    return proof


__all__ = ["Proof", "proof_of"]
