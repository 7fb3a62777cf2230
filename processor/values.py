"""Messages, events and values of streams as JSON text and back.

    value ──encode──▶ JSON text in Postgres ──decode──▶ JSON values, or what `model=` says

Who writes and who reads may be different programs: the text says what any of them can read, and what DBOS's SDK for
TypeScript writes is read as well. Floats and bytes keep every
value, as in results of steps (`processor.codec`).
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from engine.errors import ConfigurationError
from engine.handlers import UndecodableError
from processor.codec import UnencodableTypeError, problem_of, result_codec, type_name
from processor.dbos_values import plain_text

NAME_MAX = 255
"""Characters of a topic, of a key, of an idempotency key: they are in indexes."""

VALUE_MAX = 16 << 20
"""Characters of one value as JSON. What is larger belongs where the data is; its address can be sent."""


def encode(value: Any, what: str) -> str:
    """A value as JSON text. `what`: as its sender would call it.

    Raises:
        TypeError: It is nothing that pydantic can write as JSON.
        ValueError: It is too large.
    """
    try:
        text = to_json(value, inf_nan_mode="strings", bytes_mode="base64").decode()
    except (PydanticSerializationError, UnicodeError) as error:
        raise TypeError(f"{what}: a {type(value).__name__} that cannot be written as JSON: {error}") from None
    if len(text) > VALUE_MAX:
        raise ValueError(f"{what}: {len(text)} characters as JSON, and at most {VALUE_MAX} can be; send where it is")
    return text


def decoder(model: Any, what: str) -> Callable[[str], Any]:
    """What reads a value of a type; `Any`: JSON values as they are.

    Raises:
        ConfigurationError: Such a type cannot be read from JSON.
    """
    decode: Callable[[str], Any]
    try:
        decode = json.loads if model is Any else _decoder(model)
    except UnencodableTypeError as error:
        raise ConfigurationError(f"{what}: model={type_name(model)}: {error}") from None

    def decoded(text: str) -> Any:
        try:
            return decode(plain_text(text))
        except Exception as error:  # noqa: BLE001  # a user's validator may raise anything; it is this value's fault
            problem = problem_of(error, type_name(model))
        raise UndecodableError(f"{what}: {problem}")

    return decoded


@lru_cache(maxsize=256)
def _decoder(model: Any) -> Callable[[str], Any]:
    return result_codec(model).read


def check_name(name: str, what: str) -> str:
    """A topic, a key. Raises `ValueError` for what could not be stored or found."""
    if not name or len(name) > NAME_MAX or "\0" in name:
        raise ValueError(f"{what} {name[:50]!r}: 1 to {NAME_MAX} characters, without NUL")
    return name


__all__ = ["check_name", "decoder", "encode"]
