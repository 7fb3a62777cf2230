"""Tokens for SASL OAUTHBEARER from a function of the user's.

The client asks for them in a thread of its own, and of a function that fails says after ten seconds only that there is no
token. So the first one is had before a client is made, and is what the client then gets: what is wrong with the function is
said at once, and under its setting's name.
"""

import logging
import time
from typing import Any, cast

from consumers.settings import OauthToken
from engine.errors import ConfigurationError
from engine.failures import summary

SETTING = "kafka.sasl.oauthbearer_token"

WANTED = "a token as text, and when it expires in seconds since 1970"

log = logging.getLogger("consumers.librdkafka")

Token = tuple[str, float]


class OauthTokens:
    """What one client calls for its tokens: the client's `oauth_cb`."""

    def __init__(self, function: OauthToken) -> None:
        self._function = function
        self._first: Token | None = None

    def have_first(self, config: str) -> None:
        """Fetch the token that the client will ask for when it is made. Blocks as long as the function does.

        Raises:
            ConfigurationError: The function raised, or what it returned is no token.
        """
        try:
            self._first = self._fetch(config)
        except (Exception, SystemExit) as error:  # the user's function may do anything at all
            raise ConfigurationError(f"{SETTING}: the function gave no token: {summary(error)}") from error

    def __call__(self, config: str | None) -> Token:
        """A token, as the client wants it; an error is logged here, as the client only says that there is none."""
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            return self._fetch(config or "")
        except (Exception, SystemExit):
            log.exception("the OAuth token could not be had")
            raise

    def _fetch(self, config: str) -> Token:
        # Any: whatever the user's function returns; the client takes a principal and extensions behind these two.
        token: Any = self._function(config)
        kind = type(token).__name__
        if not isinstance(token, tuple) or len(cast("tuple[Any, ...]", token)) < 2:
            raise TypeError(f"it returned a {kind}, and is to return {WANTED}")
        text, expires = cast("tuple[Any, ...]", token)[:2]
        if not isinstance(text, str) or isinstance(expires, bool) or not isinstance(expires, int | float):
            kinds = f"{type(text).__name__} and {type(expires).__name__}"
            raise TypeError(f"it returned {kinds}, and is to return {WANTED}")
        if (left_s := expires - time.time()) <= 0:
            raise ValueError(f"its token expired {-left_s:.0f} s ago by this machine's clock; {WANTED}")
        return cast("Token", token)
