"""The client's deserializer for JSON Schema, without its way out to the internet. Imported only where the extra is there.

A schema may refer to another by its address, `{"$ref": "https://…"}`. The client fetches such a one while it validates:
in the middle of decoding, from whatever host a schema names. Here only what the registry has is found.
"""

from typing import Any, NoReturn, cast

from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from referencing import Registry
from referencing.exceptions import NoSuchResource


class OfflineDeserializer(JSONDeserializer):
    """Finds referenced schemas in the registry only."""

    def _get_parsed_schema(self, schema: Any) -> Any:
        found: Any = self._parsed_schemas.get_parsed_schema(schema)
        if found is None:
            theirs = cast("Any", super()._get_parsed_schema(schema))  # pyright: ignore[reportUnknownMemberType]  # a dict of anything
            parsed, referenced = theirs
            known: Any = Registry(retrieve=_nowhere_else)  # type: ignore[call-arg]  # attrs takes the underscore away
            found = parsed, known.with_resources(dict(referenced or {}).items())
            self._parsed_schemas.set(schema, found)
        return found


def _nowhere_else(uri: str) -> NoReturn:
    raise NoSuchResource(ref=uri)
