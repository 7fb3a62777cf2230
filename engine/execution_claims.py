"""Claims of executions, which are executors of one execution each, and their recovery (decision 0016)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from engine.errors import ConfigurationError
from engine.execution_database import ExecutionDatabase
from engine.execution_rows import (
    ClaimStatus,
    Execution,
    ExecutionClaim,
    RecoveryRecord,
    bounded,
    check_limit,
    check_worker,
    execution_of,
    milliseconds,
    moment,
)
from engine.ids import ExecutorId, new_token
from engine.pool import connect
from engine.settings import EngineSettings
from engine.store import execution_claims as claims
from engine.store import executions as store
from engine.store.execution_claims import ClaimRow, NeedingRow
from engine.store.statement import Statement, send

FAILURES_MAX: Final = 5
"""Failures after which nobody tries an execution again."""

FAILURE_REST: Final = timedelta(minutes=1)
"""Between a failure and the next try."""

CLAIMED_MAX: Final = 100_000
"""Claims of one store that were neither released nor ended: their tokens are in memory."""


class ExecutionClaims(ExecutionDatabase):
    """Who has an execution, and what nobody has."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._locks: dict[int, AsyncConnection[Any]] = {}

    async def close(self) -> None:
        """Give back the recovery locks and close the connections. Claims stand until their time is over."""
        for connection in self._locks.values():
            await connection.close()
        self._locks.clear()
        await super().close()

    # -- claims --

    async def claim_execution(self, execution_id: str, worker_id: str, timeout_ms: timedelta | int) -> bool:
        """Make an execution a worker's, for a time; whether it is now. One worker at a time has it.

        The time counts from now on by Postgres's clock. Whoever works with the claim measures it from *before* this call,
        and begins nothing any more when it is over (P1).

        Raises:
            ConfigurationError: No worker, or no time.
        """
        check_worker(worker_id)
        if len(self.claimed) >= CLAIMED_MAX:
            raise ConfigurationError(f"this store has {CLAIMED_MAX} claims that were never released")
        token = new_token()
        claiming = claims.claim(
            execution_id=execution_id,
            executor_id=ExecutorId(f"claim-{token}"),
            owner=token,
            worker_id=worker_id,
            timeout_ms=milliseconds(timeout_ms, "timeout_ms"),
            hostname=socket.gethostname(),
            pid=os.getpid(),
        )

        async def claim(connection: AsyncConnection[Any]) -> bool:
            locked = await self.locked(connection, execution_id)
            if locked is not None and locked.owner == token:
                return True  # the reply to the COMMIT was lost
            return locked is not None and await self.one(connection, claiming) is not None

        claimed = await self.transaction(claim)
        if claimed:
            self.claimed[execution_id] = (worker_id, token)
        return claimed

    async def extend_claim(self, execution_id: str, worker_id: str, timeout_ms: timedelta | int) -> bool:
        """Have a claim stand for so long from now on; whether it still stood. `False`: end what you do, it is another's."""
        check_worker(worker_id)
        extending = claims.extend(
            execution_id=execution_id,
            worker_id=worker_id,
            owner=self.token_of(execution_id, worker_id),
            timeout_ms=milliseconds(timeout_ms, "timeout_ms"),
        )
        return await self.first(extending) is not None

    async def release_execution(self, execution_id: str, worker_id: str) -> None:
        """Give a claim back. What was not begun waits for the next worker; what was needs recovery. A lost one: nothing."""
        check_worker(worker_id)
        releasing = claims.release(
            execution_id=execution_id, worker_id=worker_id, owner=self.token_of(execution_id, worker_id)
        )

        async def release(connection: AsyncConnection[Any]) -> bool:
            if await self.one(connection, store.lock(execution_id=execution_id)) is None:
                return False
            return await self.one(connection, releasing) is not None

        await self.transaction(release)
        if self.token_of(execution_id, worker_id) is not None:
            self.claimed.pop(execution_id, None)

    async def expire_old_claims(self) -> int:
        """End the claims whose time is over; how many. Every engine does so, too, with each heartbeat."""
        row = await self.first(claims.expire())
        return 0 if row is None else row[0]

    async def get_active_claims(self) -> list[ExecutionClaim]:
        """Claims that stand, oldest first; of what our engines run, their leases."""
        return [_claim_of(row) for row in await self.all(claims.active())]

    async def get_claim_for_execution(self, execution_id: str) -> ExecutionClaim | None:
        """The claim of an execution, also one that is over; `None`: nobody ever had it, or that is long ago."""
        row = await self.first(claims.of_execution(execution_id=execution_id))
        return None if row is None else _claim_of(row)

    # -- recovery --

    async def get_executions_needing_recovery(self, limit: int = 100) -> list[Execution]:
        """Executions that nobody has, and to which nobody will come by himself, oldest first.

        - Created, in no queue, without a claim that stands, and never failed; or failed fewer than 5 times, over a minute ago.
        - Running, with a claim that is over, or was given back. An engine's that died is on the way to another engine.
        """
        check_limit(limit)
        rows = await self.all(needing_recovery(limit))
        return [execution_of(row.execution, self.payloads) for row in rows]

    async def record_recovery(
        self,
        execution_id: str,
        worker_id: str,
        reason: str,
        previous_status: str | None = None,
        previous_worker_id: str | None = None,
    ) -> None:
        """Note that a worker took an execution from another one, or brought it back to work. Engines note theirs."""
        check_worker(worker_id)
        recording = claims.record(
            execution_id=execution_id,
            worker_id=worker_id,
            reason=bounded(reason),
            previous_status=previous_status,
            previous_worker_id=previous_worker_id,
        )
        await self.first(recording)

    async def get_recovery_history(self, execution_id: str) -> list[RecoveryRecord]:
        """Every time it was taken from somebody, by workers and by engines, oldest first."""
        return [
            RecoveryRecord(row.worker_id, row.reason, row.previous_status, row.previous_worker_id, moment(row[4]))
            for row in await self.all(claims.history(execution_id=execution_id))
        ]

    async def try_acquire_recovery_lock(self, lock_id: int) -> bool:
        """Take a lock that one session of all has, of this schema; whether it was free.

        It is held by a connection of its own (`direct_conninfo`) until it is released, the store is closed or the connection
        breaks. This store's own lock is not free either: two tasks of one program are two.
        """
        if (held := self._locks.get(lock_id)) is not None:
            if not held.closed:
                return False
            del self._locks[lock_id]
        settings = self.settings
        direct = replace(settings, conninfo=settings.direct_conninfo or settings.conninfo, direct_conninfo=None)
        connection = await connect(direct, "onceflow recovery")
        try:
            cursor = await send(connection, settings.schema, claims.try_lock(lock_id=lock_id))
            row = await cursor.fetchone()
            if row is not None and row[0] and lock_id not in self._locks:
                self._locks[lock_id] = connection
                return True
        except BaseException:
            await connection.close()
            raise
        await connection.close()
        return False

    async def holds_recovery_lock(self, lock_id: int) -> bool:
        """Whether this store still has the lock: its session answers."""
        connection = self._locks.get(lock_id)
        if connection is None:
            return False
        try:
            await connection.execute("SELECT")
        except psycopg.OperationalError:
            del self._locks[lock_id]
            await connection.close()
            return False
        return True

    async def release_recovery_lock(self, lock_id: int) -> None:
        """Give a lock back; nothing where this store does not have it."""
        connection = self._locks.pop(lock_id, None)
        if connection is not None:
            with suppress(psycopg.OperationalError):  # the session has ended, and its locks with it
                await send(connection, self.settings.schema, claims.unlock(lock_id=lock_id))
            await connection.close()


def needing_recovery(limit: int, behind: tuple[int, str] | None = None) -> Statement[NeedingRow]:
    """The statement of `get_executions_needing_recovery`, from a place on."""
    rest_ms = int(FAILURE_REST.total_seconds() * 1000)
    return claims.needing_recovery(limit=limit, failures_max=FAILURES_MAX, rest_ms=rest_ms, behind=behind)


def _claim_of(row: ClaimRow) -> ExecutionClaim:
    return ExecutionClaim(
        row.execution_id,
        row.worker_id,
        moment(row.claimed_ms),
        moment(row.heartbeat_ms),
        moment(row.expires_ms),
        ClaimStatus(row.status),
    )
