"""What a user's statement does to its transaction and to those after it, by how its text begins. Pure.

A statement that does nothing special is `PLAIN`: nearly all are, and they are found out once for each text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Composed, as_string

Query = LiteralString | bytes | SQL | Composed
"""What `execute` takes: text that stands in the program, or `psycopg.sql` objects; never text made of values."""

_LEAD = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_NAME = r'(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>\w+))'


def _begins(pattern: str) -> re.Pattern[str]:
    """Statements that begin so, behind blanks and comments."""
    return re.compile(_LEAD + pattern, re.IGNORECASE | re.DOTALL)


_ENDS = _begins(
    r"(?:begin|start\s+transaction|commit|end|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b)|abort|prepare\s+transaction)\b"
)
_LASTS = _begins(
    r"(?:(?:set|reset|declare|savepoint)\b|create\s+(?:(?:local|global)\s+)?temp)"
    r"|.*\bset_config\b"
)
_OUTLIVES = _begins(
    r"(?:set\s+(?!local\b|constraints\b)|reset\b)"
    r"|.*\bset_config\s*\([^;]*,\s*(?:false|'f(?:alse)?')\s*\)"
)
_COPIES = _begins(r"copy\b.*\b(?:stdin|stdout)\b")
_SAVEPOINT = _begins(rf"savepoint\s+{_NAME}")
_BACK_TO = _begins(rf"rollback\s+(?:(?:work|transaction)\s+)?to\s+(?:savepoint\s+)?{_NAME}")
_UNPREPARES = _begins(r"(?:drop|alter|rollback|discard|deallocate)\b")
"""Statements at whose tag psycopg deallocates all that it has prepared."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is special about a statement.

    Attributes:
        ends: It ends the transaction.
        outlives: It changes the connection for every transaction after this one, or this one for what the engine writes in it.
        copies: It streams rows, for which a pipeline has no place.
        lasts: It leaves something to those after it until the commit: a setting, a temporary table, a cursor, a savepoint.
        savepoint: The savepoint it sets, as Postgres folds the name.
        back_to: The savepoint it rolls back to.
        unprepares: psycopg deallocates what it has prepared when it reads its answer.
    """

    ends: bool = False
    outlives: bool = False
    copies: bool = False
    lasts: bool = False
    savepoint: str | None = None
    back_to: str | None = None
    unprepares: bool = False


PLAIN = Kind()


def kind_of(query: Query) -> Kind:
    """`PLAIN`, or what is special about it."""
    return _kind(query if isinstance(query, str) else text_of(query))


def text_of(query: Query | str) -> str:
    """Its text, to be read by people and patterns."""
    if isinstance(query, str):
        return query
    return query.decode(errors="replace") if isinstance(query, bytes) else as_string(query)


def name_in(error: psycopg.Error, query: Query | str) -> None:
    """Note on an error which statement it is about, unless that is known."""
    if not any(note.startswith(_IN_STATEMENT) for note in getattr(error, "__notes__", ())):
        error.add_note(f"{_IN_STATEMENT}{text_of(query).strip()[:500]}")


_IN_STATEMENT = "in the statement: "


@lru_cache(maxsize=1024)
def _kind(text: str) -> Kind:
    kind = Kind(
        ends=_ENDS.match(text) is not None,
        outlives=_OUTLIVES.match(text) is not None,
        copies=_COPIES.match(text) is not None,
        lasts=_LASTS.match(text) is not None,
        savepoint=_name(_SAVEPOINT.match(text)),
        back_to=_name(_BACK_TO.match(text)),
        unprepares=_UNPREPARES.match(text) is not None,
    )
    return PLAIN if kind == PLAIN else kind


def _name(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return match["quoted"].replace('""', '"') if match["quoted"] else match["plain"].lower()
