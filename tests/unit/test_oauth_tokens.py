"""A function of the user's that gives OAuth tokens: what is wrong with it is said at once, by its setting's name."""

import logging
import sys
import time
from typing import Any

import pytest

from consumers.client import new_admin
from consumers.oauth import OauthTokens
from consumers.settings import GroupSettings, OauthToken, Security
from engine.errors import ConfigurationError


def connect(oauth_token: OauthToken) -> None:
    """Make a client; nobody is there, and nobody need be."""
    security = Security(mechanism="OAUTHBEARER", oauth_token=oauth_token)
    new_admin(
        GroupSettings(bootstrap_servers="127.0.0.1:1", group="billing", security=security),
        on_error=lambda error: None,
        lines=logging.getLogger("nowhere"),
    )


def refuse(config: str) -> tuple[str, float]:
    raise PermissionError("the vault is sealed")


def end(config: str) -> tuple[str, float]:
    sys.exit(3)


def returning(value: Any) -> OauthToken:
    return lambda config: value


@pytest.mark.parametrize(
    "function, problem",
    [
        (refuse, "PermissionError: the vault is sealed"),
        (end, "SystemExit: 3"),
        (
            returning(None),
            "TypeError: it returned a NoneType, and is to return a token as text, and when it expires",
        ),
        (returning("token"), "TypeError: it returned a str"),
        (returning(["token", 1e12]), "TypeError: it returned a list"),
        (returning((b"token", 1e12)), "TypeError: it returned bytes and float"),
        (returning(("token", "3600")), "TypeError: it returned str and str"),
        (returning(("token", 3600)), "ValueError: its token expired"),
    ],
)
def test_what_is_no_token_is_told_at_once_by_the_settings_name(function: OauthToken, problem: str) -> None:
    """The client would wait ten seconds, and say that no token was set."""
    with pytest.raises(ConfigurationError) as refused:
        connect(function)

    assert str(refused.value).startswith(f"kafka.sasl.oauthbearer_token: the function gave no token: {problem}")


def test_the_client_gets_the_token_that_was_looked_at_and_asks_for_the_next() -> None:
    tokens = OauthTokens(lambda config: (f"token {next(numbers)} of {config}", time.time() + 300))
    numbers = iter(range(3))

    tokens.have_first("shop")

    assert [tokens("shop")[0], tokens("shop")[0]] == ["token 0 of shop", "token 1 of shop"]


def test_a_token_that_cannot_be_renewed_is_logged_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    tokens = OauthTokens(refuse)

    with pytest.raises(PermissionError):
        tokens(None)

    assert "the vault is sealed" in caplog.text
