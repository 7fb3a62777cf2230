"""Dead letters for operators: list, show, retry, discard. Every act is recorded in `audit`.

A retry puts the workflow back to work under its own ID, with its recorded successes: the owner of its partition finds
the row at rest and runs it, behind what was open of its key at that moment (P18). Where its key is blocked by it
(`BlockKey`), nothing of the key ran since, so it keeps its place and the hold is lifted with the retry.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from engine.errors import EngineError
from engine.payloads import Payloads
from engine.sealed_rows import opened_letter
from engine.store import holds
from engine.store.acts import forget_errors
from engine.store.payloads import StoredLetter
from engine.store.statement import Statement, send

LIST_MAX = 1_000


class DeadLetterError(EngineError):
    """A dead letter does not exist, or is not in the state the act needs. The message says which."""


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A dead letter as stored. `record_key` and `record_value` are the raw bytes; `error` is JSON text."""

    dead_letter_id: int
    workflow_uuid: str
    handler: str
    service_name: str
    topic: str
    partition: int
    kafka_offset: int
    record_key: bytes | None
    record_value: bytes | None
    record_headers: Any
    record_timestamp: int | None
    reason: str
    error: str
    state: str
    note: str | None
    created_at: int
    resolved_at: int | None


async def list_dead_letters(
    connection: AsyncConnection[Any],
    schema: str,
    *,
    state: str | None = "OPEN",
    group: str | None = None,
    topic: str | None = None,
    handler: str | None = None,
    reason: str | None = None,
    after: int = 0,
    limit: int = 100,
) -> list[DeadLetterRow]:
    """Dead letters, oldest first, at most `limit` (1,000) with an ID above `after`.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        state: OPEN, RETRIED or DISCARDED; `None`: all.
        group: Only of this consumer group.
        topic: Only of this topic.
        handler: Only of this handler.
        reason: Only with this reason.
        after: For paging: the last ID of the page before.
        limit: Rows of a page.
    """
    cursor = await send(
        connection,
        schema,
        Statement(
            """
            SELECT d.dead_letter_id, d.workflow_uuid, d.handler, d.service_name, d.topic, d.partition, d.kafka_offset,
                   d.record_key, d.record_value, d.record_headers, d.record_timestamp, d.reason, d.error, d.state,
                   d.note, d.created_at, d.resolved_at
              FROM {schema}.dead_letter AS d
             WHERE (%(state)s::text IS NULL OR d.state = %(state)s)
               AND (%(service)s::text IS NULL OR d.service_name = %(service)s)
               AND (%(topic)s::text IS NULL OR d.topic = %(topic)s)
               AND (%(handler)s::text IS NULL OR d.handler = %(handler)s)
               AND (%(reason)s::text IS NULL OR d.reason = %(reason)s)
               AND d.dead_letter_id > %(after)s
             ORDER BY d.dead_letter_id
             LIMIT %(limit)s
            """,
            {
                "state": state,
                "service": None if group is None else f"kafka:{group}",
                "topic": topic,
                "handler": handler,
                "reason": reason,
                "after": after,
                "limit": min(limit, LIST_MAX),
            },
            class_row(DeadLetterRow),
        ),
    )
    return await cursor.fetchall()


async def show(connection: AsyncConnection[Any], schema: str, dead_letter_id: int) -> DeadLetterRow:
    """One dead letter. Raises `DeadLetterError` if there is none of that ID."""
    found = await list_dead_letters(connection, schema, state=None, after=dead_letter_id - 1, limit=1)
    if not found or found[0].dead_letter_id != dead_letter_id:
        raise DeadLetterError(f"dead letter {dead_letter_id} does not exist")
    return found[0]


def opened(letter: DeadLetterRow, payloads: Payloads) -> DeadLetterRow:
    """A dead letter as it was before it was sealed. Raises `UnreadablePayloadError` if it cannot be opened."""
    stored = StoredLetter(
        letter.dead_letter_id,
        letter.record_key,
        letter.record_value,
        None if letter.record_headers is None else json.dumps(letter.record_headers),
        letter.error,
    )
    plain = opened_letter(stored, payloads, f"dead letter {letter.dead_letter_id}")
    headers = None if plain.headers is None else json.loads(plain.headers)
    return replace(letter, record_key=plain.key, record_value=plain.value, record_headers=headers, error=plain.error)


async def retry(
    connection: AsyncConnection[Any],
    schema: str,
    dead_letter_ids: Sequence[int],
    *,
    actor: str = "operator",
    note: str = "",
) -> int:
    """Put the workflows of dead letters back to work, all or none. Returns how many.

    Raises:
        DeadLetterError: One is not open, or its workflow is not in ERROR any more, or is gone.
    """
    async with connection.transaction():
        for dead_letter_id in dead_letter_ids:
            letter = await locked_open(connection, schema, dead_letter_id)
            await put_back(connection, schema, letter, action="retry dead letter", actor=actor, note=note or None)
    return len(dead_letter_ids)


async def discard(
    connection: AsyncConnection[Any],
    schema: str,
    dead_letter_ids: Sequence[int],
    *,
    note: str,
    actor: str = "operator",
) -> int:
    """Give dead letters up with a reason, all or none; a key they block goes on. Returns how many.

    Raises:
        DeadLetterError: One is not open.
    """
    async with connection.transaction():
        for dead_letter_id in dead_letter_ids:
            letter = await locked_open(connection, schema, dead_letter_id)
            await _lift(connection, schema, letter)
            await send(connection, schema, _resolve(dead_letter_id, state="DISCARDED", note=note))
            await _audit(connection, schema, actor, "discard dead letter", letter=letter, note=note)
    return len(dead_letter_ids)


async def locked_open(connection: AsyncConnection[Any], schema: str, dead_letter_id: int) -> DeadLetterRow:
    """A dead letter that nobody has decided about, locked until the transaction ends. Raises `DeadLetterError`."""
    cursor = await send(
        connection,
        schema,
        Statement(
            "SELECT FROM {schema}.dead_letter AS d WHERE d.dead_letter_id = %(id)s FOR UPDATE", {"id": dead_letter_id}
        ),
    )
    await cursor.fetchall()
    letter = await show(connection, schema, dead_letter_id)
    if letter.state != "OPEN":
        raise DeadLetterError(f"dead letter {dead_letter_id} is {letter.state} already")
    return letter


async def put_back(
    connection: AsyncConnection[Any],
    schema: str,
    letter: DeadLetterRow,
    *,
    action: str,
    actor: str,
    note: str | None = None,
) -> None:
    """Put the workflow of a locked dead letter back to work, and record it. In the caller's transaction.

    Raises:
        DeadLetterError: The workflow is not in ERROR any more, or is gone.
    """
    lifted = await _lift(connection, schema, letter)
    cursor = await send(connection, schema, _back_to_work(letter, keeps_place=lifted))
    if await cursor.fetchone() is None:
        raise DeadLetterError(
            f"dead letter {letter.dead_letter_id}: workflow {letter.workflow_uuid} has not failed, or is gone"
        )
    await send(connection, schema, forget_errors(ids=[letter.workflow_uuid]))
    await send(connection, schema, _resolve(letter.dead_letter_id, state="RETRIED", note=note))
    await _audit(connection, schema, actor, action, letter=letter, note=note or "")
    await send(connection, schema, Statement("SELECT pg_notify('processor_rows', 'retry')", {}))


async def _lift(connection: AsyncConnection[Any], schema: str, letter: DeadLetterRow) -> bool:
    """Lift the block that this workflow caused. Returns whether there was one."""
    cursor = await send(
        connection,
        schema,
        Statement(
            """
            DELETE FROM {schema}.hold AS h
             WHERE h.service_name = %(service)s AND h.workflow_uuid = %(workflow)s AND h.kind = 'block'
            RETURNING h.hold_id
            """,
            {"service": letter.service_name, "workflow": letter.workflow_uuid},
        ),
    )
    return bool(await cursor.fetchall())


def _back_to_work(letter: DeadLetterRow, *, keeps_place: bool) -> Statement[Any]:
    return Statement(
        """
        UPDATE {schema}.workflow_status AS w
           SET status = 'PENDING',
               error = NULL,
               output = NULL,
               owner_xid = NULL,
               recovery_attempts = 0,
               kafka_alone = NULL,
               kafka_attempt = NULL,
               kafka_wake_at = NULL,
               kafka_place = CASE WHEN %(keeps_place)s THEN w.kafka_place
                                  ELSE (SELECT (k.value::json ->> 'high')::bigint
                                          FROM {schema}.event_dispatch_kv AS k
                                         WHERE k.service_name = %(service)s
                                           AND k.service_name LIKE 'kafka:%%'
                                           AND k.key = %(key)s) END,
               updated_at = {schema}.now_ms()
         WHERE w.workflow_uuid = %(workflow)s
           AND w.status IN ('ERROR', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
        RETURNING w.workflow_uuid
        """,
        {
            "workflow": letter.workflow_uuid,
            "keeps_place": keeps_place,
            "service": letter.service_name,
            "key": f"{letter.topic}-{letter.partition}",
        },
    )


def _resolve(dead_letter_id: int, *, state: str, note: str | None) -> Statement[Any]:
    return Statement(
        """
        UPDATE {schema}.dead_letter AS d
           SET state = %(state)s, note = %(note)s, resolved_at = {schema}.now_ms()
         WHERE d.dead_letter_id = %(id)s
        """,
        {"id": dead_letter_id, "state": state, "note": note},
    )


async def _audit(
    connection: AsyncConnection[Any], schema: str, actor: str, action: str, *, letter: DeadLetterRow, note: str
) -> None:
    detail = f"{letter.workflow_uuid} {note}".strip()
    subject = str(letter.dead_letter_id)
    await send(connection, schema, holds.audit(actor=actor, action=action, subject=subject, detail=detail))
