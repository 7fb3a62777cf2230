"""When a failed step or workflow is tried again."""

from datetime import timedelta

import pytest

from engine.retries import NEVER, Retry, RetryAfterError, TerminalError

SECOND = timedelta(seconds=1)


def waits(retry: Retry, error: Exception) -> list[timedelta]:
    """What is waited after each failure, until the last."""
    found: list[timedelta] = []
    while (delay := retry.delay_after(len(found) + 1, error)) is not None:
        found.append(delay)
    return found


def test_the_defaults_are_those_of_dbos() -> None:
    """Three attempts in total, one second, twice as long each time (StepConfig)."""
    assert waits(Retry(), OSError()) == [SECOND, 2 * SECOND]
    assert Retry().on == (Exception,)
    assert Retry().max_delay == timedelta(hours=1)


def test_waits_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(attempts=6, first_delay=2 * SECOND, backoff=3, max_delay=50 * SECOND)
    assert waits(retry, OSError()) == [2 * SECOND, 6 * SECOND, 18 * SECOND, 50 * SECOND, 50 * SECOND]


def test_a_factor_of_one_waits_the_same_each_time() -> None:
    assert waits(Retry(attempts=4, backoff=1), OSError()) == [SECOND] * 3


@pytest.mark.parametrize("backoff", [2, 2.0, 1e10, 1.5])
@pytest.mark.parametrize("attempt", [48, 100, 9_999])
def test_however_many_attempts_the_wait_is_at_most_the_longest(backoff: float, attempt: int) -> None:
    """The 48th wait of the defaults would be longer than a `timedelta` can be."""
    retry = Retry(attempts=10_000, backoff=backoff, max_delay=7 * SECOND)
    assert retry.delay_after(attempt, OSError()) == 7 * SECOND
    assert Retry(attempts=10_000, first_delay=timedelta(0), backoff=backoff).delay_after(
        attempt, OSError()
    ) == timedelta(0)


def test_one_attempt_is_one() -> None:
    assert waits(NEVER, OSError()) == []
    assert waits(Retry(attempts=2), OSError()) == [SECOND]


def test_what_is_not_worth_another_try_ends_it() -> None:
    retry = Retry(attempts=5, on=(ConnectionError, TimeoutError))
    assert retry.delay_after(1, ConnectionResetError()) == SECOND
    assert retry.delay_after(1, TimeoutError()) == SECOND
    assert retry.delay_after(1, ValueError()) is None


def test_a_terminal_error_ends_it_whatever_is_named() -> None:
    assert Retry(attempts=5, on=(TerminalError,)).delay_after(1, TerminalError("no")) is None


def test_an_error_that_names_its_wait_gets_it_and_counts_as_an_attempt() -> None:
    late = RetryAfterError(timedelta(days=3))
    retry = Retry(attempts=2, max_delay=SECOND, on=(ConnectionError,))
    assert retry.delay_after(1, late) == timedelta(days=3)
    assert retry.delay_after(2, late) is None
    assert str(late) == "try again after 3 days, 0:00:00"
    assert str(RetryAfterError(SECOND, "busy")) == "busy"
    assert RetryAfterError(SECOND, "busy").args == (SECOND, "busy")
    assert RetryAfterError(SECOND).args == (SECOND, "")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attempts": 0}, "Retry(attempts=0): at least one attempt"),
        ({"first_delay": timedelta(microseconds=-1)}, "Retry: first_delay and max_delay cannot be negative"),
        ({"max_delay": timedelta(microseconds=-1)}, "Retry: first_delay and max_delay cannot be negative"),
        ({"backoff": 0.99}, "Retry(backoff=0.99): at least 1"),
        ({"on": ValueError}, "Retry(on=<class 'ValueError'>): a tuple of exception types, as (TimeoutError,)"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        Retry(**changes)  # pyright: ignore[reportArgumentType]  # one wrong argument each
    assert str(refused.value) == message


def test_what_stands_at_the_edge_is_allowed() -> None:
    edge = Retry(attempts=1, first_delay=timedelta(0), max_delay=timedelta(0), backoff=1, on=())
    assert edge.delay_after(1, OSError()) is None
    assert Retry(first_delay=timedelta(0)).delay_after(1, OSError()) == timedelta(0)
