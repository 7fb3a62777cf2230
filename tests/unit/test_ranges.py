"""Ranges of offsets: what of them is left, and what they are together."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ranges import Range, merged, without

offsets = st.integers(0, 30)
ranges = st.lists(st.tuples(offsets, offsets).map(lambda pair: (min(pair), max(pair))), max_size=5)


@pytest.mark.parametrize(
    "whole, parts, left",
    [
        ((0, 10), [], [(0, 10)]),
        ((0, 10), [(3, 5)], [(0, 3), (5, 10)]),
        ((0, 10), [(0, 4), (8, 20)], [(4, 8)]),
        ((0, 10), [(0, 10)], []),
        ((5, 5), [], []),
        ((0, 10), [(7, 9), (1, 2)], [(0, 1), (2, 7), (9, 10)]),
    ],
)
def test_what_is_left_of_a_range(whole: Range, parts: list[Range], left: list[Range]) -> None:
    assert without(whole, parts) == left


@given(whole=ranges.map(lambda all_of: all_of[0] if all_of else (0, 0)), parts=ranges)
def test_what_is_left_is_what_lies_in_the_range_and_in_no_part(whole: Range, parts: list[Range]) -> None:
    left = without(whole, parts)

    assert [offset for start, end in left for offset in range(start, end)] == [
        offset for offset in range(*whole) if not any(start <= offset < end for start, end in parts)
    ]


@given(parts=ranges)
def test_ranges_together_are_ascending_apart_and_the_same_offsets(parts: list[Range]) -> None:
    together = merged(parts)

    assert {offset for start, end in together for offset in range(start, end)} == {
        offset for start, end in parts for offset in range(start, end)
    }
    assert all(start < end for start, end in together)
    assert all(end < following for (_, end), (following, _) in pairwise(together))
