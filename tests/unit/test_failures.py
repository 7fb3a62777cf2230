"""Errors as rows: what a workflow gets the first time is what it gets in every replay (I4). Pure."""

from typing import Any

import pytest

from engine.errors import EngineError, NondeterminismError, RacingStepsError, UnfitResultError
from engine.failures import as_recorded, decode_error
from engine.ids import WorkflowId


class GatewayError(Exception):
    def __init__(self, message: str, *, code: Any = 0) -> None:
        super().__init__(message)
        self.code = code


class Opaque:
    """Nothing that JSON knows."""


@pytest.mark.parametrize(
    "code", [402, "declined", None, [1, {"a": 2.5}], Opaque(), (1, 2), {1: 2}, float("nan"), "\x00"]
)
def test_fields_of_an_error_are_the_same_in_a_replay(code: Any) -> None:
    """Those that JSON holds are kept; for others the rebuilt error is given at once."""
    text, given = as_recorded(GatewayError("declined", code=code))
    again = decode_error(text)

    assert type(given) is type(again) is GatewayError
    assert vars(given) == vars(again)


def test_a_field_that_json_holds_is_kept() -> None:
    error = GatewayError("declined", code=402)

    text, given = as_recorded(error)

    assert given is error
    assert vars(decode_error(text)) == {"code": 402}


def test_a_field_beside_one_that_cannot_be_kept_is_kept() -> None:
    error = GatewayError("declined", code=402)
    error.response = Opaque()  # type: ignore[attr-defined]  # as libraries do

    _, given = as_recorded(error)

    assert given is not error
    assert vars(given) == {"code": 402}


def test_notes_are_no_fields() -> None:
    error = ValueError("wrong")
    error.add_note("in the statement: SELECT 1")

    assert as_recorded(error)[1] is error


@pytest.mark.parametrize(
    "error",
    [
        NondeterminismError(WorkflowId("w"), "charge", "refund"),
        UnfitResultError(WorkflowId("w"), "charge", "'paid' is no number"),
        RacingStepsError(WorkflowId("w"), "charge"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_says_that_a_history_does_not_fit_comes_back_as_itself(error: EngineError) -> None:
    """A handle's `result()` raises what ended the workflow, not a stand-in that nobody can catch by its class."""
    text, given = as_recorded(error)
    again = decode_error(text)

    assert given is error
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
