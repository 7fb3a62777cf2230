"""Whole numbers in a command line, and what is said of what is none. Each is for `type=` of an argument."""

import argparse
import re
from collections.abc import Callable

NUMBER_MAX = 2**63 - 1
"""As a row's number in Postgres."""


def number(text: str) -> int:
    """A whole number."""
    return _read(text, "a whole number is wanted")


def number_in(command: str, column: str = "ID") -> Callable[[str], int]:
    """The number of what `command` shows, which stands in one of its columns."""
    return lambda text: _read(text, f"a number is wanted, that in column {column} of `processor {command}`")


def _read(text: str, wanted: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or abs(int(text)) > NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: {wanted}")
    return int(text)
