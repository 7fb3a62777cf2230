r"""Formats of a schema registry: `Topic("orders", Order, format=Avro())`. The pydantic side of them.

    record ─▶ serde of consumers ─▶ dict or message ─▶ model        event ─▶ dict or message ─▶ serde ─▶ bytes

A format is only said in a `Topic`; making one contacts nobody. The registry is the process's (`processor.schema_registry`).
While it has not answered, both ways raise `NotYet`; an app's partitions then wait (docs/guides/formats.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import TypeAdapter

from engine.errors import ConfigurationError
from engine.handlers import UndecodableError
from processor.codec import Codec, adapted, problem_of, type_name
from processor.records import RawRecord
from processor.schema_registry import connected

if TYPE_CHECKING:
    from consumers.registry import Registry
    from consumers.serdes import Serde, Writing
    from consumers.settings import RegistrySettings

E = TypeVar("E")

SubjectNames = Literal["topic", "record", "topic_record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Avro:
    """Avro, with the schema that a record names.

    Attributes:
        schema: As JSON text: what records are read into (fields get their defaults, aliases their names), and what is
            written with. Without it records are read as they were written, and nothing can be published.
        subject_names: How the schema's subject is called: `orders-value` ('topic'), the record's name in the schema
            ('record'), or `orders-` and that name. Default: `registry.subject_names`.
        register: Whether the schema is registered where it is not there; else that is an error. Default: `registry.register_schemas`.
    """

    schema: str | None = None
    subject_names: SubjectNames | None = None
    register: bool | None = None

    def codec(self, topic: str, model: type[Any]) -> Codec[Any]:
        """The topic's codec. Raises `ConfigurationError` for a schema that is none, or a missing extra."""
        _check_installed("avro")
        if self.schema is not None:
            _check_json(f"topic {topic!r}: Avro(schema=...)", self.schema)
        return _AvroCodec(topic, self, _Model(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """JSON with a schema in the registry.

    Attributes:
        schema: What is written with, as JSON text. Default: the model's own JSON Schema.
        validate: Whether records are held against the schema that they name, before the model sees them. The model
            validates anyhow; jsonschema takes most of the time there is.
        subject_names: As for `Avro`; a record's name is its schema's `title`.
        register: As for `Avro`.
    """

    schema: str | None = None
    validate: bool = True
    subject_names: SubjectNames | None = None
    register: bool | None = None

    def codec(self, topic: str, model: type[Any]) -> Codec[Any]:
        """The topic's codec. Raises `ConfigurationError` for a schema that is none, or a missing extra."""
        _check_installed("jsonschema")
        if self.schema is not None:
            _check_json(f"topic {topic!r}: JsonSchema(schema=...)", self.schema)
        return _JsonSchemaCodec(topic, self, _Model(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class Protobuf:
    """Protobuf, of classes that `protoc` generated.

    Attributes:
        message: The class, where the topic's model is another: events are then read by Protobuf's JSON mapping (names as
            in the .proto, 64-bit integers and bytes as text, enums by name), and written by it. Default: the topic's model.
        subject_names: As for `Avro`; a record's name is its message's full one.
        register: As for `Avro`; files that it imports are registered with it.
    """

    message: type[Any] | None = None
    subject_names: SubjectNames | None = None
    register: bool | None = None

    def codec(self, topic: str, model: type[Any]) -> Codec[Any]:
        """The topic's codec. Raises `ConfigurationError` for what is no generated class, or a missing extra."""
        from consumers.serdes import is_message_class

        _check_installed("protobuf")
        message = model if self.message is None else self.message
        if not is_message_class(message):
            raise ConfigurationError(
                f"topic {topic!r}: {type_name(message)} is no class that protoc generated.\n"
                f"  Give one for the topic's model, or as Protobuf(message=...)"
            )
        return _ProtobufCodec(topic, self, None if message is model else _Model(model), message)


RegistryFormat = Avro | JsonSchema | Protobuf


class RegistryCodec(Generic[E]):
    """A topic's codec that asks the process's registry. Its serde is made at the first use of each registry."""

    embeds_json = False
    headers: ClassVar[frozenset[str]] = frozenset({"__value_schema_id"})
    """Which it reads: they are stored with the record, so that recovery decodes it alike. Handlers do not see them."""
    name: ClassVar[str]

    def __init__(self, topic: str, format: RegistryFormat, model: _Model[E] | None) -> None:  # noqa: A002  # the user's word
        self.topic = topic
        self._format = format
        self._model = model
        self._made: tuple[Registry, Serde] | None = None

    def decode(self, value: bytes, record: RawRecord) -> E:
        """The validated event.

        Raises:
            UndecodableError: The bytes are not of the format, or the model does not take what they say.
            NotYet: The registry has not answered yet.
        """
        from consumers.serdes import SerdeError

        serde = self.serde()
        try:
            plain = serde.decode(value, topic=record.topic, headers=record.headers)
        except SerdeError as error:
            problem = f"not {self.name}: {error}"
        else:
            return self.event(plain, record)
        raise UndecodableError(f"{record}: {problem}")

    def encode(self, event: E) -> bytes:
        """The framed bytes.

        Raises:
            ConfigurationError: The topic cannot be written to: a pattern, no schema, no registry.
            NotYet: The registry has not answered yet.
            ValueError: The schema does not take the event, or the registry does not take the schema.
        """
        serde = self.serde()
        if serde.write is None:
            raise ConfigurationError(f"topic {self.topic!r}: publishing needs its schema: {self.name}(schema=...)")
        if self.topic.startswith("^"):
            raise ConfigurationError(f"topic {self.topic!r}: a pattern; publish to a topic by its name")
        return serde.encode(self.plain(event), topic=self.topic)

    def event(self, plain: Any, record: RawRecord) -> E:
        """The event of a plain value. Raises `UndecodableError`."""
        raise NotImplementedError

    def plain(self, event: E) -> Any:
        """What the serde takes for an event."""
        raise NotImplementedError

    def made_on(self, registry: Registry) -> Serde:
        """The serde on a registry. Raises `SerdeError` for a schema that is none."""
        raise NotImplementedError

    def check(self, registry: Registry) -> None:
        """Raise `ConfigurationError` where no serde can be made of it. Contacts nobody."""
        from consumers.serdes import SerdeError

        try:
            self.made_on(registry)
        except SerdeError as error:
            raise ConfigurationError(f"topic {self.topic!r}, {self.name}: {error}") from error

    def serde(self) -> Serde:
        """The serde on the process's registry."""
        registry = connected()
        if self._made is None or self._made[0] is not registry:
            self._made = registry, self.made_on(registry)
        return self._made[1]

    def writing(self) -> Writing:
        """How the schema stands in the registry."""
        from consumers.serdes import Writing
        from consumers.settings import SubjectNames as Names

        names = self._format.subject_names
        return Writing(None if names is None else Names(names), self._format.register)


class _Model(Generic[E]):
    """A topic's model, that pydantic validates."""

    def __init__(self, model: type[E]) -> None:
        self._name = type_name(model)
        self.adapter: TypeAdapter[E] = adapted(model)

    def validated(self, plain: Any, record: RawRecord) -> E:
        """The event of Python values. Raises `UndecodableError`."""
        try:
            return self.adapter.validator.validate_python(plain)
        except Exception as error:  # noqa: BLE001  # a user's validator may raise anything; it is this record's fault
            problem = problem_of(error, self._name)
        raise UndecodableError(f"{record}: {problem}")

    def validated_json(self, text: str, record: RawRecord) -> E:
        """The event of JSON text: what a model takes for a date or for bytes is another thing there."""
        try:
            return self.adapter.validator.validate_json(text)
        except Exception as error:  # noqa: BLE001  # as above
            problem = problem_of(error, self._name)
        raise UndecodableError(f"{record}: {problem}")


class _AvroCodec(RegistryCodec[E]):
    name = "Avro"
    _format: Avro
    _model: _Model[E]

    def made_on(self, registry: Registry) -> Serde:
        from consumers.serdes import avro

        return avro(registry, schema=self._format.schema, writing=self.writing())

    def event(self, plain: Any, record: RawRecord) -> E:
        return self._model.validated(plain, record)

    def plain(self, event: E) -> Any:
        # As Python has it: fastavro wants dates, decimals, UUIDs and bytes themselves for their logical types.
        return _without_enums(self._model.adapter.dump_python(event, by_alias=True, warnings="error"))


class _JsonSchemaCodec(RegistryCodec[E]):
    name = "JsonSchema"
    _format: JsonSchema
    _model: _Model[E]

    def made_on(self, registry: Registry) -> Serde:
        from consumers.serdes import json_schema

        schema = self._format.schema or json.dumps(self._model.adapter.json_schema(mode="serialization"))
        return json_schema(registry, schema=schema, validates=self._format.validate, writing=self.writing())

    def event(self, plain: Any, record: RawRecord) -> E:
        try:
            text = json.dumps(plain, allow_nan=False)
        except ValueError:  # the registry's reader takes NaN, and 1e999 for infinity
            text = None
        if text is None:
            raise UndecodableError(f"{record}: not JSON: NaN, Infinity, or a number larger than a float can hold")
        return self._model.validated_json(text, record)

    def plain(self, event: E) -> Any:
        return self._model.adapter.dump_python(event, mode="json", by_alias=True, warnings="error")


class _ProtobufCodec(RegistryCodec[E]):
    name = "Protobuf"
    _format: Protobuf

    def __init__(self, topic: str, format: Protobuf, model: _Model[E] | None, message: type[Any]) -> None:  # noqa: A002  # as above
        super().__init__(topic, format, model)
        self._message = message

    def made_on(self, registry: Registry) -> Serde:
        from consumers.serdes import protobuf

        return protobuf(registry, message=self._message, writing=self.writing())

    def event(self, plain: Any, record: RawRecord) -> E:
        if self._model is None:
            return plain
        from consumers.serdes import message_to_json

        return self._model.validated_json(message_to_json(plain), record)

    def plain(self, event: E) -> Any:
        if self._model is None:
            return event
        from consumers.serdes import json_to_message

        return json_to_message(self._model.adapter.dump_json(event, by_alias=True, warnings="error"), self._message)


# -- at a start --


def check_formats(codecs: Iterable[Codec[Any]], settings: RegistrySettings | None) -> None:
    """Refuse topics of a registry where none is set, or whose schema is none. Contacts nobody.

    Raises:
        ConfigurationError: Says which topic, and what to do.
    """
    wanting = [codec for codec in codecs if isinstance(codec, RegistryCodec)]
    if not wanting:
        return
    if settings is None:
        raise ConfigurationError(f"topic {wanting[0].topic!r} is in {wanting[0].name}: set registry.url")
    from consumers.registry import Registry

    registry = Registry(settings)
    try:
        for codec in wanting:
            codec.check(registry)
    finally:
        registry.close()


# -- small things --


def _check_installed(extra: str) -> None:
    from consumers.serdes import FormatName, check_installed

    check_installed(FormatName(extra))


def _check_json(what: str, text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{what}: the schema is no JSON: {error}") from None


def _without_enums(value: Any) -> Any:
    """Enums by their values: pydantic leaves them, and Avro's symbols are text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _without_enums(each) for key, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_without_enums(each) for each in cast("list[Any]", value)]
    return value
