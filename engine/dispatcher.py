"""Takes workflows from queues, under their limits over all processes (P29, decision 0013).

    said of a queue: enqueued here, a hint, a look, an end here ─▶ turn, one at a time ─▶ desk of the queue ─▶ run
                                                                      │
                      BEGIN ─ fence ─ limits, locked ─ what is dead ─ what is due ─ what is ready ─ COMMIT

A turn waits for no lock: where somebody else is at the queue's, it comes again soon. How many of a queue run in this process
is counted here, where it is true, from a row's taking until its code has ended (P13).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from engine.clock import now_ms
from engine.crashpoints import CrashPoint, reach
from engine.desk import Desk
from engine.failures import summary
from engine.faults import Fault, fault_of
from engine.ids import OwnerToken, new_token
from engine.queue_wants import KEYS_MAX, ListenedQueue, Turned, Wants
from engine.queues import QueueSpec
from engine.store import operation_outputs, turns, workflow_status
from engine.store import queues as store
from engine.store.operation_outputs import CheckpointRow
from engine.store.queues import QueueRow
from engine.store.statement import Statement, send
from engine.store.turns import QueuedRow, Turn
from engine.tasks import end
from engine.telemetry import QueueTaken, StoreUnavailable, WorkflowsTaken
from engine.weather import WAIT_FIRST_S, WAIT_MAX_S, through_weather

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from engine.commons import Commons
    from engine.engine import Engine
    from engine.handlers import Handler

BATCH_MAX = 500
"""Rows of one turn: their inputs are in memory together, and others may want their share."""

LOCKED_MAX = 1_000
"""Rows of dead executors, or at rest and due, that are looked at in one turn; of some keys there may be no room."""

DELAYED_MAX = 5_000
"""Delayed rows that become ready in one turn."""

PRUNED_MAX = 1_000
"""Starts that are forgotten in one turn."""

BUSY_S = (0.005, 0.02)
"""When to come again where somebody else has the lock of a queue, or of its next row: a turn takes a few milliseconds."""

REFUSED_MAX = 6
"""Doublings of that, while it is the row: who holds it may be an operator's session."""


class QueueDesk(Desk):
    """The home of one run that has a place of a queue."""

    __slots__ = ("key", "queue")

    has_place = True

    def __init__(self, commons: Commons, handler: Handler, token: OwnerToken, queue: str, key: str) -> None:
        super().__init__(commons, handler, token)
        self.queue = queue
        self.key = key

    def left(self) -> None:
        """Its run is none any more."""
        self.engine.dispatcher.left(self.queue, self.key)


class Dispatcher:
    """The taking service of one process's queues."""

    def __init__(self, engine: Engine, queues: Mapping[str, QueueSpec]) -> None:
        self._engine = engine
        # Without a workflow that could be started there is nothing to take.
        self._queues = {name: ListenedQueue(spec) for name, spec in queues.items() if engine.commons.handlers}
        self.names = list(self._queues)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._is_announced = False

    @property
    def is_starved(self) -> bool:
        """Whether something was left in a queue for want of room in this process."""
        return any(queue.is_starved for queue in self._queues.values())

    def start(self) -> None:
        """Begin taking."""
        self.wants(self._queues)
        if self._queues:
            self._task = self._engine.loop.create_task(self._take_for_ever(), name="dispatcher")

    async def stop(self) -> None:
        """End. A turn under way is given up: what it took, if it did, is handed over by others (P12)."""
        for timer in self._timers.values():
            timer.cancel()
        if self._task is not None:
            await end(self._task)

    def announce_again(self) -> None:
        """This executor has another ID: say once more what it takes from."""
        self._is_announced = False
        self.wants(self._queues)

    async def _announce(self) -> None:
        """Say what the limits are, and from which queues this executor takes."""
        engine = self._engine
        self._is_announced = True
        async with engine.pool.connection() as connection:
            for queue in self._queues.values():
                await send(connection, engine.settings.schema, store.register(queue.spec))
            listening = store.listen(executor_id=engine.executor_id, queues=self.names)
            await send(connection, engine.settings.schema, listening)

    # -- what is said of queues --

    def enqueued(self, queue: str, wake_at: int | None) -> None:
        """A row of a queue is durable, by a commit of this process: tell everybody who takes from it."""
        if wake_at is not None:
            self._engine.scan.due_at(wake_at)
            return
        self.wants((queue,))
        self._engine.hints.queue(queue)

    def wants(self, names: Iterable[str]) -> None:
        """Something may be ready in these queues."""
        for name in names:
            if (queue := self._queues.get(name)) is not None:
                queue.wants.every = True
                self._wake.set()

    def found(self, names: Iterable[str], dead: Iterable[str]) -> None:
        """A look says: in these queues something is ready or due; these executors are gone and have left something."""
        for name in names:
            if (queue := self._queues.get(name)) is not None:
                queue.wants.due = queue.wants.every = True
                self._wake.set()
        if gone := set(dead):
            for queue in self._queues.values():
                queue.wants.dead |= gone
                self._wake.set()

    def left(self, name: str, key: str) -> None:
        """A run of a queue has ended here."""
        queue = self._queues[name]
        queue.left(key)
        if queue.wants:
            self._wake.set()

    def pump(self) -> None:
        """Room came free in this process."""
        self.wants([name for name, queue in self._queues.items() if queue.is_starved])

    def waits_for_others(self, name: str) -> bool:
        """Whether what is ready in a queue waits for somebody, or for time. For tests."""
        queue = self._queues.get(name)
        return queue is None or queue.is_paused or (queue.outlook.retry_at or 0) > now_ms()

    def refused(self, name: str) -> int:
        """How many turns in a row met a row that something else had. For tests."""
        return self._queues[name].refused

    async def unsettled(self) -> list[str]:
        """Some workflows that run here, or should be taken at the next turn. For tests."""
        engine = self._engine
        names = [name for name in self._queues if not self.waits_for_others(name)]

        async def read() -> list[str]:
            async with engine.pool.connection() as connection:
                asked = await send(
                    connection, engine.settings.schema, store.unsettled(executor_id=engine.executor_id, queues=names)
                )
                return [row[0] for row in await asked.fetchall()]

        return await through_weather(read)

    # -- turns --

    async def _take_for_ever(self) -> None:
        engine = self._engine
        wait_s = WAIT_FIRST_S
        while True:
            if not self._is_announced:
                await through_weather(self._announce)
            await self._wake.wait()
            self._wake.clear()
            for name, queue in self._queues.items():
                if not queue.wants or not engine.commons.is_open:
                    continue
                try:
                    await self._turn(name, queue)
                    wait_s = WAIT_FIRST_S
                except psycopg.Error as error:
                    match fault_of(error):
                        case Fault.WEATHER:
                            engine.telemetry.emit(StoreUnavailable(summary(error), wait_s))
                            self._later(name, wait_s * random.uniform(0.5, 1.5))
                            wait_s = min(wait_s * 2, WAIT_MAX_S)
                        case Fault.WENT_BACK:
                            engine.went_back(str(error))
                        case _:
                            engine.failed(error)
                            raise
                except Exception as error:
                    engine.failed(error)
                    raise

    def _later(self, name: str, delay_s: float) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        self._timers[name] = self._engine.loop.call_later(delay_s, self.wants, (name,))

    async def _turn(self, name: str, queue: ListenedQueue) -> None:
        """Take once, if there is room; come again at once while there may be more, later where only time helps."""
        # Behind a refusal one row of each key, the next: of many, one may always be somebody's.
        limit = min(1 if queue.refused else BATCH_MAX, self._engine.commons.room())
        queue.is_starved = limit <= 0
        if queue.is_starved:
            return
        wants = queue.begin()
        try:
            await self._turn_of(name, queue, wants, limit)
            queue.refused = 0
        except psycopg.errors.LockNotAvailable:
            queue.wants.add(wants)
            self._later(name, random.uniform(*BUSY_S) * 2 ** min(queue.refused, REFUSED_MAX))
            queue.refused += 1
            queue.is_paused = False  # only what is ready is refused, and nothing is while it rests

    async def _turn_of(self, name: str, queue: ListenedQueue, wants: Wants, limit: int) -> None:
        engine = self._engine
        commons, schema = engine.commons, engine.settings.schema
        executor_id, owner = engine.executor_id, new_token()
        async with engine.pool.connection() as connection:
            async with connection.transaction():
                limits, keys = await self._begin(connection, name, queue, wants)
                if limits is None:
                    queue.wants.add(wants)
                    self._later(name, random.uniform(*BUSY_S))
                    return
                reach(CrashPoint.DEQUEUING)
                turn = Turn(
                    queue=name,
                    limits=limits,
                    executor_id=executor_id,
                    owner=owner,
                    runnable=commons.runnable,
                    busy=list(commons.runs),
                    here=queue.here,
                    limit=limit,
                )
                kind, rows = await self._take(connection, turn, keys, wants)
                histories = await self._histories(connection, rows)
                asked = await send(
                    connection, schema, store.outlook(queue=name, limits=limits, dead=sorted(wants.dead))
                )
                outlook = await asked.fetchone()
                assert outlook is not None, "an outlook is one row"
            reach(CrashPoint.DEQUEUED)
        turned = Turned(wants, kind, keys, limit, rows, histories, outlook, limits.is_paused)
        self._enter(name, queue, turned, owner)
        queue.follow(turned)
        if queue.wants:
            self._wake.set()
        elif outlook.retry_at is not None and (queue.dead or (outlook.has_ready and not limits.is_paused)):
            self._later(name, max(outlook.retry_at - outlook.now, 1) / 1000)

    async def _begin(
        self, connection: AsyncConnection[Any], name: str, queue: ListenedQueue, wants: Wants
    ) -> tuple[QueueRow | None, Sequence[str]]:
        """Fence, limits, the keys of this turn. No limits: somebody else has the lock."""
        only = None if wants.every else sorted(wants.freed)
        engine = self._engine
        database, schema = engine.database, engine.settings.schema
        fence = workflow_status.fence_database(timeline=database.timeline, lsn=database.lsn)
        async with connection.pipeline():
            fenced = await send(connection, schema, fence)
            await send(connection, schema, store.configure(idle_ms=engine.settings.idle_ms))
            reading = await send(connection, schema, store.read(queue=name))
            locking = await send(connection, schema, store.lock(queue=name))
            await send(connection, schema, store.join_delayed(queue=name, limit=DELAYED_MAX))
            ready = store.ready_keys(queue=name, after=queue.after, limit=KEYS_MAX)
            listing = await send(connection, schema, ready) if only is None else None
            row = await fenced.fetchone()
            assert row is not None, "fence_database returns a row or raises"
            database.saw(row[0])
            limits, locked = await reading.fetchone(), await locking.fetchone()
            keys = only if listing is None else [key for (key,) in await listing.fetchall()]
        if limits is None:
            self._is_announced = False  # somebody deleted the row
            return None, ()
        return locked or (None if limits.is_limited else limits), keys or ()

    async def _take(
        self, connection: AsyncConnection[Any], turn: Turn, keys: Sequence[str], wants: Wants
    ) -> tuple[str, Sequence[QueuedRow]]:
        """Of the first kind there is any of: what is dead, what is due, which both have their places; what is ready."""
        schema = self._engine.settings.schema
        if turn.limits.limit_period_ms is not None:
            over = store.prune_starts(queue=turn.queue, limits=turn.limits, limit=PRUNED_MAX)
            await send(connection, schema, over)
        kinds: list[tuple[str, Statement[QueuedRow]]] = []
        if wants.dead:
            kinds.append(("dead", turns.take_dead(turn, locked_max=LOCKED_MAX, dead=sorted(wants.dead))))
        if wants.due:
            kinds.append(("due", turns.take_due(turn, locked_max=LOCKED_MAX)))
        if keys and not turn.limits.is_paused:
            kinds.append(("ready", turns.take_ready(turn, keys)))
        for kind, taking in kinds:
            if rows := await (await send(connection, schema, taking)).fetchall():
                return kind, sorted(rows, key=lambda row: row.order)
        return "ready", ()

    async def _histories(self, connection: AsyncConnection[Any], rows: Sequence[QueuedRow]) -> Sequence[CheckpointRow]:
        """What they did before. One that starts did nothing, unless somebody resumed or forked it."""
        replayed = [row.workflow_id for row in rows if row.has_history]
        if not replayed:
            return ()
        reading = operation_outputs.of_workflows(ids=replayed)
        return await (await send(connection, self._engine.settings.schema, reading)).fetchall()

    def _enter(self, name: str, queue: ListenedQueue, taken: Turned, owner: OwnerToken) -> None:
        """Rows are ours: count them, and run them."""
        if not taken.rows:
            return
        engine = self._engine
        for row in taken.rows:
            queue.here[row.key] += 1
        waits_s = [row.waited_ms / 1000 for row in taken.rows] if taken.kind == "ready" else []
        engine.telemetry.emit(QueueTaken(name, taken.kind, len(taken.rows), waits_s))
        if taken.kind != "ready":
            engine.telemetry.emit(WorkflowsTaken(taken.kind, len(taken.rows)))
        commons = engine.commons
        desks = [QueueDesk(commons, commons.handlers[row.name], owner, name, row.key) for row in taken.rows]
        commons.take(taken.rows, taken.histories, owner, desks)
