"""The relay's producer: what is pinned, what is refused (I9)."""

from datetime import timedelta
from typing import Any

import pytest

from consumers.producer import producer_config
from consumers.settings import RelaySettings, Security
from engine.errors import ConfigurationError


def settings(**changes: Any) -> RelaySettings:
    whole: dict[str, Any] = {"bootstrap_servers": "kafka:9092", **changes}
    return RelaySettings(**whole)


def test_what_would_lose_double_or_reorder_events_is_pinned() -> None:
    config = producer_config(settings(transaction_timeout=timedelta(seconds=30)), "id")

    assert config["transactional.id"] == "id"
    assert config["enable.idempotence"] is True
    assert config["acks"] == "all"
    assert config["partitioner"] == "murmur2_random"
    assert (config["transaction.timeout.ms"], config["message.timeout.ms"]) == (30_000, 10_000)


@pytest.mark.parametrize(
    "option",
    [
        {"enable.idempotence": False},
        {"acks": "1"},
        {"request.required.acks": "0"},
        {"transactional.id": "other"},
        {"partitioner": "random"},
        {"message.timeout.ms": 1},
        {"delivery.timeout.ms": 1},
    ],
)
def test_an_option_cannot_undo_what_is_pinned(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        producer_config(settings(producer_options=option), "id")


def test_other_options_are_the_users_and_those_of_consumers_are_left_out() -> None:
    config = producer_config(
        settings(
            options={"fetch.min.bytes": 5, "socket.timeout.ms": 7},
            producer_options={"linger.ms": 20, "retry.backoff.ms": 50, "enable.idempotence": "true"},
            security=Security(mechanism="PLAIN", username="me", password="secret"),
        ),
        "id",
    )

    assert "fetch.min.bytes" not in config
    assert (config["socket.timeout.ms"], config["linger.ms"], config["retry.backoff.ms"]) == (7, 20, 50)
    assert config["sasl.username"] == "me"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers"),
        ({"position_topic": "no topic"}, "position_topic"),
        ({"batch_rows_max": 0}, "batch_rows_max"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings(**changes)
