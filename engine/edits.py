"""A dead letter whose payload is mended: its workflow runs again, with other bytes under the same ID (I2).

The letter keeps the record as it came, and says that it was edited; the row, from which the workflow runs, has the new
payload. Key, headers, time and coordinates are the record's own. Everything is one commit: new inputs, the lifted block,
the workflow at rest for its partition's owner, the decided letter, the row of `audit`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from psycopg import AsyncConnection

from engine.admission import key_of
from engine.dead_letters import DeadLetterError, locked_open, put_back
from engine.handlers import Handler
from engine.ids import OrderingKey
from engine.payloads import Payloads, key_id_of
from engine.records import Record
from engine.rows import allowed, is_of_record, record_of, row_texts
from engine.sealed_rows import opened_request, sealed_texts
from engine.store import edits as store
from engine.store.statement import send


@dataclass(frozen=True, slots=True)
class Fits:
    """What a handler says of a payload that it can decode: how it is stored, and what orders it."""

    embeds_json: bool
    key: OrderingKey | None


Check = Callable[[Record], Fits]
"""Raises what the format or the key raises: the payload does not fit."""


@dataclass(frozen=True, slots=True)
class Edited:
    """What an edit did, or would do."""

    workflow_id: str
    handler: str
    before: bytes | None
    after: bytes | None
    steps: int


def fits(handler: Handler, record: Record) -> Fits:
    """Decode a record as its handler does. Raises what the format or the key raises."""
    shown = replace(record, headers=allowed(record.headers, handler.stored_headers))
    argument = handler.format.decode(shown)
    return Fits(handler.format.embeds_json, key_of(handler, shown, argument))


async def edit(
    connection: AsyncConnection[Any],
    schema: str,
    dead_letter_id: int,
    value: bytes | None,
    *,
    payloads: Payloads,
    inputs_inline_max: int,
    note: str,
    actor: str,
    check: Check | None = None,
    keep_steps: bool = False,
    dry_run: bool = False,
) -> Edited:
    """Give the workflow of a dead letter another payload, and put it back to work.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        dead_letter_id: Which.
        value: The payload; `None`: a tombstone.
        payloads: Opens what is stored, and seals what is written.
        inputs_inline_max: As of the engine's settings.
        note: Why; with the actor it stands in `audit`, which has no payloads.
        actor: Who.
        check: Says whether the handler can decode it, and what orders it then; without, the former key stays.
        keep_steps: Also where steps have succeeded: they keep the results that they had of the former payload.
        dry_run: Change nothing.

    Raises:
        DeadLetterError: It is not open, is no record's, is sealed and there is no key to seal with, or steps have
            succeeded and nobody said that they are to stay.
        UnreadablePayloadError: What is stored cannot be opened.
    """
    async with connection.transaction(force_rollback=dry_run):
        letter = await locked_open(connection, schema, dead_letter_id)
        row = await (await send(connection, schema, store.lock(workflow_id=letter.workflow_uuid))).fetchone()
        if row is None or row.request is None or not is_of_record(row.request):
            raise DeadLetterError(
                f"dead letter {dead_letter_id}: workflow {letter.workflow_uuid} is gone, or no record's: "
                f"start another one with what is right"
            )
        before = _record(letter.workflow_uuid, row, payloads, dead_letter_id)
        if row.steps and not keep_steps:
            raise DeadLetterError(
                f"dead letter {dead_letter_id}: {row.steps} steps have succeeded with the payload as it was.\n"
                f"  Look at them (`processor workflows steps {letter.workflow_uuid}`). With --keep-steps they stay, and the\n"
                f"  rest runs with the new payload; or discard the letter, and produce a record that is right."
            )
        after = replace(before, value=value)
        found = None if check is None else check(after)
        request, inputs = _texts(after, payloads, embeds=_is_json(value) if found is None else found.embeds_json)
        if payloads.seal is None and _is_sealed(row):
            raise DeadLetterError(
                f"dead letter {dead_letter_id} is sealed, and payloads.key names nothing to seal with: it would stand readable"
            )
        writing = store.write(
            workflow_id=letter.workflow_uuid,
            request=request,
            inputs=inputs,
            inline_max=inputs_inline_max,
            new_key=found is not None,
            key=None if found is None else found.key,
        )
        await send(connection, schema, writing)
        await put_back(connection, schema, letter, action="edit dead letter", actor=actor, note=f"edited: {note}")
    return Edited(letter.workflow_uuid, letter.handler, before.value, value, row.steps)


def _record(workflow_id: str, row: store.EditedRow, payloads: Payloads, dead_letter_id: int) -> Record:
    where = f"workflow {workflow_id}"
    try:
        request = opened_request(row.request or "", payloads, where)
        return record_of(request, payloads.open(row.inputs, f"{where}: inputs"))
    except (ValueError, KeyError, TypeError) as error:
        raise DeadLetterError(f"dead letter {dead_letter_id}: {where} was not written by this program") from error


def _texts(record: Record, payloads: Payloads, *, embeds: bool) -> tuple[str, str]:
    headers = frozenset(name for name, _ in record.headers)  # those that were stored
    if payloads.seal is None:
        return row_texts(record, embeds_json=embeds, stored_headers=headers)
    return sealed_texts(record, embeds_json=embeds, stored_headers=headers, seal=payloads.seal)


def _is_sealed(row: store.EditedRow) -> bool:
    return key_id_of(row.inputs) is not None or '"sealed": "' in (row.request or "")


def _is_json(value: bytes | None) -> bool:
    try:
        json.loads(value or b"null")
    except ValueError:
        return False
    return True
