"""Durations and sizes as people write them, and as they read them. Pure."""

import re
from datetime import timedelta

_UNITS = {
    "us": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]*)")


def duration(value: object) -> object:
    """'30s', '20 ms', '1h 30m', or a number of seconds, as a timedelta. Raises `ValueError` for anything else.

    One below nothing, '-3s', is read too: whoever may not have it can then say so.
    """
    if isinstance(value, bool) or value is None:
        raise ValueError("a duration is written as 30s, 20ms, 5m, 1h30m or a number of seconds")
    if isinstance(value, int | float):
        return _times(value, timedelta(seconds=1))
    if not isinstance(value, str):
        return value
    text = value.strip().lower().replace("µ", "u")
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _AMOUNT.findall(text)
    if not parts or _AMOUNT.sub("", text).strip():
        raise ValueError("a duration is written as 30s, 20ms, 5m, 1h30m or a number of seconds")
    total = timedelta()
    for number, unit in parts:
        if (not unit and len(parts) > 1) or (unit and unit not in _UNITS):
            raise ValueError(f"{unit or number!r} is no unit of time: us, ms, s, m, h, d")
        total += _times(sign * float(number), _UNITS[unit or "s"])
    return total


def _times(number: float, unit: timedelta) -> timedelta:
    try:
        return number * unit
    except OverflowError:
        raise ValueError("a duration of more than two million years is none") from None


def size(value: object) -> object:
    """'64 MiB', '1GB' or a number of bytes, as an int. Raises `ValueError` for anything else."""
    if not isinstance(value, str):
        return value
    match = _AMOUNT.fullmatch(value.strip().lower())
    if match is None or match[2] not in _SIZES:
        raise ValueError("a size is written as 64MiB, 512KiB, 1GB or a number of bytes")
    return int(float(match[1]) * _SIZES[match[2]])


def spell_duration(value: timedelta) -> str:
    """A duration as `duration` reads it: '20ms', '30s', '1h30m'."""
    left = value // timedelta(microseconds=1)
    spelled = ""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, left = divmod(left, _UNITS[unit] // timedelta(microseconds=1))
        spelled += f"{count}{unit}" if count else ""
    return spelled or "0s"


def spell_size(value: int) -> str:
    """A size as `size` reads it, in the largest unit that is exact: '64MiB'."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)
