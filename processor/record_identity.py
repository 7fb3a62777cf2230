"""Whose a record is: what its headers say, by a mapping that the topic has.

    orders = Topic("orders", Order, identity=FromHeaders("user", roles="roles"))

    user: ada   roles: customer,clerk ──▶ Identity("ada", ("customer", "clerk")) ──▶ the row, the workflow, its children
                                     └──▶ none of those required: a dead letter, 'unauthorized', which nobody looked into

Headers are as good as who may write the topic: they name somebody, and prove nothing.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from engine.errors import ConfigurationError
from engine.handlers import UnauthorizedRecordError
from engine.identity import NOBODY, Identity, NotAuthorizedError, Origin, authorized, roles_text
from processor.records import RawRecord


@dataclass(frozen=True, slots=True)
class FromHeaders:
    """Which headers say whose a record is. Without the user's, it is nobody's.

    Attributes:
        user: Name of the header with the user.
        roles: Name of the header with the roles; `None`: users have none.
        separator: Between two roles.
    """

    user: str
    roles: str | None = None
    separator: str = ","

    def __post_init__(self) -> None:
        if not self.user or self.roles == "" or not self.separator:
            raise ConfigurationError(f"{self}: names of headers, and what stands between two roles")

    @property
    def headers(self) -> frozenset[str]:
        """What must be stored, or a record could not be judged again after a crash."""
        return frozenset({self.user} if self.roles is None else {self.user, self.roles})

    def identity(self, record: RawRecord) -> Identity | None:
        """Whose a record is. Raises `ValueError` where its headers are no names. Of several headers of a name, the last counts."""
        found = dict(record.headers)
        user = found.get(self.user)
        if user is None:
            return None
        roles = (found.get(self.roles) or b"") if self.roles is not None else b""
        try:
            named = [role.strip() for role in roles.decode().split(self.separator)]
            return Identity(user.decode(), tuple(role for role in named if role))
        except (UnicodeDecodeError, ConfigurationError) as error:
            problem = str(error)
        raise ValueError(problem)


def check(identity: FromHeaders, name: str, required: tuple[str, ...]) -> Callable[[RawRecord], None]:
    """What refuses records of a handler: those whose headers are no names, or that have none of the required roles."""

    def refuse(record: RawRecord) -> None:
        try:
            authorized(name, identity.identity(record), required)
        except (ValueError, NotAuthorizedError) as error:
            problem = str(error)
        else:
            return
        raise UnauthorizedRecordError(f"{record}: {problem}")

    return refuse


def origin(identity: FromHeaders, name: str, required: tuple[str, ...]) -> Callable[[RawRecord], Origin]:
    """Whose a record is, as its row has it."""

    def of(record: RawRecord) -> Origin:
        try:
            found = identity.identity(record)
        except ValueError:
            return NOBODY
        if found is None:
            return NOBODY
        with suppress(NotAuthorizedError):  # the row of its dead letter says who it was
            found = authorized(name, found, required) or found
        return Origin(found.user, found.role, roles_text(found))

    return of
