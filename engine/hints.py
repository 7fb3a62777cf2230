"""Hints to other processes, gathered: NOTIFY takes a lock that lets one committing transaction through at a time.

A hint is never the only way to learn of something: whoever gets it looks for itself, and looks now and then without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import psycopg

from engine.faults import Fault, fault_of
from engine.signals import Kind, Signal
from engine.store import executor
from engine.store.statement import send

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.reach import Reach

ROWS_CHANNEL = "processor_rows"
"""Rows or holds have changed."""

BROUGHT_CHANNELS: Final[dict[str, Kind]] = {
    "dbos_notifications_channel": "message",
    "dbos_workflow_events_channel": "event",
    "processor_streams": "stream",
}
"""Something has come: `workflow::topic`, `workflow::key`. The first two are the seed's, whose triggers notify for others."""

GATHER_S = 0.01
"""Hints of so long are one statement: far below what a look without them takes."""

IDS_MAX = 100
"""Workflows named in one hint: a payload has 8,000 bytes. Beyond it everybody looks for everything."""


class Hints:
    """What one process tells the others."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._rows = False
        self._queues: set[str] = set()
        self._ended: set[str] = set()
        self._cancelled: set[str] = set()
        self._interrupted: set[str] = set()
        self._brought: set[Signal] = set()
        self._is_pending = False

    def rows(self) -> None:
        """Rows at rest are due, for whoever has room: here, and elsewhere."""
        self._reach.look_for_rows()
        self._rows = True
        self._say_soon()

    def queue(self, name: str) -> None:
        """Something is ready in a queue, for whoever takes from it elsewhere."""
        self._queues.add(name)
        self._say_soon()

    def ended(self, workflow_id: str) -> None:
        """A workflow without a source has its outcome."""
        self._ended.add(workflow_id)
        self._say_soon()

    def brought(self, signals: Iterable[Signal]) -> None:
        """Messages, events, more of streams are there, for whoever waits elsewhere."""
        self._brought.update(signals)
        if self._brought:
            self._say_soon()

    def cancelled(self, workflow_id: str, *, interrupt: bool) -> None:
        """A workflow was cancelled, whoever runs it."""
        (self._interrupted if interrupt else self._cancelled).add(workflow_id)
        self._say_soon()

    def _say_soon(self) -> None:
        if not self._is_pending and not self._reach.is_aborted:
            self._is_pending = True
            self._reach.call_later(GATHER_S, self._say)

    async def flush(self) -> None:
        """Say now what is left to say: the process ends."""
        if said := self._take():
            await self._send(said)

    def _say(self) -> None:
        if (said := self._take()) and not self._reach.stopping.is_set():
            self._reach.spawn(self._send(said))

    def _take(self) -> list[tuple[str, str]]:
        self._is_pending = False
        rows = [
            *(["rows"] if self._rows else []),
            *(f"queue {name}" for name in self._queues),
            *_of(self._ended, "ended"),
            *_of(self._cancelled, "cancelled"),
            *_of(self._interrupted, "interrupted"),
        ]
        said = [(ROWS_CHANNEL, payload) for payload in rows]
        channels = {kind: channel for channel, kind in BROUGHT_CHANNELS.items()}
        said += [(channels[signal.kind], f"{signal.target}::{signal.name}") for signal in self._brought]
        self._rows = False
        for named in (self._queues, self._ended, self._cancelled, self._interrupted, self._brought):
            named.clear()
        return said

    async def _send(self, said: list[tuple[str, str]]) -> None:
        hints = executor.notify_all(channels=[channel for channel, _ in said], payloads=[text for _, text in said])
        try:
            async with self._reach.pool.connection() as connection:
                await send(connection, self._reach.settings.schema, hints)
        except psycopg.Error as error:
            if fault_of(error) is not Fault.WEATHER:
                raise
            # They look for themselves.


def heard(engine: Engine, payload: str) -> None:
    """A hint on the channel of rows arrived."""
    word, _, rest = payload.partition(" ")
    ids = rest.split()
    match word:
        case "ended":
            if ids:
                engine.waits.signalled([Signal("result", i) for i in ids])
            else:
                engine.waits.hinted()
        case "queue":
            engine.dispatcher.wants((rest,))
        case "cancelled" | "interrupted" if ids:
            engine.cancels.heard(ids, interrupt=word == "interrupted")
        case _:
            # Also in words of a later version, and a partition's name: look for everything.
            engine.scan.hint()
            engine.waits.hinted()


def heard_brought(reach: Reach, kind: Kind, payload: str) -> None:
    """A hint that something came: `workflow::name`, where either may have `::` in it as well."""
    at = payload.find("::")
    while at >= 0:
        reach.waits.signalled((Signal(kind, payload[:at], payload[at + 2 :]),))
        at = payload.find("::", at + 1)


def cancelled_hints(ids: Iterable[str], *, interrupt: bool) -> list[str]:
    """What to say of workflows that were cancelled by a process without an engine."""
    named = sorted(ids)
    word = "interrupted" if interrupt else "cancelled"
    return [
        hint
        for start in range(0, len(named), IDS_MAX)
        for hint in (*_of(set(named[start : start + IDS_MAX]), word), "rows")
    ]


def _of(ids: set[str], word: str) -> list[str]:
    if not ids:
        return []
    short = [workflow_id for workflow_id in ids if " " not in workflow_id and len(workflow_id.encode()) <= 70]
    if len(short) < len(ids) or len(short) > IDS_MAX:
        return [word]
    return [f"{word} {' '.join(short)}"]
