"""Values as the TypeScript SDK of DBOS writes them (superjson), as plain JSON values. Pure.

    {"json": [{"at": "2026-01-01T00:00:00.000Z", "tags": ["a"]}],
     "meta": {"values": {"0.at": ["Date"], "0.tags": ["set"]}},
     "__dbos_serializer": "superjson"}              ──▶  [{"at": "2026-01-01T00:00:00.000Z", "tags": ["a"]}]

A model then reads them as it reads ours: a Date is the text that pydantic reads as one, a Map an object, a Set a list, a
Buffer base64. Ours need no such form to be read there: that SDK takes plain JSON for what it wrote before it had one.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

MARKER: Final = '"__dbos_serializer"'
"""In the text of every such value. Few texts have it, and those are looked at."""

_AS_THEY_STAND: Final = frozenset({"Date", "regexp", "URL", "set", "number", "Error"})
"""Types whose JSON is what a model reads: texts, lists, and NaN and infinities by name (processor/codec.py)."""

_PICKLED: Final = ("gASV", "gAWV", "gAR", "gAN")
"""How base64 of a pickle begins, of protocols 3 to 5. No JSON begins so."""

_DEPTH_MAX: Final = 500


class _Undefined:
    """What JavaScript leaves out."""


_UNDEFINED: Final = _Undefined()


def loads(text: str, *, of_call: bool = False) -> Any:
    """A JSON text, whichever of the two forms it has.

    Args:
        text: As it is stored.
        of_call: Whether it is a list of arguments, at whose end JavaScript may leave some out.

    Raises:
        ValueError: It is no JSON, or has a type that nothing here can stand for. Names the place.
    """
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        if text.startswith(_PICKLED):
            raise ValueError(
                "it is pickled, and no pickle is read here: give that client a JSON serializer (docs/guides/dbos.md)"
            ) from None
        raise ValueError(f"it is no JSON: {error}") from None
    if MARKER in text and is_superjson(value):
        return plain(value, of_call=of_call)
    return value


def plain_text(text: str) -> str:
    """The same as text: as it stands, unless it has that form. Raises as `loads`."""
    return json.dumps(loads(text)) if MARKER in text or text.startswith(_PICKLED) else text


def is_superjson(value: Any) -> bool:
    """Whether a parsed value has the SDK's own mark, and its form."""
    if not isinstance(value, dict):
        return False
    record = cast("dict[str, Any]", value)
    return record.get("__dbos_serializer") == "superjson" and "json" in record


def plain(stored: Mapping[str, Any], *, of_call: bool = False) -> Any:
    """What a value of that form says, as a JSON value. Raises `ValueError` for what JSON cannot say; names the place."""
    meta: Any = stored.get("meta") or {}
    _refuse_cycles(meta.get("referentialEqualities"))
    tree, root = meta.get("values"), [stored["json"]]
    if tree is not None:
        escapes = meta.get("v", 0) >= 1
        _apply(root, 0, tree, (), escapes=escapes)
    value = root[0]
    while of_call and isinstance(value, list) and value and value[-1] is _UNDEFINED:
        value.pop()
    return _without_undefined(value)


def _apply(parent: Any, key: Any, tree: Any, path: tuple[str, ...], *, escapes: bool) -> None:
    """Convert what stands under a key of its parent: first what is inside of it, then itself."""
    if len(path) > _DEPTH_MAX:
        raise ValueError("it is nested too deeply")
    parts: list[Any] = cast("list[Any]", tree) if isinstance(tree, list) else [None, tree]
    kind: Any = parts[0]
    inside: dict[str, Any] = parts[1] if len(parts) > 1 else {}
    for name, child in inside.items():
        place: Any = parent[key]
        steps = list(_steps(name, escapes=escapes))
        for step in steps[:-1]:
            place = place[_key(place, step, path)]
        _apply(place, _key(place, steps[-1], path), child, (*path, name), escapes=escapes)
    if kind is not None:
        parent[key] = _converted(parent[key], kind, ".".join(path) or "the value")


def _key(place: Any, step: str, path: tuple[str, ...]) -> Any:
    if isinstance(place, list) and step.isdecimal() and int(step) < len(cast("list[Any]", place)):
        return int(step)
    if isinstance(place, dict) and step in place:
        return step
    raise ValueError(f"its meta names {'.'.join((*path, step))}, which is not there")


def _steps(path: str, *, escapes: bool) -> Iterator[str]:
    """The keys of a path: a dot parts them, an escaped one is of a key (and so is an escaped backslash, since version 1)."""
    step, at = "", 0
    while at < len(path):
        pair = path[at : at + 2]
        if pair == "\\." or (escapes and pair == "\\\\"):
            step, at = step + pair[1], at + 2
        elif path[at] == ".":
            yield step
            step, at = "", at + 1
        else:
            step, at = step + path[at], at + 1
    yield step


def _converted(value: Any, kind: Any, where: str) -> Any:
    match kind:
        case "undefined":
            return _UNDEFINED
        case "number" if value == "-0":
            return -0.0
        case "bigint":
            return int(value)
        case "map":
            return _object(value, where)
        case ["custom", "Buffer"] | ["typed-array", "Uint8Array"]:
            return b64encode(bytes(value)).decode()
        case ["typed-array" | "class", *_]:
            return value
        case str() if kind in _AS_THEY_STAND:
            return value
        case _:
            raise ValueError(f"{where} is a {kind}, which JSON has nothing for")


def _object(entries: list[list[Any]], where: str) -> dict[str, Any]:
    """A Map as an object: its keys are texts, as they are of a `dict` in JSON."""
    found: dict[str, Any] = {}
    for key, value in entries:
        if isinstance(key, (dict, list, _Undefined)):
            raise ValueError(f"{where} is a Map whose keys are objects, which JSON has nothing for")  # noqa: TRY004  # of a text
        name = key if isinstance(key, str) else json.dumps(key)
        if name in found:
            raise ValueError(f"{where} is a Map with two keys that are both {name!r} in JSON")
        found[name] = value
    return found


def _refuse_cycles(equalities: Any) -> None:
    """Equal objects stand in the JSON as often as they occur; one inside of itself stands there as null."""
    if isinstance(equalities, list):
        raise ValueError("it has itself inside of it, which JSON has nothing for")  # noqa: TRY004  # of a text
    for path, others in cast("dict[str, list[str]]", equalities or {}).items():
        if any(other.startswith(f"{path}.") for other in others):
            raise ValueError(f"{path} has itself inside of it, which JSON has nothing for")


def _without_undefined(value: Any) -> Any:
    """As JSON.stringify does it: no such property, null in a list."""
    if value is _UNDEFINED:
        return None
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without_undefined(each) for key, each in items if each is not _UNDEFINED}
    if isinstance(value, list):
        return [_without_undefined(each) for each in cast("list[Any]", value)]
    return value


__all__ = ["MARKER", "is_superjson", "loads", "plain", "plain_text"]
