"""Formats as they are said in a topic: what is refused at once, and what without a registry."""

from typing import Any

import pytest
from pydantic import BaseModel

from consumers.settings import RegistrySettings
from processor import App, Avro, ConfigurationError, JsonSchema, Protobuf, Settings, Topic
from processor.formats import check_formats
from processor.runtime import Runtime
from processor.schema_registry import connected_to, using_registry

pytest.importorskip("fastavro", reason="wants the extra avro")
pytest.importorskip("google.protobuf", reason="wants the extra protobuf")
pytest.importorskip("jsonschema", reason="wants the extra jsonschema")

MOCK = RegistrySettings(url="mock://unit", registers=True)
"""The client's own registry within a process: contacts nobody."""


class Order(BaseModel):
    n: int


@pytest.mark.parametrize(
    "format_,words",
    [
        (Avro(schema="{record}"), r"topic 'orders': Avro\(schema=...\): the schema is no JSON"),
        (JsonSchema(schema="{"), r"topic 'orders': JsonSchema\(schema=...\): the schema is no JSON"),
        (Protobuf(), "topic 'orders': Order is no class that protoc generated"),
        (Protobuf(message=Order), "topic 'orders': Order is no class that protoc generated"),
    ],
)
def test_what_is_no_schema_is_refused_at_the_topic(format_: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Topic("orders", Order, format=format_)


def test_a_schema_that_avro_does_not_know_is_refused_before_anything_is_contacted() -> None:
    topic = Topic("orders", Order, format=Avro(schema='{"type": "recrod", "name": "Order", "fields": []}'))

    with pytest.raises(ConfigurationError, match="topic 'orders', Avro: the schema is none"):
        check_formats([topic.codec], MOCK)


def test_an_app_with_such_a_topic_needs_a_registry() -> None:
    """At `processor check`, not when the first record comes."""
    app = App("shop")

    @app.workflow(on=Topic("orders", Order, format=Avro()))
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="topic 'orders' is in Avro: set registry.url"):
        Runtime(app, Settings())
    Runtime(app, Settings.model_validate({"registry": {"url": "https://registry"}}))


def test_a_topic_that_cannot_be_written_to_says_so() -> None:
    with connected_to(MOCK):
        with pytest.raises(
            ConfigurationError, match=r"topic 'orders': publishing needs its schema: Avro\(schema=...\)"
        ):
            Topic("orders", Order, format=Avro()).encode(Order(n=1))
        with pytest.raises(ConfigurationError, match="a pattern; publish to a topic by its name"):
            Topic("^orders.*", Order, format=JsonSchema()).encode(Order(n=1))
    with pytest.raises(ConfigurationError, match="no schema registry is connected: set registry.url"):
        Topic("orders", Order, format=JsonSchema()).encode(Order(n=1))


def test_a_process_has_one_registry_at_a_time() -> None:
    topic = Topic("orders", Order, format=JsonSchema())
    with connected_to(MOCK), connected_to(MOCK):
        assert topic.encode(Order(n=1))[1] == b'\0\0\0\0\1{"n":1}'
        with (
            pytest.raises(ConfigurationError, match="connected to another one already"),
            connected_to(RegistrySettings(url="mock://other")),
        ):
            pass
    with connected_to(RegistrySettings(url="mock://other", registers=True)):
        assert topic.encode(Order(n=1))[1] == b'\0\0\0\0\1{"n":1}'


def test_a_script_uses_the_registry_of_its_settings() -> None:
    settings = Settings.model_validate({"registry": {"url": "mock://script", "register_schemas": True}})
    with using_registry(settings):
        assert Topic("orders", Order, format=JsonSchema()).encode(Order(n=1))[1] == b'\0\0\0\0\1{"n":1}'
    with pytest.raises(ConfigurationError, match="registry.url is not set"), using_registry(Settings()):
        pass


def test_what_the_schema_does_not_take_is_not_written() -> None:
    other = '{"type": "record", "name": "Order", "fields": [{"name": "other", "type": "string"}]}'
    topic = Topic("orders", Order, format=Avro(schema=other))

    with connected_to(MOCK), pytest.raises(ValueError, match="other"):
        topic.encode(Order(n=1))
