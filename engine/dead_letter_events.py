"""Dead letters for a topic (`DeadLetter(topic=…)`): the record's own bytes, and headers that say whence and why. Pure.

The names of the headers are those of Spring for Kafka, which tools know; numbers are big-endian, as there. Of the record's
own headers those on its topic's allow-list go along, as they are stored: others may hold secrets, and a workflow that was
recovered does not have them.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final

from engine.outgoing import Outgoing
from engine.policies import DeadLetter

if TYPE_CHECKING:
    from engine.flush import Work
    from engine.records import Headers
    from engine.runner import Ending

PREFIX: Final = "kafka_dlt-"
OURS: Final = "processor-"


def dead_letter_event(work: Work) -> Outgoing | None:
    """What is published of a workflow that failed for good; `None`: its policy names no topic, or no record started it."""
    run, ending = work.run, work.ending
    policy = run.handler.on_failure
    if ending is None or not ending.reason or not isinstance(policy, DeadLetter) or policy.topic is None:
        return None
    record = run.record
    if record is None:
        return None
    kept = tuple(header for header in record.headers if header[0] in run.handler.stored_headers)
    ref = run.inbox.source.ref
    whence: Headers = (
        (f"{PREFIX}original-topic", record.topic.encode()),
        (f"{PREFIX}original-partition", struct.pack(">i", record.partition)),
        (f"{PREFIX}original-offset", struct.pack(">q", record.offset)),
        (f"{PREFIX}original-timestamp", struct.pack(">q", record.timestamp_ms)),
        (f"{PREFIX}original-consumer-group", ref.group.encode()),
    )
    ours: Headers = (
        (f"{OURS}reason", ending.reason.encode()),
        (f"{OURS}handler", run.handler.name.encode()),
        (f"{OURS}workflow", run.id.encode()),
    )
    if (tracing := run.home.engine.tracing) is not None:
        kept = tracing.burying(run, kept)
    return Outgoing(policy.topic, record.key, record.value, kept + whence + _why(ending) + ours)


def _why(ending: Ending) -> Headers:
    error: dict[str, Any] = json.loads(ending.error or "{}")
    said: list[tuple[str, bytes | None]] = [
        (f"{PREFIX}exception-fqcn", _class(error)),
        (f"{PREFIX}exception-message", str(error.get("message", "")).encode()),
    ]
    if (cause := error.get("cause")) is not None:
        said.append((f"{PREFIX}exception-cause-fqcn", _class(cause)))
    return tuple(said)


def _class(error: dict[str, Any]) -> bytes:
    return str(error.get("type", "unknown")).replace(":", ".").encode()
