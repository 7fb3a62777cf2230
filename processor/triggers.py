r"""What starts a workflow. A topic is a typed value: its events, its order, and what of it is passed over.

orders = Topic("orders.placed", OrderPlaced)
orders = Topic(r"^orders\..*", OrderPlaced, order_by=lambda order: order.customer_id, headers=("traceparent",))

Making one contacts nobody.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, TypeVar, cast, overload

from engine.errors import ConfigurationError
from engine.handlers import Decision
from engine.outgoing import is_topic_name
from processor.codec import Codec, UnencodableTypeError, codec_for, type_name
from processor.formats import RegistryFormat
from processor.options import check_takes_one
from processor.policies import Ordering
from processor.record_identity import FromHeaders
from processor.records import RawRecord

E = TypeVar("E")
M = TypeVar("M")

Key = str | bytes | int | None
"""A key as users give it: text is UTF-8, a number its decimal digits, `None` no key."""


class Topic(Generic[E]):
    """A Kafka topic, or all whose names match a pattern, and the type of its events.

    Attributes:
        name: Of the topic; a name that begins with `^` is a regular expression for whole names. (Kafka's classic
            groups search with it, the new protocol's match all of it: one that ends in `.*` means the same to both.)
        model: What an event is: a pydantic model, dataclass, typed dict; `bytes` and `str` for what is no JSON.
        key: Key under which an event is written to the topic by this program.
        order_by: Ordering key of an event, instead of the record's own key. Tombstones keep the record's key.
        ordering: What runs in order (I7).
        tombstone: Records without a value: 'skip' passes them over and counts them; 'deliver' gives the handler
            `None` for an event.
        where: Which records are handled; the others are passed over and counted (I1). It sees the record with all
            of its headers before it is decoded, and must depend on nothing else: a record may be asked about again.
            An exception of it is a failure of the record, never a pass.
        headers: Names of headers that are stored and shown to the handler. Others may hold secrets and are not.
        identity: Which headers say whose a record is; they are stored as well. `None`: records are nobody's.
        codec: Bytes to event and back: JSON unless `format=` says another; `Avro()`, `JsonSchema()` and `Protobuf()` are
            those of a schema registry.
    """

    @overload
    def __init__(
        self: "Topic[M]",
        name: str,
        model: type[M],
        *,
        key: Callable[[M], Key] | None = None,
        order_by: Callable[[M], Key] | None = None,
        ordering: Ordering = Ordering.KEY,
        tombstone: Literal["skip"] = "skip",
        where: Callable[[RawRecord], bool] | None = None,
        headers: Iterable[str] = (),
        identity: FromHeaders | None = None,
        format: Codec[M] | RegistryFormat | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Topic[M | None]",
        name: str,
        model: type[M],
        *,
        key: Callable[[M], Key] | None = None,
        order_by: Callable[[M], Key] | None = None,
        ordering: Ordering = Ordering.KEY,
        tombstone: Literal["deliver"],
        where: Callable[[RawRecord], bool] | None = None,
        headers: Iterable[str] = (),
        identity: FromHeaders | None = None,
        format: Codec[M] | RegistryFormat | None = None,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        model: type[Any],
        *,
        key: Callable[[Any], Key] | None = None,
        order_by: Callable[[Any], Key] | None = None,
        ordering: Ordering = Ordering.KEY,
        tombstone: Literal["skip", "deliver"] = "skip",
        where: Callable[[RawRecord], bool] | None = None,
        headers: Iterable[str] = (),
        identity: FromHeaders | None = None,
        format: Codec[Any] | RegistryFormat | None = None,  # noqa: A002  # the user's word for it; nothing here formats
    ) -> None:
        """Raises `ConfigurationError` for a name Kafka has not, a model no codec decodes, or options at odds."""
        _check_name(name)
        if not isinstance(cast("object", ordering), Ordering):
            raise ConfigurationError(
                f"topic {name!r}: ordering={ordering!r}; there are {', '.join(map(str, Ordering))}"
            )
        check_takes_one(f"topic {name!r}", "the event", key=key, order_by=order_by)
        check_takes_one(f"topic {name!r}", "the record", where=where)
        if order_by is not None and ordering is not Ordering.KEY:
            raise ConfigurationError(
                f"topic {name!r}: order_by= names the key for Ordering.KEY; {ordering} would not look at it"
            )
        if tombstone not in ("skip", "deliver"):
            raise ConfigurationError(f"topic {name!r}: tombstone={tombstone!r}: 'skip' or 'deliver'")
        if isinstance(headers, str):
            raise ConfigurationError(f"topic {name!r}: headers={headers!r}: a tuple of names, as ({headers!r},)")
        self.name = name
        self.model = model
        self.key = key
        self.order_by = order_by
        self.ordering: Ordering = ordering
        self.tombstone: Literal["skip", "deliver"] = tombstone
        self.where = where
        self.headers = frozenset(headers)
        self.identity = _checked(name, identity)
        self.codec: Codec[Any] = _codec(name, model, format)

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for every topic that matches it."""
        return self.name.startswith("^")

    @property
    def stored_headers(self) -> frozenset[str]:
        """Names of the headers that are stored: those for the handler, and what the codec reads."""
        of_identity = frozenset[str]() if self.identity is None else self.identity.headers
        return self.headers | of_identity | getattr(self.codec, "headers", frozenset[str]())

    def covers(self, other: str) -> bool:
        """Whether records of topic `other` are this topic's. For two patterns: whether they are the same."""
        if self.is_pattern and not other.startswith("^"):
            return re.fullmatch(self.name, other) is not None
        return self.name == other

    def encode(self, event: E) -> tuple[bytes | None, bytes | None]:
        """Key and value under which this program writes an event: `None` for a tombstone's value."""
        if event is None:
            return None, None
        key = None if self.key is None else key_bytes(self.key(event))
        return key, self.codec.encode(event)

    def decide(self, record: RawRecord) -> Decision | None:
        """Why a record has no workflow, or `None`: it has one. Asked before it is decoded."""
        if record.value is None and self.tombstone == "skip":
            return Decision.TOMBSTONE
        if self.where is not None and not self.where(record):
            return Decision.FILTERED
        return None

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, {type_name(self.model)})"


def _checked(name: str, identity: object) -> FromHeaders | None:
    if identity is not None and not isinstance(identity, FromHeaders):
        raise ConfigurationError(f"topic {name!r}: identity={identity!r}; it takes FromHeaders('user', roles='roles')")
    return identity


def key_bytes(key: object) -> bytes | None:
    """A key as Kafka has it. Raises `TypeError` for what is no key."""
    if key is None or isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, int):
        return str(key).encode()
    raise TypeError(f"a key is str, bytes, int or None, not {type(key).__name__}")


def _codec(name: str, model: type[Any], format: Codec[Any] | RegistryFormat | None) -> Codec[Any]:  # noqa: A002  # as above
    try:
        if format is None:
            return codec_for(model)
        return format.codec(name, model) if isinstance(format, RegistryFormat) else format
    except UnencodableTypeError as error:
        raise ConfigurationError(
            f"topic {name!r}: {error}\n"
            f"  Give a pydantic model, a dataclass or a typed dict; bytes or str for payloads that are no JSON;\n"
            f"  or format=, a codec of your own."
        ) from None


def _check_name(name: str) -> None:
    if name.startswith("^"):
        try:
            re.compile(name)
        except re.error as error:
            raise ConfigurationError(f"topic {name!r} is no regular expression: {error}") from None
    elif not is_topic_name(name):
        raise ConfigurationError(
            f"topic {name!r}: a topic's name has letters, digits, '.', '_' and '-', at most 249 of them.\n"
            f"  A pattern for several topics begins with '^'."
        )
