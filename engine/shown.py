"""What is sealed, for people: opened where its key is here, and said to be unreadable where it is not (decision 0012).

    its key is here         as it was written
    its key is not here     {"unreadable": "workflow w: output is sealed with key '2026-06', which is not …"}

A row whose payloads cannot be read is still to be seen, and acted on. Who works with a value, and does not only show it,
waits for the key instead (engine/unreadable.py).
"""

from __future__ import annotations

import json
from dataclasses import replace

from engine.dead_letters import DeadLetterRow, opened
from engine.payloads import Payloads, UnreadablePayloadError


class ShownPayloads(Payloads):
    """Opens as another one does, and says of a text that it cannot open why. Seals nothing."""

    def __init__(self, payloads: Payloads) -> None:
        super().__init__()
        self._payloads = payloads

    def open(self, text: str, where: str) -> str:
        """The text, or JSON that says why it cannot be read."""
        try:
            return self._payloads.open(text, where)
        except UnreadablePayloadError as error:
            return _unreadable(error)


def shown_letter(letter: DeadLetterRow, payloads: Payloads) -> DeadLetterRow:
    """A dead letter as it was; one that cannot be opened without its record, and why in the place of its error."""
    try:
        return opened(letter, payloads)
    except UnreadablePayloadError as error:
        return replace(letter, record_key=None, record_value=None, record_headers=None, error=_unreadable(error))


def _unreadable(error: UnreadablePayloadError) -> str:
    return json.dumps({"unreadable": str(error)})
