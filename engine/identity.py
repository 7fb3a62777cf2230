"""Who asked for a workflow, and what for: kept in its row, the same for its children, in every attempt and after recovery. Pure.

    authenticated_user, assumed_role, authenticated_roles, request ──▶ Origin ──▶ the run

A role says what somebody may start. `required` names those of which one is enough; the first that fits is the role assumed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from engine.errors import ConfigurationError, EngineError

if TYPE_CHECKING:
    from engine.runner import Run

USER_MAX = 512
"""Characters of a user's name."""

ROLES_MAX = 100
"""Roles of one identity: they are in the row of everything it starts."""


class NotAuthorizedError(EngineError):
    """An identity may not start a workflow. Nothing was written."""

    def __init__(self, what: str, user: str | None, required: tuple[str, ...]) -> None:
        super().__init__(what, user, required)
        self.what, self.user, self.required = what, user, tuple(required)

    def __str__(self) -> str:
        who = "nobody in particular" if self.user is None else f"user {self.user!r}"
        return f"workflow {self.what!r}: {who} has none of the roles it requires: {', '.join(self.required)}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        user: A name, as the authentication says it.
        roles: What the user may be.
        role: What the user is for this workflow: the required role that fits. `None`: none was required.
    """

    user: str
    roles: tuple[str, ...] = ()
    role: str | None = None

    def __post_init__(self) -> None:
        if not _is_name(self.user) or len(self.user) > USER_MAX:
            raise ConfigurationError(f"Identity: a user is 1 to {USER_MAX} characters, not {self.user!r:.100}")
        roles = cast("Any", self.roles)
        if isinstance(roles, str) or not isinstance(roles, Sequence):
            raise ConfigurationError(f"Identity({self.user!r}): roles={roles!r}: a tuple of names, as ('customer',)")
        if len(self.roles) > ROLES_MAX or not all(_is_name(role) for role in self.roles):
            raise ConfigurationError(f"Identity({self.user!r}): at most {ROLES_MAX} roles, each a name")
        object.__setattr__(self, "roles", tuple(self.roles))


class Origin(NamedTuple):
    """A row's columns that say whose workflow it is, as they stand there."""

    user: str | None = None
    role: str | None = None
    roles: str | None = None
    request: str | None = None

    @property
    def identity(self) -> Identity | None:
        """Whose it is; `None`: nobody's. A row of another program may have roles in a form of its own: they are none."""
        if not self.user:
            return None
        try:
            return Identity(self.user, _roles(self.roles), self.role)
        except ConfigurationError:
            return None


NOBODY = Origin()

acting: ContextVar[Identity | None] = ContextVar("acting_identity", default=None)
"""Whose identity workflows get that are started here and not by a workflow."""


def origin_of(run: Run) -> Origin:
    """Whose workflow a run is, and what asked for it; of a record's, what its headers say."""
    if not run.home.has_source:
        return run.origin
    of_record, record = run.handler.origin, run.record
    return NOBODY if of_record is None or record is None else of_record(record)


def identity_of(run: Run) -> Identity | None:
    """Whose workflow a run is."""
    return origin_of(run).identity


def authorized(what: str, identity: Identity | None, required: Sequence[str]) -> Identity | None:
    """The identity with the role it assumes. Raises `NotAuthorizedError` if it has none of those required."""
    if not required:
        return identity
    if identity is not None:
        for role in required:
            if role in identity.roles:
                return replace(identity, role=role)
    raise NotAuthorizedError(what, None if identity is None else identity.user, tuple(required))


def roles_text(identity: Identity) -> str:
    """The column `authenticated_roles`: a JSON list, as DBOS has it."""
    return json.dumps(list(identity.roles))


def checked_roles(what: str, roles: object) -> tuple[str, ...]:
    """Roles as they are given at registration. Raises `ConfigurationError`."""
    if isinstance(roles, str) or not isinstance(roles, Sequence):
        raise ConfigurationError(f"{what}: roles={roles!r}: a tuple of names, as ({roles!r},)")
    named = tuple(cast("Sequence[Any]", roles))
    if len(named) > ROLES_MAX or not all(_is_name(role) for role in named):
        raise ConfigurationError(f"{what}: roles={roles!r}: names, at most {ROLES_MAX}")
    return named


def _roles(text: str | None) -> tuple[str, ...]:
    try:
        found: Any = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(str(role) for role in cast("list[Any]", found)) if isinstance(found, list) else ()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()
