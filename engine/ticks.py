"""Which ticks of a schedule are to be started, and what one of them is. Pure.

             last tick          now - a lease         now
───────────────┼──────┬──────┬──────┼───────┬──────────┼──▶
                      late          │       on time
ALL                   ●      ●              ●             in order, a batch at a time
LATEST                                      ●             without one on time: the newest late one
NONE                                        ●             if an executor with the schedule lived at its time
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from engine.cron import CatchUp, Cron
from engine.ids import WorkflowId
from engine.starts import Start

BATCH_MAX = 100
"""Ticks of one schedule that one commit starts."""

COUNT_MAX = 100
"""Ticks that are counted when they are passed over, at 30 µs each: the event loop waits for it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one look does about one schedule.

    Attributes:
        ticks: To be started, in order; epoch ms.
        decided: Everything up to here is decided: the last tick from now on.
        missed: Ticks that are passed over, at most COUNT_MAX.
        has_more: Whether more are due than one batch.
    """

    ticks: tuple[int, ...]
    decided: int
    missed: int = 0
    has_more: bool = False


def plan(cron: Cron, *, last: int, now: int, late_before: int, active_since: int, room: int = BATCH_MAX) -> Plan:
    """What is due behind the last tick, by what the schedule says about ticks that were missed.

    Args:
        cron: The schedule.
        last: Its last tick; epoch ms, as all that follows.
        now: By Postgres's clock.
        late_before: A tick at or before it is late.
        active_since: Since when an executor that has the schedule is alive without a break.
        room: Most ticks to start.
    """
    late_before = min(late_before, now)
    match cron.catch_up:
        case CatchUp.ALL:
            return _batch(cron, last, now, room)
        case CatchUp.NONE:
            floor = max(last, late_before, min(active_since, now))
            missed = cron.count(last, floor, limit=COUNT_MAX)
            batch = _batch(cron, floor, now, room)
            decided = batch.decided if batch.ticks or missed else last
            return Plan(batch.ticks, decided, missed, batch.has_more)
        case CatchUp.LATEST:
            floor = max(last, late_before)
            missed = cron.count(last, floor, limit=COUNT_MAX)
            batch = _batch(cron, floor, now, room)
            if batch.ticks or not missed:
                decided = batch.decided if batch.ticks else last
                return Plan(batch.ticks, decided, missed, batch.has_more)
            newest = cron.newest(floor)
            assert newest is not None, "one was counted"
            return Plan((newest,), newest, missed - 1)


def _batch(cron: Cron, after: int, until: int, room: int) -> Plan:
    """The first ticks of a range."""
    found = tuple(islice(cron.between(after, until), room + 1))
    ticks = found[:room]
    return Plan(ticks, ticks[-1] if ticks else after, has_more=len(found) > room)


def instant(at: int) -> str:
    """Epoch ms as it stands in IDs and inputs: UTC, with milliseconds."""
    text = (_EPOCH + at * timedelta(milliseconds=1)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def tick_id(name: str, at: int) -> WorkflowId:
    """The workflow of a tick: one, whoever starts it and how often."""
    return WorkflowId(f"sched-{name}-{instant(at)}")


def trigger_id(name: str, at: int) -> WorkflowId:
    """The workflow of a run that somebody asked for."""
    return WorkflowId(f"sched-{name}-trigger-{instant(at)}")


def tick_start(name: str, version: str, at: int, now: int, *, why: str, workflow_id: WorkflowId | None = None) -> Start:
    """The row of a tick: at rest, due at once, and taken before those whose time was later.

    Its inputs are two times, nothing of users: they are stored readable, whoever writes them.

    Args:
        name: Of the workflow.
        version: Of its code.
        at: Its scheduled time.
        now: When it is started, by Postgres's clock.
        why: What starts it, for people: 'tick', 'trigger' or 'backfill'.
        workflow_id: `None`: that of a tick.
    """
    times = {"scheduled_at": instant(at), "started_at": instant(now)}
    return Start(
        id=workflow_id or tick_id(name, at),
        name=name,
        version=version,
        inputs=json.dumps({"args": [times], "kwargs": {}}),
        request=json.dumps({"schedule": name, "why": why}),
        wake_at=min(at, now),
    )


def tick_starts(name: str, version: str, ticks: Iterable[int], now: int, *, why: str) -> list[Start]:
    """The rows of several ticks."""
    return [tick_start(name, version, at, now, why=why) for at in ticks]


__all__ = [
    "BATCH_MAX",
    "COUNT_MAX",
    "Plan",
    "instant",
    "plan",
    "tick_id",
    "tick_start",
    "tick_starts",
    "trigger_id",
]
