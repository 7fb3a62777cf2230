"""Kafka's position and what stands in Postgres, compared: publish, go on, or halt (I9; decision 0008)."""

import pytest

from consumers.position import HistoryError, Position, is_published
from engine.store.outbox import StandingRow


def stands(number: int, token: str | None, next_token: str | None = None) -> StandingRow:
    return StandingRow("name", 1, None, True, 0, number, token, next_token, 0, False, None)


@pytest.mark.parametrize(
    "position, row, published",
    [
        (None, stands(0, None), False),
        (None, stands(0, None, "t1"), False),
        (Position(1, "t1"), stands(0, None, "t1"), True),
        (Position(1, "t1"), stands(1, "t1"), False),
        (Position(1, "t1"), stands(1, "t1", "t2"), False),
        (Position(2, "t2"), stands(1, "t1", "t2"), True),
    ],
)
def test_what_belongs_together_says_whether_the_formed_batch_is_published(
    position: Position | None, row: StandingRow, published: bool
) -> None:
    assert is_published(position, row) is published


@pytest.mark.parametrize(
    "position, row, reason",
    [
        (Position(7, "t7"), stands(5, "t5", "t6"), "Kafka has batch 7, the database knows of 6: it has lost commits"),
        (Position(1, "t1"), stands(0, None), "Kafka has batch 1, the database knows of 0"),
        (Position(4, "t4"), stands(5, "t5"), "Kafka has batch 4, and 5 was published: Kafka has lost commits"),
        (Position(5, "other"), stands(5, "t5"), "batch 5 in Kafka is not the one that the database has"),
        (Position(6, "other"), stands(5, "t5", "t6"), "batch 6 in Kafka is not the one that the database has"),
        (Position(5, ""), stands(5, "t5"), "batch 5 in Kafka is not the one that the database has"),
        (None, stands(5, "t5", "t6"), "Kafka has no position of this outbox, and batch 5 was published"),
    ],
)
def test_what_does_not_belong_together_halts_with_what_is_wrong(
    position: Position | None, row: StandingRow, reason: str
) -> None:
    with pytest.raises(HistoryError) as raised:
        is_published(position, row)

    assert str(raised.value).startswith(reason)


def test_a_position_is_read_as_it_was_committed() -> None:
    position = Position(7, "abc")

    assert Position.of(7, position.metadata) == position
    assert Position.of(-1001, None) is None


@pytest.mark.parametrize("metadata", [None, "", "no json", "[]", '{"token": 5}', '"text"'])
def test_an_offset_that_something_else_committed_has_no_token_of_ours(metadata: str | None) -> None:
    assert Position.of(7, metadata) == Position(7, "")
