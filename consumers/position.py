"""How far the relay is, as Kafka has it: the offset of a group on an empty topic, committed with what it is about (I9). Pure.

    offset    = number of the batch published last
    metadata  = {"token": "…"}, which says that it was this batch and no other of the same number

Compared with what stands in Postgres it says what is to be done; whatever else is found halts the relay.
"""

import json
from dataclasses import dataclass
from typing import Any, Self, cast

from engine.errors import EngineError
from engine.store.outbox import StandingRow


@dataclass(frozen=True, slots=True)
class Position:
    """The batch published last."""

    number: int
    token: str

    @property
    def metadata(self) -> str:
        """As committed."""
        return json.dumps({"token": self.token})

    @classmethod
    def of(cls, offset: int, metadata: str | None) -> Self | None:
        """As read; `None`: there is none. What another program has committed has no token of ours."""
        if offset < 0:
            return None
        try:
            stored: object = json.loads(metadata or "{}")
        except ValueError:
            stored = None
        token = cast("dict[str, Any]", stored).get("token", "") if isinstance(stored, dict) else ""
        return cls(offset, token if isinstance(token, str) else "")


class HistoryError(EngineError):
    """Kafka and Postgres have different histories of this outbox: somebody has to say what was lost."""


def is_published(position: Position | None, stands: StandingRow) -> bool:
    """Whether the batch that stands formed is published already.

    Raises:
        HistoryError: The two do not belong together. The message says in what way.
    """
    token = None if position is None else position.token
    if token is not None and token == stands.next_token:
        return True
    if token == stands.token:
        return False
    known = stands.number + (stands.next_token is not None)
    if position is None:
        raise HistoryError(
            f"Kafka has no position of this outbox, and batch {stands.number} was published: these are other brokers, or "
            f"they have forgotten it (offsets.retention.minutes, while no relay ran)"
        )
    if position.number > known:
        raise HistoryError(
            f"Kafka has batch {position.number}, the database knows of {known}: it has lost commits (a failover to a "
            f"replica that was behind, a restored backup), or it is an older copy"
        )
    if position.number < stands.number:
        raise HistoryError(
            f"Kafka has batch {position.number}, and {stands.number} was published: Kafka has lost commits, or somebody "
            f"reset the group's offset"
        )
    raise HistoryError(
        f"batch {position.number} in Kafka is not the one that the database has: it lost commits and went on, or a copy of it "
        f"relays to the same brokers"
    )
