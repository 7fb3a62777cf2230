"""What a workflow may wait for beside time: somebody's result, a message, an event, more of a stream. Pure."""

from typing import Literal, NamedTuple

Kind = Literal["result", "message", "event", "stream"]

FOREVER_MS = 1 << 53
"""A wake-up time that never comes: only a signal wakes it."""


class Signal(NamedTuple):
    """One thing waited for.

    Attributes:
        kind: What.
        target: Whose result, event or stream; of a message, the workflow that waits.
        name: Key of the event or stream, topic of the message.
        place: Of a stream: the offset that is waited for, which whoever writes does not know.
    """

    kind: Kind
    target: str
    name: str = ""
    place: int = 0

    @property
    def anywhere(self) -> "Signal":
        """The same without its place: what is brought under this wakes whoever waits."""
        return self._replace(place=0) if self.place else self
