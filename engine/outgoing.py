"""Events on their way out: encoded and checked at the call of `publish`, kept until their transaction ends. Pure.

    publish ──▶ Outgoing ──▶ Publications of a transaction ──▶ rows of the outbox, its last statements before COMMIT

Last, because the rows' numbers are then drawn in the order in which transactions of one key commit (decision 0008), and
because a transaction that is rolled back has sent nothing.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, cast

from engine.errors import ConfigurationError, EngineError, NotYet
from engine.failures import summary
from engine.records import Headers

if TYPE_CHECKING:
    from engine.tracing import Tracing

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)

EVENT_BYTES_MAX: Final = 1_000_000
"""Key, value and headers of one event. Brokers take 1,048,588 bytes a batch (`message.max.bytes`), its frame included."""

PUBLISHED_MAX: Final = 100_000
PUBLISHED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one transaction: they are in memory until it ends."""

HeaderValue = str | bytes | None
GivenHeaders = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]
"""Headers as users give them: text is UTF-8."""

_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")  # Kafka's own rule


class PublishError(EngineError):
    """An event is refused at the call that publishes it; nothing of it is kept. The message names the topic and why.

    It is the handler's failure, as any other exception of its code.
    """


class EventTopic(Protocol[E_contra]):
    """Where events of a type are published. What `processor.Topic` is to the engine."""

    @property
    def name(self) -> str:
        """Kafka's name of it."""
        ...

    def encode(self, event: E_contra) -> tuple[bytes | None, bytes | None]:
        """Key and value. Whatever it raises refuses the event."""
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event as Kafka will have it.

    Attributes:
        topic: Its topic.
        key: Events with the same one stay in order; `None`: in none.
        value: `None`: a tombstone.
        headers: In order; a name may come twice.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size(self) -> int:
        """Bytes of its parts."""
        parts = (self.key, self.value, *(value for _, value in self.headers))
        return sum(len(part) for part in parts if part) + sum(len(name) for name, _ in self.headers)


def is_topic_name(name: str) -> bool:
    """Whether Kafka can have a topic of this name."""
    return _TOPIC.fullmatch(name) is not None and name not in (".", "..")


def outgoing(
    topic: EventTopic[E],
    event: E,
    *,
    headers: GivenHeaders = (),
    key: bytes | str | None = None,
    bytes_max: int = EVENT_BYTES_MAX,
    tracing: Tracing | None = None,
) -> Outgoing:
    """Encode an event, and refuse what could not be published.

    Args:
        topic: Its topic, by name.
        event: Of the topic's type; `None`: a tombstone, which wants its `key`.
        headers: Its headers.
        key: Instead of the topic's `key=`.
        bytes_max: Most bytes of key, value and headers.
        tracing: Puts the context of its trace into the headers.

    Raises:
        PublishError: It cannot be encoded, is too large, or its topic is no topic.
        NotYet: What encoding needs is not here yet.
    """
    name = topic.name
    if not is_topic_name(name):
        what = "a pattern stands for many topics" if name.startswith("^") else "Kafka has no topic of this name"
        raise PublishError(f"topic {name!r}: {what}; publish to one by its name")
    try:
        own_key, value = topic.encode(event)
    except NotYet:
        raise
    except Exception as error:  # the user's codec and `key=`: whatever they raise is about this event
        raise PublishError(f"topic {name!r}: the {type(event).__name__} cannot be encoded: {summary(error)}") from error
    chosen = own_key if key is None else key.encode() if isinstance(key, str) else key
    for what, part in (("key", chosen), ("value", value)):
        if not _is_bytes(part):
            raise PublishError(f"topic {name!r}: its {what} was encoded as {type(part).__name__}, which is not bytes")
    if value is None and chosen is None:
        raise PublishError(f"topic {name!r}: a tombstone says which key it deletes: publish(topic, None, key=...)")
    sent = _headers(name, headers)
    if tracing is not None:
        sent = tracing.publishing(name, sent)
    made = Outgoing(name, chosen, value, sent)
    if made.size > bytes_max:
        raise PublishError(
            f"topic {name!r}: the {type(event).__name__} has {made.size} bytes with key and headers, and "
            f"outbox.event_bytes_max is {bytes_max}.\n"
            f"  Brokers refuse what is larger than their message.max.bytes, and its topic would stand still: raise both,\n"
            f"  or publish where the data is instead of the data."
        )
    return made


def _headers(topic: str, given: GivenHeaders) -> Headers:
    pairs = cast("Iterable[tuple[str, HeaderValue]]", given.items() if isinstance(given, Mapping) else given)
    made: list[tuple[str, bytes | None]] = []
    for name, value in pairs:
        if not _is_header_name(name):
            raise PublishError(f"topic {topic!r}: {name!r} is no name of a header: text, not empty, without NUL")
        if not _is_header_value(value):
            raise PublishError(
                f"topic {topic!r}: header {name!r} is {type(value).__name__}; it takes str, bytes or None"
            )
        made.append((name, value.encode() if isinstance(value, str) else value))
    return tuple(made)


def _is_bytes(part: object) -> bool:
    return part is None or isinstance(part, bytes)


def _is_header_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "\0" not in name


def _is_header_value(value: object) -> bool:
    return value is None or isinstance(value, str | bytes)


def headers_column(headers: Headers) -> str | None:
    """Headers as the row has them: values in base64, since they are bytes of any kind."""
    if not headers:
        return None
    return json.dumps([[name, None if value is None else b64encode(value).decode()] for name, value in headers])


class Publications:
    """What one transaction publishes, in order, until its end.

    Args:
        schema, seal: Where messages go that it sends, and how their texts are written.
        tracing: Puts the context of a trace into the headers of its events.
        refused_because: Why nothing can be published in it, where that is so.
    """

    def __init__(
        self,
        *,
        bytes_max: int = EVENT_BYTES_MAX,
        schema: str = "dbos",
        seal: Callable[[str], str] | None = None,
        refused_because: str | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.bytes_max = bytes_max
        self.tracing = tracing
        self.schema = schema
        self.seal = seal
        self._refused_because = refused_because
        self._events: list[Outgoing] = []
        self._bytes = 0
        self._savepoints: list[tuple[str, int]] = []

    @property
    def events(self) -> Sequence[Outgoing]:
        """In the order in which they were published."""
        return self._events

    @property
    def has_savepoints(self) -> bool:
        """Whether there is one to roll back to."""
        return bool(self._savepoints)

    def require_writable(self) -> None:
        """Raise `ConfigurationError` where the transaction can write nothing."""
        if self._refused_because is not None:
            raise ConfigurationError(f"{self._refused_because}: it cannot send")

    def check(self, event: Outgoing) -> None:
        """Raise `PublishError` where the transaction can have none, or has too many."""
        if self._refused_because is not None:
            raise PublishError(f"topic {event.topic!r}: {self._refused_because}")
        if len(self._events) >= PUBLISHED_MAX or self._bytes + event.size > PUBLISHED_BYTES_MAX:
            raise PublishError(
                f"topic {event.topic!r}: the transaction has published {len(self._events)} events of {self._bytes} bytes,\n"
                f"  and at most {PUBLISHED_MAX} of {PUBLISHED_BYTES_MAX} bytes can be in one"
            )

    def add(self, event: Outgoing) -> None:
        """Keep one. Raises as `check`."""
        self.check(event)
        self._events.append(event)
        self._bytes += event.size

    def savepoint(self, name: str) -> None:
        """What follows can be rolled back to here."""
        self._savepoints.append((name, len(self._events)))

    def roll_back_to(self, name: str) -> None:
        """What was published since the newest savepoint of this name never was. The savepoint stays, as in Postgres."""
        for place in range(len(self._savepoints) - 1, -1, -1):
            known, count = self._savepoints[place]
            if known == name:
                del self._savepoints[place + 1 :]
                self._bytes -= sum(event.size for event in self._events[count:])
                del self._events[count:]
                return
