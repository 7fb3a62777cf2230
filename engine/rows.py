"""What a record looks like in its row, and back. Pure.

`inputs` is `{"args": [payload], "kwargs": {}}`: a JSON payload's text stands there as it came, never re-encoded, so
that recovery hands the handler the same bytes. Anything else is `{"base64": "…"}`, and `request` says so.
`request` has the coordinates, the key, the timestamp, and the headers on the allow-list. Inputs that are too large for the row
are put elsewhere, and found again, by the statements (engine/store/workflow_status.py).
"""

import json
from base64 import b64decode, b64encode
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from engine.records import UNREADABLE_HEADERS, Headers, Record

_HEAD, _TAIL = '{"args": [', '], "kwargs": {}}'


def row_texts(record: Record, *, embeds_json: bool, stored_headers: frozenset[str]) -> tuple[str, str]:
    """The row's `request` and `inputs`."""
    key, value = record.key, record.value
    request = (
        f'{_place(record.topic, record.partition)}"offset": {record.offset}, "timestamp": {record.timestamp_ms}, '
        f'"key": {"null" if key is None else bytes_text(key)}'
    )
    if record.leader_epoch is not None:
        request += f', "leader_epoch": {record.leader_epoch}'
    payload: str | None = None
    if value is None:
        request, payload = request + ', "tombstone": true', "null"
    elif embeds_json and b"\x00" not in value:
        try:  # `suppress` would cost every record 0.3 µs
            payload = value.decode()
        except UnicodeDecodeError:
            payload = None
    if payload is None:
        request, payload = request + ', "encoding": "base64"', f'{{"base64": "{b64encode(value or b"").decode()}"}}'
    if stored_headers and (kept := _kept(record.headers, stored_headers)):
        request += f', "headers": {headers_text(kept)}'
    return request + "}", f"{_HEAD}{payload}{_TAIL}"


@lru_cache(maxsize=4_096)
def _place(topic: str, partition: int) -> str:
    return f'{{"topic": {quoted(topic)}, "partition": {partition}, '


def allowed(headers: Headers, names: frozenset[str]) -> Headers:
    """The headers on the allow-list, in their order. Raises `ValueError` where the client could not read them."""
    if headers == UNREADABLE_HEADERS:
        raise ValueError("a header's name is not UTF-8")
    return _kept(headers, names)


def _kept(headers: Headers, names: frozenset[str]) -> Headers:
    return tuple(header for header in headers if header[0] in names)


def headers_text(headers: Headers) -> str:
    """Headers as JSON: values in base64, since they are bytes of any kind."""
    return json.dumps([[name, None if value is None else b64encode(value).decode()] for name, value in headers])


def is_of_record(request: str) -> bool:
    """Whether a row's `request` says that a record asked for it."""
    return request.startswith('{"topic": ')


def record_of(request: str, inputs: str) -> Record:
    """The record a row was made of, less the headers that were not stored.

    Raises `ValueError` if the row was not written by `row_texts`.
    """
    stored: dict[str, Any] = json.loads(request)
    if stored.get("tombstone"):
        value = None
    elif inputs.startswith(_HEAD) and inputs.endswith(_TAIL):
        text = inputs[len(_HEAD) : -len(_TAIL)]
        value = b64decode(json.loads(text)["base64"]) if stored.get("encoding") == "base64" else text.encode()
    else:
        # Written by another client of the tables: the same value, its own spelling.
        value = json.dumps(json.loads(inputs)["args"][0]).encode()
    return Record(
        topic=stored["topic"],
        partition=stored["partition"],
        offset=stored["offset"],
        key=bytes_of(stored["key"]),
        value=value,
        timestamp_ms=stored["timestamp"],
        headers=tuple((name, None if v is None else b64decode(v)) for name, v in stored.get("headers", ())),
        leader_epoch=stored.get("leader_epoch"),
    )


def bytes_text(key: bytes) -> str:
    """A key as JSON: text where it is text."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return f'{{"base64": "{b64encode(key).decode()}"}}'
    return quoted(text)


def bytes_of(stored: Any) -> bytes | None:
    """The key of such JSON."""
    if stored is None:
        return None
    return stored.encode() if isinstance(stored, str) else b64decode(stored["base64"])
