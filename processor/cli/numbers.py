"""Whole numbers in a command line, and what is said of what is none. Each is for `type=` of an argument."""

import argparse
import re
from collections.abc import Callable

DIGITS_MAX = 100
"""More are nobody's number, and would fill the screen. Whether there is what a number names is another question."""


def number(text: str) -> int:
    """A whole number."""
    return _read(text, "a whole number is wanted")


def number_in(command: str, column: str = "ID") -> Callable[[str], int]:
    """The number of what `command` shows, which stands in one of its columns."""
    shown = "`processor " + command + "`"
    return lambda text: _read(text, f"a number is wanted, that in column {column} of " + shown)


def _read(text: str, wanted: str) -> int:
    if not re.fullmatch(rf"-?[0-9]{{1,{DIGITS_MAX}}}", text):
        raise argparse.ArgumentTypeError(f"{text[:DIGITS_MAX]!r}: {wanted}")
    return int(text)
