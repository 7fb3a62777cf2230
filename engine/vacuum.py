"""Whether what was deleted can be removed from the tables, or who keeps Postgres from it.

A transaction, a prepared one or a replication slot that stands still keeps every row that was deleted since. How long it
has done so is counted from when this process first saw it at that place: a lower bound, and never a false alarm. (When a
transaction began says nothing: one that only reads may see newer snapshots with every statement.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from engine.store.statement import send
from engine.store.vacuum import HolderRow, holders

HOLDERS_MAX = 50
"""Looked at, oldest first."""
SAY_AGAIN_S = 3_600.0
"""Until one that stands still is reported anew."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the oldest snapshot, and for how long it has been seen to."""

    kind: str
    name: str
    age_s: float
    transactions: int


class Holders:
    """Who was seen, and since when."""

    def __init__(self) -> None:
        self._since: dict[HolderKey, float] = {}
        self._said: tuple[HolderKey, float] | None = None

    def oldest(self, rows: Sequence[HolderRow], now_s: float) -> Holder | None:
        """Who has stood still the longest. Pure but for what it remembers."""
        self._since = {_key(row): self._since.get(_key(row), now_s) for row in rows}
        if not rows:
            return None
        row = min(rows, key=lambda each: (self._since[_key(each)], -each.transactions))
        return Holder(row.kind, row.name, now_s - self._since[_key(row)], row.transactions)

    def is_news(self, holder: Holder, now_s: float) -> bool:
        """Whether to report it: not yet, or not for long."""
        key = (holder.kind, holder.name, "")
        if self._said is not None and self._said[0] == key and now_s - self._said[1] < SAY_AGAIN_S:
            return False
        self._said = (key, now_s)
        return True

    def was_said(self) -> bool:
        """Whether one was reported, and this is to be taken back; forgets it."""
        said, self._said = self._said, None
        return said is not None


HolderKey = tuple[str, str, str]


def _key(row: HolderRow) -> HolderKey:
    return row.kind, row.name, row.xid


async def look(connection: AsyncConnection[Any], schema: str) -> list[HolderRow]:
    """Who holds old snapshots of this database now."""
    return await (await send(connection, schema, holders(limit=HOLDERS_MAX))).fetchall()
