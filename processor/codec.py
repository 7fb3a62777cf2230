"""Bytes of a record to an event and back; results of steps to JSON text and back.

    Kafka bytes ──Codec.decode──▶ event ──▶ handler ──▶ result ──Result.encode──▶ JSON text in Postgres

A codec raises `UndecodableError` for bytes that are not what the topic says; the record is a dead letter at once.
Messages name the record and the field, never the value: dead letters keep the raw bytes, logs must not.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from json.encoder import encode_basestring as quoted
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from engine.handlers import UndecodableError
from processor.exact import proof_of
from processor.records import RawRecord
from processor.strict_json import checker

E = TypeVar("E")
R = TypeVar("R")

SHOWN_ERRORS_MAX = 5
"""Errors of one record in a message. The rest is counted."""
SHOWN_CHARACTERS_MAX = 500
"""Longest text of an exception of the user's own validator in a message."""

_UNKNOWN_TYPE = re.compile(r"Unable to generate pydantic-core schema for (?:<class ')?([^'\n]+?)(?:'>)?\. Set")


class Codec(Protocol[E]):
    """How events of one type are written to and read from Kafka. Implement it for a format that is not there.

    One that reads headers of the record has an attribute `headers` with their names: they are stored with the record, or
    it could not be decoded again after a crash.
    """

    @property
    def embeds_json(self) -> bool:
        """Whether what `decode` accepts is always UTF-8 JSON text: it is then stored readable, else as base64."""
        ...

    def decode(self, value: bytes, record: RawRecord) -> E:
        """The event of a payload. `record` has the headers, for codecs that keep a schema's ID there.

        Raises:
            UndecodableError: The bytes are no such event. Any other exception counts as one.
            NotYet: It cannot be said yet, as something has to be fetched: the record's partition waits. Called on the
                event loop, so it must not fetch it itself.
        """
        ...

    def encode(self, event: E) -> bytes:
        """The payload of an event. Raises `TypeError` or `ValueError` for what is none."""
        ...


class Json(Generic[E]):
    """JSON by pydantic: models, dataclasses, typed dicts, anything `TypeAdapter` takes.

    Strict about JSON itself (UTF-8, no NaN, no Infinity, no 1e999, which would be one): the text is stored as it stands, and other languages
    read it. An escaped NUL in a string is fine: what is stored holds the escape.
    """

    embeds_json = True

    def __init__(self, model: type[E]) -> None:
        """Raises `UnencodableTypeError` if no JSON schema can be made of `model`."""
        self._name = type_name(model)
        adapter: TypeAdapter[E] = adapted(model)
        _refuse_without_schema(adapter, model)
        # The core validator's method: TypeAdapter.validate_json adds 0.3 µs of keyword arguments to 0.6 µs.
        self._validate = adapter.validator.validate_json
        self._is_no_json = checker(adapter)
        self._adapter = adapter

    def decode(self, value: bytes, record: RawRecord) -> E:
        """The validated event. One call of the validator, and a search for what is not JSON."""
        try:
            event = self._validate(value)
        except Exception as error:  # noqa: BLE001  # a user's validator may raise anything; it is this record's fault
            problem = problem_of(error, self._name)
        else:
            problem = self._is_no_json(value)
            if problem is None:
                return event
        # Outside of the except block: pydantic's error, which holds the payload, must not be its __context__.
        raise UndecodableError(f"{record}: {problem}")

    def encode(self, event: E) -> bytes:
        """Compact JSON of the event. Raises `ValueError` for what is not of the model: pydantic would only warn."""
        return self._adapter.dump_json(event, by_alias=True, warnings="error")


def problem_of(error: Exception, name: str) -> str:
    """Why a model did not take a value: its fields and what is wrong with them, never the value."""
    if isinstance(error, ValidationError):
        return f"not {name}: {_problems(error)}"
    return f"a validator of {name} raised {type(error).__name__}: {str(error)[:SHOWN_CHARACTERS_MAX]}"


class Raw:
    """The payload itself. Stored as base64."""

    embeds_json = False

    def decode(self, value: bytes, record: RawRecord) -> bytes:  # noqa: ARG002  # the protocol's
        """The bytes, whatever they are."""
        return value

    def encode(self, event: bytes) -> bytes:
        """The bytes."""
        return event


class Text:
    """UTF-8 text. Stored as base64, for it is no JSON."""

    embeds_json = False

    def decode(self, value: bytes, record: RawRecord) -> str:
        """The text. Raises `UndecodableError` with the place of the first byte that is not UTF-8."""
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            at = error.start
        raise UndecodableError(f"{record}: not UTF-8 text: byte {at} does not belong to any character")

    def encode(self, event: str) -> bytes:
        """UTF-8."""
        return event.encode()


def codec_for(model: type[E]) -> Codec[E]:
    """The codec a topic has unless it is given one: raw for `bytes`, text for `str`, else JSON."""
    codec: Any = Raw() if model is bytes else Text() if model is str else Json(model)
    return codec


class UnencodableTypeError(Exception):
    """A type of which no JSON schema can be made: values could be neither stored nor read back."""


# Results are ours to write and read: floats and bytes keep every value, which plain JSON does not.
_LOSSLESS = ConfigDict(ser_json_inf_nan="strings", ser_json_bytes="base64", val_json_bytes="base64")


PROVEN_MAX = 4_000
"""Characters of a text whose value is not read back if its types prove it exact: no number in it is too long to be read."""


@dataclass(frozen=True, slots=True)
class Result(Generic[R]):
    """Results of one annotated type, as JSON text and back.

    What a workflow gets from a step the first time is what a replay gives it: the value as it is read back, unless its
    types prove that this is the same (decision 0033). So a subclass comes back as the class that was announced, a tuple
    under `Any` as a list, a `SecretStr` as its asterisks: at once, not only after a crash. A value of another type than
    announced, or one that could not be read back, is refused.

    Attributes:
        record: A value as its text, and as `decode` reads that. Raises `TypeError`.
        decode: What `record` wrote.
        read: The same of a text that another program may have written: fields by their names or their aliases.
    """

    record: Callable[[R], tuple[str, R]]
    decode: Callable[[str], R]
    read: Callable[[str], R]

    def encode(self, value: R) -> str:
        """The text alone."""
        return self.record(value)[0]


def result_codec(  # noqa: C901  # a function less for every result
    annotation: Any, what: str = "the result"
) -> Result[Any]:
    """The codec of a value annotated so. `what`: how errors call it. Raises `UnencodableTypeError`."""
    if annotation is None or annotation is type(None):
        return Result(partial(_record_none, what), _decode_none, _decode_none)
    adapter = _lossless_adapter(annotation)
    _refuse_without_schema(adapter, annotation)
    to_json, validate = adapter.serializer.to_json, adapter.validator.validate_json
    is_text, name = annotation is str, type_name(annotation)
    is_proven = proof_of(adapter)
    is_announced = adapter.validator.isinstance_python

    def record(value: Any) -> tuple[str, Any]:
        if is_text and type(value) is str and value.isascii():
            return quoted(value), value  # what pydantic writes as well, in a third of the time
        try:
            # By the names of fields, whatever their aliases: what validates by one may serialize by another.
            text = to_json(value, by_alias=False, warnings="error").decode()
            if is_proven is not None and is_proven(value) and len(text) <= PROVEN_MAX:
                return text, value
            back = validate(text, by_alias=False, by_name=True)
            # pydantic writes whatever resembles the type, None for a model too. What is not plainly of the type
            # (True for an int) may pass if it comes back equal.
            if type(value) is annotation or is_announced(value, strict=True) or back == value:
                return text, back
            problem = f"{type(value).__name__} would come back as something else"
        except (PydanticSerializationError, PydanticUserError) as error:
            problem = _first_line(error)
        except Exception as error:  # noqa: BLE001  # the user's validators have their say when it is read back
            problem = f"{type(value).__name__} could not be read back: {problem_of(error, name)}"
        raise TypeError(f"{what} is no {name} that can be recorded: {problem}")

    def decode(text: str) -> Any:
        try:
            return validate(text, by_alias=False, by_name=True)
        except ValidationError:
            return read(text)

    def read(text: str) -> Any:
        return validate(text, by_alias=True, by_name=True)

    return Result(record, decode, read)


def type_name(annotation: Any) -> str:
    """A type as its author wrote it, without the module."""
    name = getattr(annotation, "__qualname__", None)
    return name if isinstance(name, str) and not getattr(annotation, "__args__", ()) else str(annotation)


def _record_none(what: str, value: Any) -> tuple[str, None]:
    if value is not None:
        raise TypeError(f"{what} is a {type(value).__name__}, the function says -> None")
    return "null", None


def _decode_none(text: str) -> None:
    assert text == "null", f"a result of None is recorded as {text[:20]!r}"


def _lossless_adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=_LOSSLESS)
    except PydanticUserError as error:
        if error.code == "type-adapter-config-unused":  # models, dataclasses and typed dicts bring their own
            return adapted(annotation)
        raise _unencodable(annotation, error) from None


def adapted(annotation: Any) -> TypeAdapter[Any]:
    """What pydantic makes of a type. Raises `UnencodableTypeError`."""
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise _unencodable(annotation, error) from None


def _refuse_without_schema(adapter: TypeAdapter[Any], annotation: Any) -> None:
    """Both ways: pydantic can validate things (an instance of a class) that it cannot read from JSON, and so on."""
    for mode in ("validation", "serialization"):
        try:
            adapter.json_schema(mode=mode)
        except (PydanticUserError, NameError) as error:
            raise _unencodable(annotation, error) from None


def _unencodable(annotation: Any, error: Exception) -> UnencodableTypeError:
    why = _first_line(error)
    if isinstance(error, PydanticSchemaGenerationError) and (unknown := _UNKNOWN_TYPE.search(str(error))):
        # Without its advice, which is for authors of models.
        name = unknown[1].rpartition(".")[2]
        is_itself = type_name(annotation).rpartition(".")[2] == name
        why = "it is a class that pydantic knows nothing of" if is_itself else f"nor can its {name}"
    return UnencodableTypeError(f"{type_name(annotation)} cannot be written as JSON: {why}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:SHOWN_CHARACTERS_MAX] if lines else type(error).__name__


def _problems(error: ValidationError) -> str:
    details: Sequence[ErrorDetails] = error.errors(include_url=False, include_context=False, include_input=False)
    shown = "; ".join(_problem(detail) for detail in details[:SHOWN_ERRORS_MAX])
    hidden = len(details) - SHOWN_ERRORS_MAX
    return f"{shown}; and {hidden} more" if hidden > 0 else shown


def _problem(detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"][:SHOWN_CHARACTERS_MAX]
    return f"{field}: {message}" if field else message
