"""Whose workflow it is, as columns have it; and who may start what."""

import pytest

from engine.errors import ConfigurationError
from engine.failures import decode_error, encode_error
from engine.identity import Identity, NotAuthorizedError, Origin, authorized, roles_text
from engine.ids import WorkflowId
from engine.starts import Start


def start(**options: object) -> Start:
    return Start(id=WorkflowId("w"), name="place", version="1", inputs='{"args": [], "kwargs": {}}', **options)  # type: ignore[arg-type]


def test_an_identity_comes_back_from_its_columns() -> None:
    identity = Identity("ada", ("customer", "ärzte"), "customer")
    row = start()

    row.belongs_to(identity)

    assert row.origin.identity == identity
    assert (row.user, row.role, row.roles) == ("ada", "customer", roles_text(identity))
    assert start().origin.identity is None


@pytest.mark.parametrize("roles", [None, "", "not json", "{}", "[]"])
def test_roles_in_another_programs_form_are_none(roles: str | None) -> None:
    assert Origin("ada", None, roles).identity == Identity("ada")


def test_the_first_required_role_that_fits_is_assumed() -> None:
    identity = Identity("ada", ("a", "b"))

    assert authorized("w", identity, ()) == identity
    assert authorized("w", None, ()) is None
    assert authorized("w", identity, ("x", "b", "a")) == Identity("ada", ("a", "b"), "b")
    for who in (None, Identity("bob", ("c",))):
        with pytest.raises(NotAuthorizedError, match="requires: a, b"):
            authorized("w", who, ("a", "b"))


def test_a_refusal_is_recorded_and_rebuilt() -> None:
    error = NotAuthorizedError("place", "ada", ("clerk", "boss"))

    again = decode_error(encode_error(error))

    assert isinstance(again, NotAuthorizedError)
    assert str(again) == str(error)


@pytest.mark.parametrize(
    "user, roles", [("", ()), ("a\nb", ()), ("x" * 513, ()), ("ada", "customer"), ("ada", ("",)), ("ada", (3,))]
)
def test_what_is_no_identity_is_refused(user: str, roles: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="Identity"):
        Identity(user, roles)
