"""Ranges of offsets, each `(first, behind the last)`. Pure."""

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same offsets in ascending ranges that do not touch."""
    together: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if together and start <= together[-1][1]:
            together[-1] = (together[-1][0], max(end, together[-1][1]))
        else:
            together.append((start, end))
    return together


def without(whole: Range, parts: Sequence[Range]) -> list[Range]:
    """What of a range is in none of the parts, ascending."""
    left: list[Range] = []
    start, end = whole
    for part_start, part_end in merged(parts):
        if start < min(part_start, end):
            left.append((start, min(part_start, end)))
        start = max(start, part_end)
    if start < end:
        left.append((start, end))
    return left
