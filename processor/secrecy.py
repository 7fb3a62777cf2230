"""What keeps secrets out of what is shown: settings stand in ConfigMaps, and `processor check` and logs print them.

a setting that is a secret       SecretStr: no `repr`, log line or error shows it
a client property like one       refused in `extra`, by its name
a password within other text     refused; `${NAME}` in a command is filled in, and printed as it was written
"""

import re
from typing import cast

SECRET_PROPERTIES = (
    "password", "passphrase", "secret", "jaas", "token$", "private", "credential",
    "key[._]pem$", "^ssl_key$", "oauthbearer[._]config$",
)  # fmt: skip
"""Client properties that hold secrets have one of these in their names, in whatever case."""

PASSWORD_IN_URL = r"://[^/:@\s]*:[^$/@\s][^/@\s]*@"  # noqa: S105  # it is none
"""The password of a URL, as it is: not `${NAME}`. In the dialect of expressions that Go and JavaScript have as well."""

PASSWORD_IN_COMMAND = r"[Pp][Aa][Ss][Ss][Ww][Oo][Rr][Dd]=[^$\s]"  # noqa: S105  # it is none
"""Likewise of a connection string, or of an option."""

_SECRET_PROPERTY = re.compile("|".join(SECRET_PROPERTIES), re.IGNORECASE)
_IN_URL = re.compile(PASSWORD_IN_URL)
_IN_COMMAND = re.compile(PASSWORD_IN_COMMAND)


class Filled(str):
    """Text in which variables were filled in.

    Attributes:
        written: As it stands in the file, with `${NAME}`: what may be shown.
    """

    __slots__ = ("written",)

    written: str

    @classmethod
    def of(cls, text: str, written: str) -> "Filled":
        """Text, and how it was written."""
        made = cls(text)
        made.written = written
        return made


def as_written(text: str) -> str:
    """What of a text may be shown."""
    return text.written if isinstance(text, Filled) else text


def is_secret_property(name: str) -> bool:
    """Whether a property of the Kafka client is called as those are that hold secrets."""
    return _SECRET_PROPERTY.search(name) is not None


def check_shown(value: object) -> None:
    """Refuse a password in the URLs of a setting that is shown. Raises `ValueError`, which does not show it."""
    if isinstance(value, dict):
        value = list(cast("dict[object, object]", value).values())
    if isinstance(value, list | tuple):
        for each in cast("list[object]", value):
            check_shown(each)
    elif isinstance(value, str) and _IN_URL.search(as_written(value)):
        raise ValueError(
            "there is a password in a URL, and this setting is shown: a secret has a setting, or a variable"
        )


def command(value: object) -> str | tuple[str, ...]:
    """A command: a line, or its words. Raises `ValueError`: it is neither, or has a password in it."""
    if isinstance(value, list | tuple):
        return tuple(_word(each) for each in cast("list[object]", value))
    return _word(value)


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a command is a line of text, or a list of words")  # noqa: TRY004  # pydantic's
    if _IN_URL.search(as_written(value)) or _IN_COMMAND.search(as_written(value)):
        raise ValueError("there is a password in a command, which is shown: write ${NAME}, and give NAME by a Secret")
    return value


__all__ = [
    "PASSWORD_IN_COMMAND",
    "PASSWORD_IN_URL",
    "SECRET_PROPERTIES",
    "Filled",
    "as_written",
    "check_shown",
    "command",
    "is_secret_property",
]
