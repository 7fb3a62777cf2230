"""Whose workflow it is, as columns have it; and who may start what."""

from collections.abc import Sequence

import pytest

from engine.errors import ConfigurationError
from engine.failures import decode_error, encode_error
from engine.handlers import UnauthorizedRecordError
from engine.identity import NOBODY, Identity, NotAuthorizedError, Origin, authorized, roles_text
from engine.ids import WorkflowId
from engine.records import Record
from engine.starts import Start
from processor.record_identity import FromHeaders, Judge


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


def record(headers: Sequence[tuple[str, bytes | None]]) -> Record:
    return Record(topic="orders", partition=0, offset=7, key=None, value=b"{", timestamp_ms=0, headers=tuple(headers))


ADA = Origin("ada", "clerk", '["clerk", "boss"]')
JUDGED: list[tuple[Sequence[tuple[str, bytes | None]], Origin, str | None]] = [
    ([("user", b"ada"), ("roles", b" clerk ,,boss")], ADA, None),
    ([("user", b"eve"), ("roles", b"x"), ("user", b"ada"), ("roles", b"clerk,boss")], ADA, None),
    ([("user", b"eve")], Origin("eve", None, "[]"), "user 'eve' has none of the roles"),
    ([("user", b"eve"), ("roles", None)], Origin("eve", None, "[]"), "user 'eve' has none of the roles"),
    ([("roles", b"clerk")], NOBODY, "nobody in particular has none of the roles"),
    ([("user", None), ("roles", b"clerk")], NOBODY, "nobody in particular"),
    ([("user", b""), ("roles", b"clerk")], NOBODY, "a user is 1 to 512 characters"),
    ([("user", b"ada"), ("roles", b"\xff")], NOBODY, "can't decode byte"),
]


@pytest.mark.parametrize("headers, origin, problem", JUDGED)
def test_headers_come_to_an_identity_or_to_a_reason_each_time(
    headers: Sequence[tuple[str, bytes | None]], origin: Origin, problem: str | None
) -> None:
    """The second record with the same headers is told the same, with its own name."""
    judge = Judge(FromHeaders("user", roles="roles"), name="fulfil", required=("clerk",))

    for _ in range(2):
        assert judge.origin(record(headers)) == origin
        if problem is None:
            judge.refuse(record(headers))
        else:
            with pytest.raises(UnauthorizedRecordError, match=rf"(?s)orders-0-7.*{problem}"):
                judge.refuse(record(headers))
