"""Where in a partition's log, as an operator writes it: an offset, an end of the log, a time."""

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from consumers.settings import StartAt

if TYPE_CHECKING:
    from consumers.offsets import Target


def target_of(text: str) -> "Target":
    """For `type=` of an argument."""
    if text.isdecimal():
        return int(text)
    if text in ("earliest", "latest"):
        return StartAt(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no offset, 'earliest', 'latest' or time") from None
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r}: a time needs its zone, as 2026-01-31T08:00:00Z")
    return at
