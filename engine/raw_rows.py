"""Rows that were written before anybody looked into their records, and whose keys lie there: `order_by=` (P21).

    cautious claim ─▶ raw row, under the partition's key ─▶ decoded ─▶ behind the open row of its real key, if any
                                                               └─▶ the real key is stored ─▶ runs, or comes to rest

Raw rows are decoded one after the other, since the partition's key is passed on when a real one is taken. Records that
are not raw wait until every raw row's key is known *and stored*: a row with a key of its own, in front of one without,
would overtake it at the next claim (I7).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from engine.admission import key_of
from engine.faults import Fault, fault_of
from engine.runner import Phase, Row, Run
from engine.store import open_work
from engine.store.statement import send

if TYPE_CHECKING:
    from engine.inbox import Inbox

WAIT_FIRST_S = 0.05
WAIT_MAX_S = 3.0
"""Back-off while Postgres is away."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What is to be stored of a raw row with its key: whether it comes to rest, and was to run alone (P22)."""

    rests: bool
    is_alone: bool


class RawRows:
    """The raw rows of one claim. True while records behind them must wait."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._undecoded: set[Run] = set()
        self._decoded: dict[Run, _Decoded] = {}
        """Their keys are not stored."""
        self._is_storing = False

    def __bool__(self) -> bool:
        return bool(self._undecoded or self._decoded)

    def __contains__(self, run: Run) -> bool:
        return run in self._undecoded

    def add(self, run: Run) -> None:
        """One more whose key nobody knows."""
        self._undecoded.add(run)

    def discard(self, run: Run) -> None:
        """It has ended."""
        self._undecoded.discard(run)
        self._decoded.pop(run, None)

    def takes_its_key(self, run: Run) -> bool:
        """It was decoded just now. Returns whether it runs at once: a suspect that runs alone (P22).

        Any other waits until its key is stored: what then becomes of its row is known to have the key.
        """
        inbox = self._inbox
        assert run.record is not None, "decoded just now"
        key = key_of(inbox.handler, run.record, run.argument)
        following = inbox.keys.pass_on(run)
        run.key = key
        may_run = inbox.keys.take(run) and key not in inbox.keys.blocked
        runs_at_once = may_run and run.is_alone
        if not runs_at_once:
            run.phase = Phase.RESTING
        self._undecoded.discard(run)
        self._decoded[run] = _Decoded(rests=not may_run, is_alone=run.is_alone)
        if not self._is_storing:
            self._is_storing = True
            inbox.engine.spawn(self._store_all())
        if following is not None:
            inbox.go(following)
        return runs_at_once

    async def _store_all(self) -> None:
        """Store the keys that are known now, and those that come to be known meanwhile."""
        inbox = self._inbox
        wait_s = WAIT_FIRST_S
        try:
            while self._decoded and inbox.is_open:
                decoded = dict(self._decoded)
                try:
                    stored = await self._store(decoded)
                except psycopg.Error as error:
                    if fault_of(error) is not Fault.WEATHER:
                        raise
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
                    wait_s = min(wait_s * 2, WAIT_MAX_S)
                    continue
                for run, how in decoded.items():
                    if self._decoded.pop(run, None) is not None and inbox.is_open:
                        self._goes_on(run, how, is_stored=run.id in stored)
        finally:
            self._is_storing = False
        if inbox.is_open:
            inbox.pump()

    async def _store(self, decoded: dict[Run, _Decoded]) -> set[str]:
        engine = self._inbox.engine
        async with engine.pool.connection() as connection:
            cursor = await send(
                connection,
                engine.settings.schema,
                open_work.store_keys(
                    ids=[run.id for run in decoded],
                    owners=[run.owner for run in decoded],
                    keys=[run.key for run in decoded],
                    rests=[how.rests for how in decoded.values()],
                    forgiven=[how.rests and how.is_alone for how in decoded.values()],
                ),
            )
            return {row[0] for row in await cursor.fetchall()}

    def _goes_on(self, run: Run, how: _Decoded, *, is_stored: bool) -> None:
        inbox = self._inbox
        if run.phase is not Phase.RESTING:
            if not is_stored and run.phase is not Phase.DONE:
                # It ran at once, and rests already until its next attempt: then its key is stored.
                self._undecoded.add(run)
        elif not is_stored:
            run.phase = Phase.WAITING
            inbox.refuse(run, "cancelled or taken over")
        elif how.rests:
            run.row = Row.REST
            inbox.persisted(run)
        else:
            run.phase = Phase.WAITING
            if inbox.keys.may_go(run):
                inbox.start(run)
