"""The client's own (de)serializers, as `processor` uses them: plain values in and out, no waiting, no payload in a message.

    Avro          dict (or whatever the schema is of) ◀─▶ fastavro
    JSON Schema   what JSON holds                     ◀─▶ jsonschema
    Protobuf      a message of a generated class      ◀─▶ protobuf

Read are both framings: magic 0 and the schema's ID, or magic 1 and its GUID, in front of the payload; or the GUID in the
header `__value_schema_id`. Written is magic 0 with the ID, which every reader knows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final

from consumers.registry import Registry, RegistryRefusedError
from consumers.registry_client import needing
from consumers.settings import RegistrySettings, SubjectNames
from engine.errors import NotYet
from engine.records import Headers

SCHEMA_HEADER: Final = "__value_schema_id"
"""Where a producer may put the GUID of the schema of a record's value."""

_FRAME: Final = "it does not begin with a schema's ID (magic 0 or 1), nor has it one in a header"


class SerdeError(ValueError):
    """Bytes that are not of the format, or a value that its schema does not take. The message has nothing of a payload."""


class FormatName(Enum):
    """A format, and what brings what it needs."""

    AVRO = "avro"
    JSON_SCHEMA = "jsonschema"
    PROTOBUF = "protobuf"


@dataclass(frozen=True, slots=True)
class Writing:
    """How a topic's schema stands in the registry.

    Attributes:
        names: How its subject is called; `None`: as the settings say.
        registers: Whether it is registered where it is not there; `None`: as the settings say.
    """

    names: SubjectNames | None = None
    registers: bool | None = None

    def config(self, settings: RegistrySettings) -> dict[str, Any]:
        """For a serializer."""
        return {
            "auto.register.schemas": settings.registers if self.registers is None else self.registers,
            "normalize.schemas": settings.normalizes,
            **self.naming(settings),
        }

    def naming(self, settings: RegistrySettings) -> dict[str, Any]:
        """For a deserializer, which names the subject to the registry."""
        return {"subject.name.strategy.type": (self.names or settings.subject_names).value.upper()}


@dataclass(frozen=True, slots=True)
class Serde:
    """One topic's format on one registry. Both ways raise `NotYet` while the registry has not answered."""

    read: Callable[[bytes, Any], Any]
    write: Callable[[Any, Any], bytes | None] | None

    def decode(self, value: bytes, *, topic: str, headers: Headers) -> Any:
        """The plain value. Raises `SerdeError` for bytes that are not of the format, or of a schema that nobody has."""
        try:
            return self.read(value, _context(topic, headers))
        except NotYet:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the libraries raise about bytes is the bytes' fault
            problem = _problem(error)
        # Outside of the except block: the library's error, which may hold the payload, must not be its __context__.
        raise SerdeError(problem)

    def encode(self, value: Any, *, topic: str) -> bytes:
        """The framed bytes. Raises `SerdeError` for a value or a schema that is refused."""
        assert self.write is not None, "a topic that cannot be written to says so before"
        try:
            written = self.write(value, _context(topic, ()))
        except NotYet:
            raise
        except Exception as error:  # noqa: BLE001  # as above
            problem = _text(error)
        else:
            assert written is not None, "a value was given"
            return written
        raise SerdeError(problem)


def check_installed(name: FormatName) -> None:
    """Raise `ConfigurationError` where a format's extra is missing."""
    needing(name.value, _CLASSES[name])


def avro(registry: Registry, *, schema: str | None, writing: Writing) -> Serde:
    """Avro. `schema` is read into, and written with; without one, what was written is what is read.

    Raises `ConfigurationError` where the extra is missing, `SerdeError` for a schema that is none.
    """
    reads, writes = needing(FormatName.AVRO.value, _avro_classes)
    settings = registry.settings
    return _made(
        lambda: _framed(reads(registry.answers, schema, conf=writing.naming(settings))),
        schema and partial(writes, registry.answers, schema, conf=writing.config(settings)),
    )


def json_schema(registry: Registry, *, schema: str | None, validates: bool, writing: Writing) -> Serde:
    """JSON Schema. `schema` is written with; read is with the schema that the record was written with.

    Raises `ConfigurationError` where the extra is missing, `SerdeError` for a schema that is none.
    """
    reads, writes = needing(FormatName.JSON_SCHEMA.value, _json_classes)
    settings = registry.settings
    conf = {"validate": validates, **writing.naming(settings)}
    return _made(
        partial(reads, None, schema_registry_client=registry.answers, conf=conf),
        schema and partial(writes, schema, registry.answers, conf=writing.config(settings)),
    )


def protobuf(registry: Registry, *, message: type[Any], writing: Writing) -> Serde:
    """Protobuf, of a generated class. Raises `ConfigurationError` where the extra is missing."""
    reads, writes = needing(FormatName.PROTOBUF.value, _protobuf_classes)
    settings = registry.settings
    return _made(
        partial(reads, message, schema_registry_client=registry.answers, conf=writing.naming(settings)),
        partial(writes, message, registry.answers, conf=writing.config(settings)),
    )


def is_message_class(candidate: object) -> bool:
    """Whether it is a generated Protobuf class. Raises `ConfigurationError` where the extra is missing."""

    def message() -> Any:
        from google.protobuf.message import Message

        return Message

    return isinstance(candidate, type) and issubclass(candidate, needing(FormatName.PROTOBUF.value, message))


def message_to_json(message: Any) -> str:
    """A message in Protobuf's JSON mapping: names as in the .proto, unset fields with their defaults."""
    from google.protobuf import json_format

    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    )


def json_to_message(text: bytes, message: type[Any]) -> Any:
    """A message of a class from Protobuf's JSON mapping. Raises `SerdeError` for a field or value that it has not."""
    from google.protobuf import json_format

    try:
        return json_format.Parse(text, message())
    except json_format.ParseError as error:
        problem = _text(error)
    raise SerdeError(problem)


def _avro_classes() -> Any:
    from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer

    return AvroDeserializer, AvroSerializer


def _json_classes() -> Any:
    from confluent_kafka.schema_registry.json_schema import JSONSerializer

    from consumers.registry_json import OfflineDeserializer

    return OfflineDeserializer, JSONSerializer


def _protobuf_classes() -> Any:
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer

    return ProtobufDeserializer, ProtobufSerializer


_CLASSES: Mapping[FormatName, Callable[[], Any]] = {
    FormatName.AVRO: _avro_classes,
    FormatName.JSON_SCHEMA: _json_classes,
    FormatName.PROTOBUF: _protobuf_classes,
}


def _framed(read: Callable[[bytes, Any], Any]) -> Callable[[bytes, Any], Any]:
    """The client's Avro takes nothing of less than 6 bytes, also where the schema's GUID is in a header and not among them.

    It is put there: what the header holds is what would stand in front.
    """

    def framed(value: bytes, context: Any) -> Any:
        for name, guid in context.headers:
            if name == SCHEMA_HEADER and guid:
                return read(guid + value, _context(context.topic, ()))
        return read(value, context)

    return framed


def _made(read: Callable[[], Any], write: Callable[[], Any] | str | None) -> Serde:
    try:
        return Serde(read(), write() if callable(write) else None)
    except NotYet:
        raise
    except Exception as error:
        raise SerdeError(f"the schema is none: {type(error).__name__}: {error}") from error


def _context(topic: str, headers: Headers) -> Any:
    from confluent_kafka.serialization import MessageField, SerializationContext

    return SerializationContext(topic, MessageField.VALUE, list(headers))


def _problem(error: Exception) -> str:
    """What is wrong with bytes, without any of them."""
    from confluent_kafka.serialization import SerializationError

    name = type(error).__name__
    if isinstance(error, RegistryRefusedError):
        return str(error)
    if (cause := error.__context__) is not None and type(cause).__module__.startswith("jsonschema"):
        # Its message has the value.
        path = ".".join(str(part) for part in getattr(cause, "absolute_path", ()))
        return f"{path or 'the value as a whole'}: its schema has another '{getattr(cause, 'validator', '')}'"
    if isinstance(error, SerializationError):
        text = _text(error)
        return _FRAME if "magic" in text or "framing" in text else text
    if name == "error" and type(error).__module__ == "struct":
        return _FRAME
    return f"it cannot be read with its schema ({name})"


def _text(error: Exception) -> str:
    return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:500]
