"""Rows with what is of users sealed, and back (decision 0012). Only reached where payloads are sealed, but for the reading.

`request` keeps the record's coordinates and time readable; key and headers are one sealed member of it, as are path,
query, headers and address of an HTTP call. Dead letters
have bytes of their own: they are sealed where `record_headers` is an object, `{"sealed": …}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from engine.identity import Origin
from engine.payloads import Payloads, from_member, key_id_of, member_of
from engine.records import Record
from engine.rows import allowed, bytes_text, headers_text, record_of, row_texts
from engine.store.payloads import StoredLetter

if TYPE_CHECKING:
    from engine.runner import Ending
    from engine.starts import Start
    from engine.store.commons import TakenRow
    from engine.store.operation_outputs import Checkpoint, CheckpointRow
    from engine.store.turns import QueuedRow
    from engine.store.workflow_status import AcquiredRow

Seal = Callable[[str], str]

OF_CALLER = ("path", "query", "headers", "client")
"""What of an HTTP call's `request` is of its caller; method and route are the app's."""


def sealed_texts(record: Record, *, embeds_json: bool, stored_headers: frozenset[str], seal: Seal) -> tuple[str, str]:
    """The row's `request` and `inputs`, as `row_texts`."""
    bare = replace(record, key=None, headers=())
    request, inputs = row_texts(bare, embeds_json=embeds_json, stored_headers=frozenset())
    headers = allowed(record.headers, stored_headers) if stored_headers else ()
    if record.key is not None or headers:
        key = "null" if record.key is None else bytes_text(record.key)
        apart = f'{{"key": {key}, "headers": {headers_text(headers)}}}'
        request = f"{request[:-1]}, {member_of(seal(apart))}}}"
    return request, seal(inputs)


def sealed_starts(starts: Sequence[Start], seal: Seal | None) -> Sequence[Start]:
    """New workflows on their way to their rows. The starts themselves stay readable: they run here, and are compared."""
    if seal is None:
        return starts
    return [
        replace(
            each,
            inputs=seal(each.inputs),
            request=None if each.request is None else sealed_request(each.request, seal),
        )
        for each in starts
    ]


def sealed_request(request: str, seal: Seal) -> str:
    """A readable `request` of a record or an HTTP call with what of it is to be sealed; another one as it is."""
    whole = _object(request)
    if "method" in whole:
        apart = {name: whole.pop(name) for name in OF_CALLER if name in whole}
        if not any(apart.values()):
            return request
        return f"{json.dumps(whole)[:-1]}, {member_of(seal(json.dumps(apart)))}}}"
    if whole.get("key") is None and not whole.get("headers"):
        return request
    apart = {"key": whole["key"], "headers": whole.pop("headers", [])}
    return f"{json.dumps(whole | {'key': None})[:-1]}, {member_of(seal(json.dumps(apart)))}}}"


def opened_request(request: str, payloads: Payloads, where: str) -> str:
    """A `request` as `row_texts` writes it. Raises `UnreadablePayloadError`."""
    if '"sealed": "' not in request:
        return request
    whole = _object(request)
    if "sealed" not in whole:
        return request  # a header of that name, or another program's
    apart: dict[str, Any] = json.loads(payloads.open(from_member(whole.pop("sealed")), f"{where}: request"))
    return json.dumps(whole | apart)


def opened_origin(row: TakenRow | QueuedRow, payloads: Payloads) -> Origin:
    """Whose workflow it is, and what asked for it. Raises `UnreadablePayloadError`."""
    request = row.request
    if request is not None:
        request = opened_request(request, payloads, f"workflow {row.workflow_id}")
    return Origin(row.user, row.role, row.roles, request)


def opened_record(row: AcquiredRow, payloads: Payloads) -> Record:
    """The record a row was made of, sealed or not.

    Raises:
        UnreadablePayloadError: It is sealed and cannot be opened.
        ValueError: The row was not written by this program.
    """
    where = f"workflow {row.workflow_id}"
    return record_of(opened_request(row.request, payloads, where), payloads.open(row.inputs, f"{where}: inputs"))


def opened_history(rows: Sequence[CheckpointRow], payloads: Payloads) -> list[CheckpointRow]:
    """Checkpoints with their texts as they were recorded. Raises `UnreadablePayloadError`."""
    return [
        row._replace(
            output=payloads.open_if(row.output, f"{_step(row)}: output"),
            error=payloads.open_if(row.error, f"{_step(row)}: error"),
        )
        for row in rows
    ]


def sealed_values(texts: Sequence[str], seal: Seal | None) -> Sequence[str]:
    """Messages, events and values of streams on their way to their rows."""
    return texts if seal is None else [seal(text) for text in texts]


def sealed_checkpoint(checkpoint: Checkpoint, seal: Seal) -> Checkpoint:
    """A checkpoint on its way to its row."""
    output, error = checkpoint.output, checkpoint.error
    return checkpoint._replace(
        output=None if output is None else seal(output), error=None if error is None else seal(error)
    )


def outcome(ending: Ending | None, seal: Seal | None) -> tuple[str | None, str | None]:
    """The columns `output` and `error` of an ending: sealed once, for its dead letter has the same (P7)."""
    if ending is None:
        return None, None
    if seal is None:
        return ending.output, ending.error
    if ending.sealed is None:
        output, error = ending.output, ending.error
        ending.sealed = None if output is None else seal(output), None if error is None else seal(error)
    return ending.sealed


def sealed_record(
    record: Record | None, stored_headers: frozenset[str], payloads: Payloads
) -> tuple[bytes | None, bytes | None, str]:
    """Key, value and headers of a dead letter. Only where payloads are sealed."""
    assert payloads.seal is not None, "asked only then"
    if record is None:
        return None, None, payloads.seal("[]").lstrip()
    kept = tuple(header for header in record.headers if header[0] in stored_headers)
    return (
        None if record.key is None else payloads.seal_bytes(record.key),
        None if record.value is None else payloads.seal_bytes(record.value),
        payloads.seal(headers_text(kept)).lstrip(),
    )


def opened_letter(letter: StoredLetter, payloads: Payloads, where: str) -> StoredLetter:
    """A dead letter as it was, sealed or not. Raises `UnreadablePayloadError`."""
    error = payloads.open(letter.error, f"{where}: error")
    if letter.headers is None or not letter.headers.startswith("{"):
        return letter._replace(error=error)
    headers = payloads.open(from_member(json.loads(letter.headers)["sealed"]), f"{where}: headers")
    return StoredLetter(
        letter.dead_letter_id,
        None if letter.key is None else payloads.open_bytes(letter.key, f"{where}: key"),
        None if letter.value is None else payloads.open_bytes(letter.value, f"{where}: value"),
        None if headers == "[]" else headers,
        error,
    )


def sealed_letter(letter: StoredLetter, payloads: Payloads) -> StoredLetter:
    """A readable dead letter as it is sealed."""
    seal = payloads.seal
    assert seal is not None, "asked only then"
    return StoredLetter(
        letter.dead_letter_id,
        None if letter.key is None else payloads.seal_bytes(letter.key),
        None if letter.value is None else payloads.seal_bytes(letter.value),
        seal(letter.headers or "[]").lstrip(),
        seal(letter.error),
    )


def letter_key_id(letter: StoredLetter) -> str | None:
    """The key a dead letter is sealed with."""
    if letter.headers is None or not letter.headers.startswith("{"):
        return None
    return key_id_of(from_member(json.loads(letter.headers)["sealed"]))


def _object(request: str) -> dict[str, Any]:
    """A `request` of ours; nothing of one that another program wrote."""
    try:
        found: Any = json.loads(request)
    except ValueError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) and ("topic" in found or "method" in found) else {}


def _step(row: CheckpointRow) -> str:
    return f"workflow {row.workflow_id}: step {row.function_id} {row.name!r}"
