"""Which values JSON brings back as they were, told without reading them back.

    annotation ─at registration─▶ pydantic's schema ─▶ a proof, or none
    value ─proof─▶ it is of those very types: what its text says is what the workflow has

Asked so that steps of plain results cost nothing for being handed over as a replay has them (decision 0033). Everything that is
not known to be exact counts as not exact: a word of pydantic's that is not read here, a subclass, a field that was not set
(`model_dump(exclude_unset=True)` would tell the difference), a validator or serializer of the user's.
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

_DEFAULT = {
    "type",
    "schema",
    "default",
    "default_factory",
    "default_factory_takes_data",
    "copy_default",
    "validate_default",
}
_FIELD = {"type", "schema", "metadata", "validation_alias", "serialization_alias", "frozen"}
_FIELDS = {"type", "fields", "model_name", "computed_fields", "extra_behavior", "strict", "ref", "from_attributes"}
_MODEL = {"type", "cls", "schema", "custom_init", "root_model", "config", "ref", "metadata", "frozen", "strict"}
_CONFIG = {
    "title",
    "frozen",
    "strict",
    "extra_fields_behavior",
    "from_attributes",
    "validate_default",
    "validate_assignment",
    "revalidate_instances",
    "populate_by_name",
    "validate_by_name",
    "validate_by_alias",
    "serialize_by_alias",
    "loc_by_alias",
    "hide_input_in_errors",
}
"""Of a model's configuration, what changes no value."""

_ABSENT = object()


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
        case "model":
            return _of_model(schema)
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
    key_proof, value_proof = _of_list(keys), _of_list(values)
    if key_proof is None or value_proof is None or keys["type"] != "str":
        return None

    def proof(value: Any) -> bool:
        if type(value) is not dict:
            return False
        items = cast("dict[Any, Any]", value)
        return key_proof(list(items)) and value_proof(list(items.values()))

    return proof


def _of_model(schema: Schema) -> Proof | None:
    fields: Schema = schema["schema"]
    config: Schema = schema.get("config", {})
    is_plain = (
        schema.keys() <= _MODEL
        and not schema.get("custom_init")
        and not schema.get("root_model")
        and config.keys() <= _CONFIG
        and config.get("extra_fields_behavior") != "allow"
        and fields["type"] == "model-fields"
        and fields.keys() <= _FIELDS
        and not fields.get("computed_fields")
        and fields.get("extra_behavior") != "allow"
    )
    if not is_plain:
        return None
    scalars: list[tuple[str, frozenset[type]]] = []
    others: list[tuple[str, Proof]] = []
    for name, field in cast("Mapping[str, Schema]", fields["fields"]).items():
        inner: Schema = field["schema"]
        if inner["type"] == "default" and inner.keys() <= _DEFAULT:
            inner = inner["schema"]
        if not field.keys() <= _FIELD:
            return None
        if (kinds := _kinds(inner)) is not None:
            scalars.append((name, kinds))
        elif (proof := _proof(inner)) is not None:
            others.append((name, proof))
        else:
            return None
    return _model_proof(schema["cls"], scalars, others)


def _model_proof(cls: type, scalars: list[tuple[str, frozenset[type]]], others: list[tuple[str, Proof]]) -> Proof:
    count = len(scalars) + len(others)

    def proof(value: Any) -> bool:
        if type(value) is not cls:
            return False
        fields = value.__dict__
        if len(fields) != count or len(value.__pydantic_fields_set__) != count:
            return False
        for name, kinds in scalars:
            if type(fields.get(name, _ABSENT)) not in kinds:
                return False
        return not others or all(inner(fields.get(name, _ABSENT)) for name, inner in others)

    return proof


__all__ = ["Proof", "proof_of"]
