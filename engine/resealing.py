"""For operators: which keys payloads are sealed with, and sealing them anew under the key of today (decision 0012).

Everything is gone through, in bounded batches, each a transaction of its own that waits for nobody: a row that is being
written just now is passed over, and met in the next round. Between batches it rests as long as one took. It may be
broken off and begun again at any time. Rows of workflows under way are sealed anew like all others: nobody compares these columns.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection

from engine.errors import ConfigurationError
from engine.payloads import Payloads, UnreadablePayloadError, key_id_of
from engine.sealed_rows import letter_key_id, opened_letter, opened_request, sealed_letter, sealed_request
from engine.store import holds
from engine.store import payloads as store
from engine.store.payloads import TABLES, Column, StoredLetter, Table
from engine.store.statement import send
from engine.store.workflow_status import INPUTS_ELSEWHERE

BLOCKS = 64
"""Of a table in one batch: half a megabyte of rows."""
LETTERS = 500
"""Dead letters in one batch."""
ROUNDS_MAX = 5
"""Over everything, while a round still finds something: rows move while they are written."""
UNREADABLE_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class KeyInUse:
    """Values of one column under one key. `key_id` `None`: they are readable."""

    table: str
    column: str
    key_id: str | None
    values: int


@dataclass(slots=True)
class Resealed:
    """What a run has done.

    Attributes:
        values: Sealed anew, or opened.
        unreadable: What could not be opened, and why: the first of each kind.
    """

    values: int = 0
    unreadable_count: int = 0
    unreadable: list[str] = field(default_factory=list[str])


async def keys_in_use(connection: AsyncConnection[Any], schema: str) -> list[KeyInUse]:
    """Every key that some value is sealed with, column by column. Reads all of the tables."""
    found: list[KeyInUse] = []
    for table in TABLES:
        for column in table.columns:
            cursor = await send(connection, schema, store.counts(table, column))
            for key_id, count in await cursor.fetchall():
                if key_id is not None or column.kind == "text":
                    found.append(KeyInUse(table.name, column.name, key_id, count))
    cursor = await send(connection, schema, store.letter_counts())
    found += [KeyInUse("dead_letter", "record", key_id, count) for key_id, count in await cursor.fetchall()]
    return sorted(found, key=lambda each: (each.table, each.column, each.key_id or ""))


def check_rotation(payloads: Payloads, *, plain: bool, asked: str) -> None:
    """Refuse to open what is sealed while a key seals, or to seal without one.

    Args:
        payloads: Of the settings.
        plain: Whether values are to be stored readable.
        asked: How that is asked for, for messages.

    Raises:
        ConfigurationError: The two do not fit.
    """
    if plain and payloads.seal is not None:
        raise ConfigurationError(
            f"payloads.key is set: processes would go on sealing what {asked} opens. Unset it everywhere first"
        )
    if not plain and payloads.seal is None:
        raise ConfigurationError(
            f"payloads.key is not set: there is no key to seal with ({asked} stores values readable)"
        )


async def reseal(
    connection: AsyncConnection[Any], schema: str, payloads: Payloads, *, actor: str = "operator"
) -> Resealed:
    """Seal every value under the key that seals now; without one, open every value that is sealed.

    What cannot be opened is left as it is, counted and named.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        payloads: With every key that is in use.
        actor: Who has it done: it is recorded.
    """
    done = Resealed()
    action = "store payloads readable" if payloads.current is None else "seal payloads anew"
    begun = holds.audit(actor=actor, action=action, subject=payloads.current or "", detail="begun")
    await send(connection, schema, begun)
    for _ in range(ROUNDS_MAX):
        before, done.unreadable_count, done.unreadable = done.values, 0, []
        for table in TABLES:
            async for batch_s in _through(connection, schema, table, _Change(payloads, done)):
                await asyncio.sleep(batch_s)
        async for batch_s in _through_letters(connection, schema, payloads, done):
            await asyncio.sleep(batch_s)
        if done.values == before:
            break
    return done


async def _through(
    connection: AsyncConnection[Any], schema: str, table: Table, change: "_Change"
) -> AsyncGenerator[float]:
    """Go through a table; yields how long each batch took."""
    cursor = await send(connection, schema, store.blocks(table.name))
    row = await cursor.fetchone()
    assert row is not None, "a size"
    for first in range(0, row[0], BLOCKS):
        began = time.monotonic()
        async with connection.transaction():
            cursor = await send(connection, schema, store.rows(table, first=first, end=first + BLOCKS))
            changes: list[tuple[str, list[str | None]]] = []
            for place, *texts in await cursor.fetchall():
                where = f"{table.name}, row {place}"
                changed = [
                    change.of(*each, f"{where}: {each[0].name}") for each in zip(table.columns, texts, strict=True)
                ]
                if any(text is not None for text in changed):
                    changes.append((place, changed))
            if changes:
                await send(connection, schema, store.replace(table, changes, first=first, end=first + BLOCKS))
        yield time.monotonic() - began


async def _through_letters(
    connection: AsyncConnection[Any], schema: str, payloads: Payloads, done: Resealed
) -> AsyncGenerator[float]:
    after, is_full = 0, True
    while is_full:
        began = time.monotonic()
        async with connection.transaction():
            cursor = await send(connection, schema, store.letters(after=after, limit=LETTERS))
            found = await cursor.fetchall()
            changes = [changed for letter in found if (changed := _changed(letter, payloads, done)) is not None]
            if changes:
                await send(connection, schema, store.replace_letters(changes))
                done.values += len(changes)
        is_full = len(found) == LETTERS
        after = found[-1].dead_letter_id if found else after
        yield time.monotonic() - began


def _changed(letter: StoredLetter, payloads: Payloads, done: Resealed) -> StoredLetter | None:
    key_id = letter_key_id(letter)
    if key_id == payloads.current:
        return None  # with none as well: it is readable, and is to be
    try:
        opened = opened_letter(letter, payloads, f"dead letter {letter.dead_letter_id}")
    except UnreadablePayloadError as error:
        _note(done, error)
        return None
    return opened if payloads.seal is None else sealed_letter(opened, payloads)


class _Change:
    """One column's text to what it is to be; `None`: it is that already, or cannot be read."""

    def __init__(self, payloads: Payloads, done: Resealed) -> None:
        self._payloads = payloads
        self._done = done

    def of(self, column: Column, text: str | None, where: str) -> str | None:
        """The other text of a column."""
        if text is None:
            return None
        try:
            changed = self._text(text, where) if column.kind == "text" else self._request(text, where)
        except UnreadablePayloadError as error:
            _note(self._done, error)
            return None
        self._done.values += changed is not None
        return changed

    def _text(self, text: str, where: str) -> str | None:
        seal = self._payloads.seal
        if key_id_of(text) == self._payloads.current or text in ("null", INPUTS_ELSEWHERE):
            return None
        opened = self._payloads.open(text, where)
        return opened if seal is None else seal(opened)

    def _request(self, text: str, where: str) -> str | None:
        seal = self._payloads.seal
        found = _MEMBER.search(text)
        if (None if found is None else found[1]) == self._payloads.current:
            return None
        opened = opened_request(text, self._payloads, where)
        changed = opened if seal is None else sealed_request(opened, seal)
        return None if changed == text else changed


def _note(done: Resealed, error: UnreadablePayloadError) -> None:
    done.unreadable_count += 1
    if len(done.unreadable) < UNREADABLE_SHOWN_MAX:
        done.unreadable.append(str(error))


_MEMBER = re.compile(r'"sealed": "([^:"]+):')
