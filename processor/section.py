"""What sections of the settings are made of: frozen, nothing unknown, durations and sizes as people write them."""

import json
from datetime import timedelta
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
)

from processor.secrecy import check_shown, command
from processor.units import duration, size


def positive(value: timedelta) -> timedelta:
    """The duration, if it is longer than nothing; otherwise `ValueError`."""
    if value <= timedelta(0):
        raise ValueError("must be longer than nothing")
    return value


def map_as_text(value: object, example: str) -> object:
    """A map, which a variable of the environment has as JSON; `ValueError` shows an example."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"is a map, or written as JSON, {example}") from None


DURATION_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}], "examples": ["30s", "20ms", "1h30m"]}
)
Duration = Annotated[
    timedelta,
    BeforeValidator(duration),
    AfterValidator(positive),
    DURATION_SCHEMA,
]
Size = Annotated[
    int,
    BeforeValidator(size),
    Field(ge=1),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}], "examples": ["64MiB"]}),
]
Command = Annotated[
    str | tuple[str, ...],
    PlainValidator(command),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""A line, or its words. Variables in it are filled in, and it remembers how it was written (`secrecy.Filled`)."""


def duration_or(word: str, *examples: str) -> tuple[BeforeValidator, WithJsonSchema]:
    """What makes `timedelta | Literal[word]` of what people write: a duration longer than nothing, or that word."""

    def read(value: object) -> object:
        if isinstance(value, str) and value.strip().lower() == word:
            return word
        try:
            return positive(found) if isinstance(found := duration(value), timedelta) else found
        except ValueError as error:
            raise ValueError(f"{error}; or {word}") from None

    kinds = [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]
    return BeforeValidator(read), WithJsonSchema({"anyOf": kinds, "examples": [*examples, word]})


class Section(BaseModel):
    """Frozen, nothing unknown, no password in what is shown, documented by the text under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _nothing_shown_holds_a_password(cls, value: object) -> object:
        check_shown(value)
        return value
