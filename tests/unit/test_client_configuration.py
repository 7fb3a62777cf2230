"""The client's configuration: what is pinned, what is refused, what is never shown."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consumers.client import PINNED, connection_config, consumer_config, new_consumer
from consumers.settings import GroupProtocol, GroupSettings, Security
from engine.errors import ConfigurationError
from processor.loading import all_settings


def settings(**changes: Any) -> GroupSettings:
    whole: dict[str, Any] = {"bootstrap_servers": "kafka:9092", "group": "billing", **changes}
    return GroupSettings(**whole)


def make(config_of: GroupSettings) -> None:
    new_consumer(config_of, on_error=lambda error: None, on_commit=lambda error, partitions: None).close()


def test_what_would_lose_records_is_pinned() -> None:
    """Cases 1, 6, 12, 21, 27: nothing is committed by polling, no silent reset, no aborted records."""
    config = consumer_config(settings())

    assert config["enable.auto.commit"] is False
    assert config["enable.auto.offset.store"] is False
    assert config["auto.offset.reset"] == "error"
    assert config["isolation.level"] == "read_committed"
    assert config["allow.auto.create.topics"] is False


@pytest.mark.parametrize(
    "option",
    [
        {"enable.auto.commit": True},
        {"enable.auto.offset.store": "true"},
        {"auto.offset.reset": "latest"},
        {"isolation.level": "read_uncommitted"},
        {"group.id": "other"},
        {"group.protocol": "classic"},
    ],
)
def test_an_option_cannot_undo_what_is_pinned(option: dict[str, str | bool]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        consumer_config(settings(options=option))


def test_a_pinned_option_with_its_own_value_is_accepted() -> None:
    assert consumer_config(settings(options={"enable.auto.commit": "false"}))["enable.auto.commit"] is False


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "range,cooperative-sticky"])
def test_eager_assignors_are_refused(assignor: str) -> None:
    with pytest.raises(ConfigurationError, match="eager"):
        consumer_config(settings(options={"partition.assignment.strategy": assignor}))


def test_the_classic_protocol_is_cooperative_and_notices_a_stuck_join_soon() -> None:
    """Case 38: a handshake that happens twice freezes the group for a session timeout, 45 s by default."""
    config = consumer_config(settings())

    assert config["partition.assignment.strategy"] == "cooperative-sticky"
    assert config["session.timeout.ms"] == 15_000
    assert config["heartbeat.interval.ms"] * 3 <= config["session.timeout.ms"]


def test_kip_848_has_none_of_the_keys_that_brokers_decide() -> None:
    """The client refuses to start with them."""
    config_of = settings(protocol=GroupProtocol.CONSUMER)

    assert not consumer_config(config_of).keys() & {
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "partition.assignment.strategy",
    }
    make(config_of)


@pytest.mark.parametrize(
    "changes",
    [
        {"session_timeout": timedelta(seconds=10)},
        {"options": {"heartbeat.interval.ms": 100}},
        {"options": {"session.timeout.ms": 100}},
    ],
)
def test_kip_848_refuses_the_keys_that_brokers_decide(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="brokers decide"):
        consumer_config(settings(protocol=GroupProtocol.CONSUMER, **changes))


@pytest.mark.parametrize("protocol", GroupProtocol)
def test_the_client_accepts_what_we_make(protocol: GroupProtocol) -> None:
    make(settings(protocol=protocol, instance_id="billing-0", options={"fetch.min.bytes": 1}))


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no\.such\.option"):
        make(settings(options={"no.such.option": 1}))


def test_options_about_consumers_do_not_reach_the_admin_client() -> None:
    config = connection_config(settings(options={"fetch.min.bytes": 1, "socket.timeout.ms": 5_000}))

    assert "fetch.min.bytes" not in config
    assert config["socket.timeout.ms"] == 5_000
    assert not config.keys() & PINNED.keys()


# -- security


SCRAM = Security(tls=True, mechanism="SCRAM-SHA-512", username="alice", password="wonderland")


def test_scram_over_tls() -> None:
    config = consumer_config(settings(security=SCRAM))

    assert config["security.protocol"] == "SASL_SSL"
    assert config["sasl.mechanism"] == "SCRAM-SHA-512"
    assert config["sasl.password"] == "wonderland"
    make(settings(security=SCRAM))


def test_a_certificate_is_a_path_or_its_text(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()

    assert consumer_config(settings(security=Security(ca=str(ca))))["ssl.ca.location"] == str(ca)
    pem = "-----BEGIN CERTIFICATE-----\n..."
    config = consumer_config(settings(security=Security(ca=pem, key="-----BEGIN PRIVATE KEY-----")))
    assert config["ssl.ca.pem"] == pem
    assert config["security.protocol"] == "SSL"
    assert config["ssl.key.pem"] == "-----BEGIN PRIVATE KEY-----"


def test_a_certificate_that_is_not_there_is_named() -> None:
    missing = {"ca": Security(ca="/no/it.pem"), "certificate": Security(certificate="/no/it.pem")}
    for name, security in missing.items():
        with pytest.raises(ConfigurationError, match=rf"^kafka\.ssl\.{name}: there is no file '/no/it\.pem'"):
            consumer_config(settings(security=security))


def test_a_key_that_is_no_file_is_named_and_not_shown() -> None:
    """It may be the key itself, without the line that says so."""
    with pytest.raises(
        ConfigurationError, match=r"^kafka\.ssl\.key: there is no such file, and it is no PEM"
    ) as refused:
        consumer_config(settings(security=Security(key="hunter2")))

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("option", ["session.timeout.ms", "max.poll.interval.ms", "group.instance.id"])
def test_an_option_that_has_a_setting_names_that(option: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        consumer_config(settings(options={option: 1}))

    said, _, setting = str(refused.value).removesuffix(" instead").rpartition(": set ")
    assert said == f"kafka.extra: {option}"
    assert setting in {each.key for each in all_settings()}


def test_credentials_without_a_mechanism_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no mechanism"):
        consumer_config(settings(security=Security(username="alice", password="wonderland")))


def test_secrets_are_never_shown() -> None:
    security = Security(
        tls=True,
        key="-----BEGIN PRIVATE KEY-----secret",
        key_password="secret",
        mechanism="OAUTHBEARER",
        password="secret",
        oauth_token=lambda config: ("secret", 0.0),
    )

    assert "secret" not in repr(settings(security=security, options={"sasl.oauthbearer.client.secret": "secret"}))


def test_a_refused_configuration_is_said_in_the_clients_words_and_no_more() -> None:
    """No dump of all that the client was told."""
    with pytest.raises(ConfigurationError) as refused:
        make(settings(options={"no.such.option": 1}))

    first, advice = str(refused.value).splitlines()
    assert first == 'the Kafka client cannot be set up: No such configuration property: "no.such.option"'
    assert "kafka.extra" in advice


def test_a_refused_configuration_does_not_show_its_secrets() -> None:
    with pytest.raises(ConfigurationError) as refused:
        make(settings(security=SCRAM, options={"no.such.option": 1}))

    assert "wonderland" not in str(refused.value)


# -- settings themselves


@pytest.mark.parametrize("changes", [{"group": ""}, {"bootstrap_servers": ""}, {"group": "a|b"}, {"batch_max": 0}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        settings(**changes)
