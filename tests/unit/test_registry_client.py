"""The registry's client: what it is made of, what is refused, what an answer means, what is never shown."""

from pathlib import Path
from typing import Any

import pytest

from consumers.registry_client import Verdict, client_config, judge, needing, new_client
from consumers.settings import RegistrySettings
from engine.errors import ConfigurationError

registry = pytest.importorskip("confluent_kafka.schema_registry", reason="wants an extra: avro, jsonschema or protobuf")


def settings(**changes: Any) -> RegistrySettings:
    whole: dict[str, Any] = {"url": "https://registry:8081", **changes}
    return RegistrySettings(**whole)


def test_the_client_has_a_time_out_and_does_not_try_again_by_itself() -> None:
    """Its own are none, and 3 times with waits, which nobody would see."""
    config = client_config(settings())

    assert config["timeout"] == 5
    assert config["max.retries"] == 0


@pytest.mark.parametrize(
    "credentials,expected",
    [
        ({"username": "u", "password": "p:q"}, {"basic.auth.user.info": "u:p:q"}),
        (
            {"bearer_token": "t", "logical_cluster": "lsrc-1", "identity_pool": "pool-1"},
            {
                "bearer.auth.credentials.source": "STATIC_TOKEN",
                "bearer.auth.token": "t",
                "bearer.auth.logical.cluster": "lsrc-1",
                "bearer.auth.identity.pool.id": "pool-1",
            },
        ),
        (
            {
                "oauth_token_url": "https://id/token",
                "oauth_client_id": "i",
                "oauth_client_secret": "s",
                "oauth_scope": "r",
            },
            {
                "bearer.auth.credentials.source": "OAUTHBEARER",
                "bearer.auth.issuer.endpoint.url": "https://id/token",
                "bearer.auth.client.id": "i",
                "bearer.auth.client.secret": "s",
                "bearer.auth.scope": "r",
            },
        ),
    ],
)
def test_each_kind_of_credentials_is_what_the_client_calls_it(
    credentials: dict[str, Any], expected: dict[str, str]
) -> None:
    config = client_config(settings(**credentials))

    assert config.items() >= expected.items()
    new_client(settings(**credentials)).close()


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"url": "registry:8081"}, "registry.url: http://host:port"),
        ({"url": "http://registry:port"}, "registry.url: 'registry:port': the port is a number"),
        ({"url": "https://a:1,ftp://b"}, "registry.url: http://host:port"),
        ({"url": "https://user:s3cret@registry"}, "credentials do not belong there"),
        ({"username": "u", "password": "s3cret", "bearer_token": "s3cret"}, "one of them"),
        ({"ca": "/nowhere/ca.pem"}, "registry.ssl.ca: there is no file '/nowhere/ca.pem'"),
    ],
)
def test_what_is_refused_is_named_and_no_secret_shown(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        client_config(settings(**changes))

    assert words in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_key_that_cannot_be_read_is_refused_without_its_password(tmp_path: Path) -> None:
    broken = tmp_path / "client.pem"
    broken.write_text("nonsense")

    with pytest.raises(ConfigurationError, match="registry: the client cannot be set up") as refused:
        new_client(settings(certificate=str(broken), key_password="s3cret"))
    assert "s3cret" not in str(refused.value)


def test_secrets_are_in_no_repr() -> None:
    shown = repr(
        settings(password="s3cret", bearer_token="s3cret", oauth_client_secret="s3cret", key_password="s3cret")
    )

    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "status,code,verdict",
    [
        (404, 40403, Verdict.ABSENT),
        (404, 40402, Verdict.ABSENT),
        (404, 40401, Verdict.ABSENT),
        (404, 404, Verdict.TROUBLE),
        (404, -1, Verdict.TROUBLE),
        (409, 409, Verdict.REFUSED),
        (422, 42201, Verdict.REFUSED),
        (401, 40101, Verdict.TROUBLE),
        (403, 40301, Verdict.TROUBLE),
        (408, -1, Verdict.TROUBLE),
        (429, 42901, Verdict.TROUBLE),
        (500, 50001, Verdict.TROUBLE),
        (503, -1, Verdict.TROUBLE),
    ],
)
def test_only_a_registrys_own_word_is_an_answer(status: int, code: int, verdict: Verdict) -> None:
    """Everything else leaves the question open: a pause, not a loss (I1)."""
    error = registry.SchemaRegistryError(status, code, "because" + "." * 10_000)

    found, text = judge(error)
    assert found is verdict
    assert len(text) < 400


def test_errors_that_are_no_answer_are_trouble() -> None:
    assert judge(ConnectionError("refused"))[0] is Verdict.TROUBLE
    assert judge(KeyError("id"))[0] is Verdict.TROUBLE


def test_a_missing_extra_is_named() -> None:
    def import_() -> None:
        raise ModuleNotFoundError("No module named 'fastavro'", name="fastavro")

    with pytest.raises(
        ConfigurationError, match=r"needs fastavro, which is not installed: pip install 'onceflow\[avro\]'"
    ):
        needing("avro", import_)
