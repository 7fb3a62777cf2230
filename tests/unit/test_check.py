"""What `processor check` says of formats and of keys for payloads."""

from base64 import b64encode

import pytest
from pydantic import BaseModel

from engine.errors import ConfigurationError
from processor import App, Avro, Protobuf, Settings, Topic
from processor.cli.check import describe, schemas
from processor.runtime import Runtime

pytest.importorskip("fastavro", reason="wants the extra avro")
pytest.importorskip("google.protobuf", reason="wants the extra protobuf")
pytest.importorskip("cryptography", reason="wants the extra encryption")

from tests.fixtures.messages import message_class  # which wants protobuf


class Order(BaseModel):
    n: int


def app_of_two() -> App:
    """One topic of a model, one of messages."""
    app = App("shop")

    @app.workflow(on=Topic("orders", Order, format=Avro()))
    async def handle(order: Order) -> None: ...

    @app.workflow(on=Topic("raw", message_class("shop.Order"), format=Protobuf()))
    async def handle_raw(order: object) -> None: ...

    return app


def test_formats_the_registry_and_the_key_that_seals_are_shown_and_no_secret_is() -> None:
    key = b64encode(bytes(32)).decode()
    settings = Settings.model_validate(
        {
            "registry": {"url": "https://registry", "username": "u", "password": "s3cret"},
            "payloads": {"key": "2026", "keys": {"2026": key}},
        }
    )
    app = app_of_two()

    Runtime(app, settings)
    said = describe(app, settings)

    lines = [line.split() for line in said.splitlines()]
    assert ["payloads", "sealed", "with", "key", "'2026'"] in lines
    assert ["registry", "https://registry"] in lines
    assert ["format", "Avro"] in lines
    assert ["format", "Protobuf"] in lines
    assert key not in said
    assert "s3cret" not in said


def test_a_key_that_is_not_there_is_refused_before_anything_is_contacted() -> None:
    settings = Settings.model_validate({"registry": {"url": "https://registry"}, "payloads": {"key": "2026"}})

    with pytest.raises(
        ConfigurationError, match=r"payloads.key: '2026' is not among the keys that are configured: none"
    ):
        Runtime(app_of_two(), settings)


def test_topics_of_messages_have_no_json_schema() -> None:
    said = schemas(app_of_two())

    assert '"title": "Order"' in said
    assert "which is no model of pydantic's" in said


def test_keys_may_be_the_json_of_one_variable() -> None:
    """As one entry of a Secret has them, in a file's `${NAME}` as in the variable of the setting."""
    settings = Settings.model_validate({"payloads": {"keys": '{"a": "QQ=="}'}})

    assert settings.payloads.keys["a"].get_secret_value() == "QQ=="
    with pytest.raises(ValueError, match=r"is a map, or written as JSON") as refused:
        Settings.model_validate({"payloads": {"keys": "s3cret"}})
    assert "s3cret" not in str(refused.value)
