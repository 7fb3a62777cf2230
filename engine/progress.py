"""A partition's progress: what `event_dispatch_kv.value` says. Pure.

The value is JSON text, written whole at every flush and compared whole by the next one (P6): two values are equal
only if no commit lies between them, because every flush has a number.
"""

import json
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, replace
from typing import Self

from engine.errors import ConfigurationError
from engine.ranges import Range

_compact = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is stored of a partition.

    Attributes:
        next: The offset a new owner fetches from: everything below is persisted or decided (I3).
        high: 1 + the highest persisted offset; IDs below it are looked up before they run (P16).
        flush: + 1 at every flush.
        token: Of the current claim.
        owner: Executor that holds the claim, `None` before the first.
        released: Whether the owner has given it up.
        topic_id: Kafka's ID of the topic, '' where the broker has none.
        incarnation: The n-th topic of that name, from 1.
        leader_epoch: Of the last record persisted, `None` where unknown.
        generation: Of the owner's assignment; judges requests (P9), forbids nothing.
        filtered, skipped: Records below `next` without a workflow, by decision of the filter or as tombstones. Each is
            counted once, as what it was decided to be at first.
        counted: After a seek back: ranges of offsets whose decisions `filtered` and `skipped` have already.
        former: Kafka's IDs of the topics that had this name before, the last few: none of them ever comes back.
        waits: Why its next record cannot be decoded yet; `None`, and then not written: nothing is in the way.
    """

    next: int
    high: int
    flush: int = 0
    token: str = ""
    owner: str | None = None
    released: bool = True
    topic_id: str = ""
    incarnation: int = 1
    leader_epoch: int | None = None
    generation: int = 0
    filtered: int = 0
    skipped: int = 0
    counted: tuple[Range, ...] = ()
    former: tuple[str, ...] = ()
    waits: str | None = None

    def encode(self) -> str:
        """JSON text, keys in declared order: the same progress is always the same text."""
        # Not `dataclasses.asdict`: 20 µs, for every partition in every flush.
        stored = {name: getattr(self, name) for name in self.__slots__}
        if all(end <= self.next for _, end in self.counted):
            del stored["counted"]  # passed, or nothing ever: as nearly always
        if not self.former:
            del stored["former"]
        if self.waits is None:
            del stored["waits"]
        return _compact(stored)

    @classmethod
    def decode(cls, value: str | None, of: object = "a partition") -> Self:
        """Read a stored value.

        Args:
            value: As it stands; NULL is none.
            of: Whose it is, for errors.

        Raises:
            ConfigurationError: It has keys of a newer version, which rewriting would drop; or it is no progress at all.
        """
        try:
            stored = json.loads(value or "null")
            unknown = stored.keys() - {f.name for f in fields(cls)}
            if not unknown:
                counted = tuple((int(start), int(end)) for start, end in stored.pop("counted", ()))
                former = tuple(str(each) for each in stored.pop("former", ()))
                return cls(**stored, counted=counted, former=former)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"event_dispatch_kv: {str(value)[:200]!r} is no progress of {of}") from error
        raise ConfigurationError(
            f"event_dispatch_kv: progress of {of} has the unknown keys {sorted(unknown)}: a newer version wrote it.\n"
            f"  Run that version, or a later one."
        )

    def to(self, **changes: object) -> Self:
        """A changed copy, one flush on."""
        return replace(self, flush=self.flush + 1, **changes)  # type: ignore[arg-type]  # checked by the constructor


class Offsets:
    """Which offsets delivered are not yet settled: from it comes `next` (I3). Gaps are Kafka's business.

    An offset is settled when its record has a row, or a decision. `next` is the lowest unsettled one, or where
    Kafka's position stands when all are settled.
    """

    __slots__ = ("_pending", "_settled", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self._pending: deque[int] = deque()
        self._settled: set[int] = set()

    def deliver(self, offset: int) -> None:
        """An offset was delivered, above all before it."""
        assert offset >= self.position, f"offset {offset} delivered behind {self.position}"
        self._pending.append(offset)
        self.position = offset + 1

    def reach(self, position: int) -> None:
        """Nothing more comes below `position`: control records, compaction."""
        self.position = max(self.position, position)

    def settle(self, offset: int) -> None:
        """An offset has its row or decision, durably or with the flush that will write progress."""
        self._settled.add(offset)

    def next_with(self, settling: AbstractSet[int]) -> int:
        """What `next` may become in the commit that settles these as well. Does not change anything."""
        for offset in self._pending:
            if offset not in self._settled and offset not in settling:
                return offset
        return self.position

    def advance(self) -> None:
        """Forget what is settled from the bottom."""
        pending, settled = self._pending, self._settled
        while pending and pending[0] in settled:
            settled.discard(pending.popleft())

    def __len__(self) -> int:
        return len(self._pending)
