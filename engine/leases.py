"""The lease of this executor: heartbeats on a thread that no handler can block (P1), deaths observed (P2).

    every heartbeat   one statement: counter + 1 unless marked dead; brings requests, attached progress, all counters
    deadline          one lease after the moment *before* the statement was sent, on a clock that runs through suspends
    another's death   its counter stood still for a full lease of our clock while our own renewals succeeded;
                      each look (engine/scan.py) sees the counters as well (engine/deaths.py)

After the deadline no effect begins anywhere in the process: `is_valid` stands immediately before every effect.
The thread also listens on the channels of hints, so that a request or a release is seen at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import Connection, sql

from engine.bell import Bell
from engine.deaths import Deaths
from engine.failures import summary
from engine.hints import BROUGHT_CHANNELS
from engine.ids import ExecutorId
from engine.store import executor
from engine.store.executor import Renewal
from engine.store.statement import Statement, rendered
from engine.telemetry import ExecutorBuried, HeartbeatRenewed, StoreAvailable, StoreUnavailable

if TYPE_CHECKING:
    from engine.engine import Engine

HINT_CHANNELS = ("processor_claims", "processor_rows", "processor_outbox", *BROUGHT_CHANNELS)


boottime = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds on a clock that runs through suspends, where the system has one."""


class Lease:
    """The right of this process to begin effects."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._deadline = 0.0
        self._is_dead = False
        self._stop = threading.Event()
        self._life = threading.Lock()
        """`start` and `stop` run in threads, one after the other."""
        self._thread: threading.Thread | None = None
        self._bell: Bell | None = None
        self._connection: Connection[Any] | None = None
        self.deaths = Deaths()
        self._renewed_at = 0.0
        self.renewals = 0
        self.now: Callable[[], float] = boottime
        self.is_first = False
        """Whether this executor's ID is the lowest of all that live: it does what one process does for all."""
        self.is_held_back = False
        """Set by tests: renewals stop as if the thread hung."""

    def is_valid(self) -> bool:
        """Whether an effect may begin now."""
        return not self._is_dead and self.now() < self._deadline

    async def wait_until_valid(self) -> None:
        """Wait for the next renewal, or for ever if there is none: an executor that is dead is abandoned anyway."""
        while not self.is_valid():  # noqa: ASYNC110  # the clock decides, nobody could set an event
            await asyncio.sleep(0.05)

    def invalidate(self) -> None:
        """No effect begins any more under this executor ID."""
        self._is_dead = True

    @property
    def silence_s(self) -> float:
        """Seconds since the last renewal, for liveness."""
        return self.now() - self._renewed_at if self._renewed_at else 0.0

    # -- life --

    def start(self) -> None:
        """Register and renew once, here; then go on in the thread. Raises what the database raises.

        Does nothing once the engine stops: it may register anew at that very moment.
        """
        with self._life:
            if self._engine.stopping.is_set():
                return
            self._is_dead = False
            self.deaths.clear()
            self._stop.clear()
            self._connection = self._connect()
            try:
                self._register(self._connection)
                self._renew(self._connection)
            except BaseException:
                self._connection.close()
                raise
            self._bell = Bell()
            self._thread = threading.Thread(target=self._run, args=(self._bell,), name="lease", daemon=True)
            self._thread.start()

    def stop(self, *, leave: bool) -> None:
        """End the thread. `leave`: mark this executor dead, nothing of it is at work any more."""
        with self._life:
            self._end_waiting()
            if self._thread is not None:
                self._thread.join(timeout=self._settings.connect_timeout.total_seconds() + 5)
                if self._bell is not None and not self._thread.is_alive():
                    self._bell.close()
            if leave and self._connection is not None:
                with suppress(psycopg.Error):  # the lease runs out instead
                    self._execute(self._connection, executor.leave(executor_id=self._engine.executor_id))
            if self._connection is not None:
                self._connection.close()

    def cut(self) -> None:
        """As a crash."""
        self._is_dead = True
        self._end_waiting()

    def _end_waiting(self) -> None:
        """The thread looks no further, and at once."""
        self._stop.set()
        if (bell := self._bell) is not None:
            bell.ring()

    # -- the thread --

    def _run(self, bell: Bell) -> None:
        connection = self._connection
        next_at = self.now() + self._settings.heartbeat.total_seconds()
        unreachable_since: float | None = None
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = self._connection = self._connect()
                if not self._stop.is_set() and not self.is_held_back and self.now() >= next_at - 0.001:
                    self._renew(connection)
                    next_at = self.now() + self._settings.heartbeat.total_seconds()
                self._bury_the_silent(connection)
                hinted = self._wait_for_hints(connection, bell, self._rest_s(next_at))
                if hinted:
                    next_at = min(next_at, self.now())
                if unreachable_since is not None:
                    self._engine.emit_from_thread(StoreAvailable(self.now() - unreachable_since))
                    unreachable_since = None
            except psycopg.Error as error:
                unreachable_since = self.now() if unreachable_since is None else unreachable_since
                self._engine.emit_from_thread(StoreUnavailable(summary(error), self.silence_s))
                self.deaths.clear()
                if connection is not None:
                    connection.close()
                    connection = self._connection = None
                self._stop.wait(0.2)
                next_at = self.now()
            except Exception as error:  # noqa: BLE001  # a bug: without a lease nothing would begin, and nobody see why
                self._engine.from_thread(self._engine.failed, error)
                return
        if self._is_dead and connection is not None and not connection.closed and self._engine.is_aborted:
            connection.close()

    def _rest_s(self, next_at: float) -> float:
        """Until the next heartbeat, or the moment in which somebody's silence becomes a death."""
        death_at = self.deaths.next_at(self._settings.lease.total_seconds())
        return min(0.5, max(0.01, min(next_at, death_at or next_at) - self.now()))

    def _wait_for_hints(self, connection: Connection[Any], bell: Bell, timeout_s: float) -> bool:
        """Listen; returns whether a request to release may be waiting for us."""
        asked = False
        hints = list(connection.notifies(timeout=0))  # those that came with an answer
        if not hints:
            bell.wait(connection.fileno(), timeout_s)
            hints = list(connection.notifies(timeout=0))
        for hint in hints:
            if hint.payload == f"request {self._engine.executor_id}":
                asked = True
            self._engine.hinted_from_thread(hint.channel, hint.payload)
        return asked

    def _renew(self, connection: Connection[Any]) -> None:
        before = self.now()
        attached = self._engine.sources.attached()
        seen = self._engine.database.seen()
        known = {
            (source.ref.service_name, source.ref.key): (source.epoch, source.progress.flush) for source in attached
        }
        started = time.perf_counter()
        renewal = self._execute(
            connection,
            executor.renew(
                executor_id=self._engine.executor_id,
                lease_ms=self._lease_ms(),
                services=[source.ref.service_name for source in attached],
                keys=[source.ref.key for source in attached],
            ),
        )[0]
        assert isinstance(renewal, Renewal), "renew returns one row"
        if not renewal.alive:
            self._is_dead = True
            self._engine.from_thread(self._engine.died, "marked dead")
            self._stop.set()
            return
        lease_s = self._settings.lease.total_seconds()
        self._deadline = before + lease_s
        if self._renewed_at and before - self._renewed_at > lease_s:
            self.deaths.clear()  # our own renewals failed for long: we have not observed anybody (P2)
        self._renewed_at = before
        self.renewals += 1
        self._engine.emit_from_thread(HeartbeatRenewed(self._engine.executor_id, time.perf_counter() - started))
        self._engine.from_thread(self._engine.renewed, renewal, known, seen)
        self._observe(renewal)
        # At every heartbeat: whoever was to do it after a death may have died as well.
        self._end_sessions_of_the_dead(connection)

    def _observe(self, renewal: Renewal) -> None:
        alive: dict[str, int] = dict(cast("list[tuple[str, int]]", renewal.executors or []))
        self.is_first = min(alive, default="") == self._engine.executor_id
        self.saw(alive.items())

    def saw(self, alive: Iterable[tuple[str, int]]) -> None:
        """The counters of all executors that live, just read."""
        self.deaths.saw((each for each in alive if each[0] != self._engine.executor_id), self.now())

    def _bury_the_silent(self, connection: Connection[Any]) -> None:
        """Bury whoever's counter stood still for a full lease, in a commit of its own (P2)."""
        if self._stop.is_set() or self.is_held_back or not self.is_valid():
            return
        for name, counter in self.deaths.silent(self.now(), self._settings.lease.total_seconds()):
            if self._execute(connection, executor.bury(executor_id=ExecutorId(name), counter=counter)):
                self._engine.emit_from_thread(ExecutorBuried(name, "no heartbeat for a lease"))
                self._engine.hinted_from_thread("processor_claims", f"dead {name}")

    def _end_sessions_of_the_dead(self, connection: Connection[Any]) -> None:
        with suppress(psycopg.errors.InsufficientPrivilege):  # then their locks stay until their processes end
            self._execute(connection, executor.end_sessions())

    def _register(self, connection: Connection[Any]) -> None:
        self._execute(
            connection,
            executor.register(
                executor_id=self._engine.executor_id,
                name=self._settings.executor_name or f"{socket.gethostname()}:{os.getpid()}",
                named=self._settings.executor_name is not None,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                version=self._engine.version,
                lease_ms=self._lease_ms(),
            ),
        )

    def _lease_ms(self) -> int:
        return int(self._settings.lease.total_seconds() * 1000)

    def _connect(self) -> Connection[Any]:
        connection = psycopg.connect(
            self._settings.direct_conninfo or self._settings.conninfo,
            autocommit=True,
            connect_timeout=max(1, int(self._settings.connect_timeout.total_seconds())),
            application_name="onceflow lease",
            prepare_threshold=None,
        )
        try:
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(self._lease_ms())])
            for channel in HINT_CHANNELS:
                connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        except psycopg.Error:
            connection.close()
            raise
        return connection

    def _execute(self, connection: Connection[Any], statement: Statement[Any]) -> list[Any]:
        cursor = connection.cursor(row_factory=statement.rows)
        cursor.execute(rendered(statement, self._settings.schema), statement.parameters)
        return cursor.fetchall() if cursor.description is not None else []
