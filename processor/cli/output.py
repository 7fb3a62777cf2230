"""How commands print rows: a table for people, JSON for programs."""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

CELL_MAX = 80
"""Characters of one cell of a table. JSON has all of them."""


def print_rows(columns: Sequence[str], rows: Sequence[dict[str, Any]], *, as_json: bool, nothing: str) -> None:
    """Print rows.

    Args:
        columns: Keys that a table shows, in order.
        rows: What there is; JSON prints every key, one object a line.
        as_json: For programs.
        nothing: What to say where there are no rows, to people.
    """
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if not rows:
        print(nothing)
        return
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in [list(columns), *cells]) for place in range(len(columns))]
    for line in [[column.upper().replace("_", " ") for column in columns], *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_one(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print one thing whole, as JSON: on lines of its own for people, on one line for programs."""
    print(json.dumps(facts, indent=None if as_json else 2, ensure_ascii=False))


def say_done(text: str, *, as_json: bool, **facts: Any) -> None:
    """Say what an act did: a line for people, one JSON object of the facts for programs."""
    print(json.dumps(facts, ensure_ascii=False) if as_json else text)


def instant(epoch_ms: float | None) -> str | None:
    """Epoch milliseconds as people and programs read them, UTC."""
    if epoch_ms is None:
        return None
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


Shown = str | dict[str, str] | None
"""Bytes as JSON shows them."""


def payload(value: bytes | None) -> Shown:
    """Bytes as text where they are text, else `{"base64": "…"}`, as they are stored: no text is shown so."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}


def headers(stored: list[tuple[str, str | None]] | None) -> list[tuple[str, Shown]]:
    """Headers as names and payloads; stored, their values are all in base64."""
    return [(name, payload(None if value is None else b64decode(value))) for name, value in stored or ()]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = json.dumps(value)
    elif isinstance(value, list):
        value = ", ".join(str(item) for item in cast("list[object]", value))
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= CELL_MAX else text[: CELL_MAX - 1] + "…"
