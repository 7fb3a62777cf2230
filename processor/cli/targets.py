"""Where in a partition's log, as an operator writes it in a command: an offset, an end of the log, a time."""

import argparse
from typing import TYPE_CHECKING

from processor.seeking import target_of

if TYPE_CHECKING:
    from consumers.offsets import Target


def target(text: str) -> "Target":
    """For `type=` of an argument."""
    try:
        return target_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
