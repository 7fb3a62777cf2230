"""A topic made anew under its name, or a log that was cut: another incarnation (P30).

    orders-3-17 … 1 187      the first topic        open workflows of both belong to the partition's claim,
    orders~2-3-0 … 44        the one there is now   those of the former one before the new ones of their keys (I7, I8)

Offsets begin anew with each incarnation, and a row's place, where it has one, counts like the offsets of the
incarnation that there is (P18). So every new one moves what came before it down by `TOPIC_SPAN`.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from engine.ids import SourceRef
from engine.progress import Progress
from engine.store import open_work
from engine.store.statement import send

TOPIC_SPAN = 2**50
"""Between the places of two incarnations: more offsets than a log has in 35 years at a million a second, and 8,000
incarnations fit in a bigint."""


FORMER_MAX = 4
"""IDs of former topics that are kept, the last ones: every flush writes them. A broker that lags tells one of the last."""


def former_place(offset: int, *, topics_before: int) -> int:
    """The place of a former topic's row that was given none: before everything of the topics behind it."""
    return offset - topics_before * TOPIC_SPAN


def another(held: Progress, *, topic_id: str, start: int, token: str, released: bool) -> Progress:
    """The progress of the next incarnation, whose counts begin at 0."""
    return held.to(
        token=token,
        released=released,
        next=start,
        high=start,
        topic_id=topic_id,
        incarnation=held.incarnation + 1,
        leader_epoch=None,
        filtered=0,
        skipped=0,
        counted=(),
        former=_former(held, topic_id),
    )


def _former(held: Progress, topic_id: str) -> tuple[str, ...]:
    """Without the topic that there is now: its log may have been cut, or an operator says that it is there again."""
    known = dict.fromkeys([*held.former, held.topic_id])
    return tuple(each for each in known if each not in ("", topic_id))[-FORMER_MAX:]


async def leave_behind(connection: AsyncConnection[Any], schema: str, ref: SourceRef, incarnation: int) -> None:
    """Move the places of what came before an incarnation. In the transaction that writes the new one's progress."""
    await send(
        connection,
        schema,
        open_work.move_places(
            sources=list(ref.former_names(incarnation)), service=ref.service_name, key=ref.key, by=-TOPIC_SPAN
        ),
    )
