"""Whose a record is: what its headers say, by a mapping that the topic has.

    orders = Topic("orders", Order, identity=FromHeaders("user", roles="roles"))

    user: ada   roles: customer,clerk ──▶ Identity("ada", ("customer", "clerk")) ──▶ the row, the workflow, its children
                                     └──▶ none of those required: a dead letter, 'unauthorized', which nobody looked into

Headers are as good as who may write the topic: they name somebody, and prove nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from engine.errors import ConfigurationError
from engine.handlers import UnauthorizedRecordError
from engine.identity import NOBODY, Identity, NotAuthorizedError, Origin, authorized, roles_text
from processor.records import RawRecord

JUDGED_MAX: Final = 10_000
"""Values of headers that are remembered with what they come to (I10)."""


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

    def values(self, record: RawRecord) -> tuple[bytes | None, bytes]:
        """What the two say; of several headers of a name, the last."""
        found = dict(record.headers)
        roles = (found.get(self.roles) or b"") if self.roles is not None else b""
        return found.get(self.user), roles

    def identity(self, user: bytes | None, roles: bytes) -> Identity | None:
        """Whose a record with these values is. Raises `ValueError` where they are no names."""
        if user is None:
            return None
        try:
            named = [role.strip() for role in roles.decode().split(self.separator)]
            return Identity(user.decode(), tuple(role for role in named if role))
        except (UnicodeDecodeError, ConfigurationError) as error:
            problem = str(error)
        raise ValueError(problem)


class Judge:
    """Whose the records of one handler are, and which of them are refused.

    The same headers come again and again, and are judged once (1 µs a record instead of 12).
    """

    __slots__ = ("_headers", "_judged", "_name", "_required")

    def __init__(self, headers: FromHeaders, *, name: str, required: tuple[str, ...]) -> None:
        self._headers, self._name, self._required = headers, name, required
        self._judged = lru_cache(JUDGED_MAX)(self._judge)

    def refuse(self, record: RawRecord) -> None:
        """Raise `UnauthorizedRecordError` where the headers are no names, or have none of the required roles."""
        _, problem = self._judged(*self._headers.values(record))
        if problem is not None:
            raise UnauthorizedRecordError(f"{record}: {problem}")

    def origin(self, record: RawRecord) -> Origin:
        """Whose a record is, as its row has it: that of its dead letter says who it was, too."""
        return self._judged(*self._headers.values(record))[0]

    def _judge(self, user: bytes | None, roles: bytes) -> tuple[Origin, str | None]:
        try:
            found = self._headers.identity(user, roles)
        except ValueError as error:
            return NOBODY, str(error)
        problem: str | None = None
        try:
            found = authorized(self._name, found, self._required)
        except NotAuthorizedError as error:
            problem = str(error)
        return NOBODY if found is None else Origin(found.user, found.role, roles_text(found)), problem
