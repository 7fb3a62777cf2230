"""`Bench`: an app on a real Postgres, with records delivered to the real inbox. Only the poll thread is replaced.

    async with Bench(app, dsn) as bench:
        bench.crash(after=charge)
        await bench.deliver(orders, OrderPlaced(...), offset=7)
        await bench.settle()
        assert await bench.fetch_all("SELECT order_id FROM sale") == [("o-1",)]

The bench keeps a log as Kafka would: after a crash or a restart the next engine claims the partitions and is given
the log again from the stored progress. A crash is the engine's abort: nothing more is written, connections are cut,
memory is lost; what runs in threads ends on its own.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, LiteralString, Self, TypeVar

import sql
from engine import clock
from engine.crashpoints import Crash, CrashPoint, armed
from engine.current import current_step
from engine.engine import Engine
from engine.errors import ConfigurationError, NotYet
from engine.identity import Identity
from engine.ids import SourceRef
from engine.outbox import LIST_MAX, waiting
from engine.records import Record
from engine.sessions import Sessions
from engine.settings import EngineSettings
from engine.sources import RELEASED_ON_REQUEST, Source
from engine.store.outbox import OutboxRow
from engine.telemetry import Event, Telemetry
from engine.tracing import Tracing
from processor.app import App
from processor.decorators import ProcedureFunction, TransactionFunction
from processor.formats import check_formats
from processor.handlers import Registration
from processor.registry import AnyStep
from processor.schema_registry import connected_to
from processor.testing.claiming import claim
from processor.testing.unsettled import due, reasons
from processor.triggers import Topic

if TYPE_CHECKING:
    from consumers.settings import RegistrySettings
    from processor.config_web import WebSettings
    from processor.testing.http import HttpClient

E = TypeVar("E")
T = TypeVar("T")

SETTLE = timedelta(minutes=1)
"""Longest a bench waits for work to end before it says what does not."""

unmet: set[CrashPoint] = set()
"""Points at which benches that have ended were to crash, and did not. For the plugin."""


class Crashed(Crash):
    """Raised at an armed crash point, so that the code there goes no further; the bench replaces the engine."""


class UnsettledError(AssertionError):
    """Work did not end in time. The message lists what is left."""


class Bench:
    """An app under test.

    Args:
        app: Its workflows run as in production, from records and from calls: while the bench is open, it runs the app.
        dsn: A migrated database of this test's own.
        group: Consumer group; the app's name by default.
        executor: Name of the executor: the engine after a crash has it again, so its predecessor is dead at once.
        settings: Other engine settings; `conninfo` is replaced.
        beside: Another bench whose log this one reads as well: a second member, which claims what it is told to.
        registry: Address of the schema registry of its topics' formats, in which what is delivered is registered;
            `mock://any-name` is one within this process.
        tracing: Makes spans: `processor.tracing.Spans(provider)`.
    """

    def __init__(
        self,
        app: App,
        dsn: str,
        *,
        group: str | None = None,
        executor: str = "bench",
        settings: EngineSettings | None = None,
        beside: "Bench | None" = None,
        registry: "str | RegistrySettings | None" = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.app = app
        self.dsn = dsn
        self.group = group or app.name
        self.tracing = tracing
        base = settings or EngineSettings(conninfo=dsn, scan=timedelta(milliseconds=100))
        self.settings = replace(base, conninfo=dsn, executor_name=executor)
        self._sessions = Sessions(self.settings, "bench")
        self.events: list[Event] = []
        self.crashes = 0
        self._met: set[CrashPoint] = set()
        self._registry = _registry_settings(registry)
        self._by_topic = {
            registration.topic.name: registration
            for registration in app.workflows.values()
            if registration.topic is not None
        }
        check_formats([each.topic.codec for each in self._by_topic.values() if each.topic is not None], self._registry)
        self.log: dict[SourceRef, list[Record]] = {} if beside is None else beside.log
        """What Kafka would have."""
        self._sources: dict[SourceRef, Source] = {}
        self._claiming: dict[SourceRef, asyncio.Task[None]] = {}
        self._crash: asyncio.Event = asyncio.Event()
        self._restarting: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._changed, self._moved_ms = asyncio.Event(), 0
        self.engine = self._new_engine()

    # -- life --

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(_pass_over_crashes)
        self._stack.enter_context(connected_to(self._registry))
        if self.app.lifespan is not None:
            await self._stack.enter_async_context(self.app.lifespan(self.app))
        await self._start_engine()
        await self.engine.scheduler.until_looked()  # or a clock moved at once would pass over what begins with it
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unmet.update(point for point in armed if point not in self._met)
        armed.clear()
        if self._restarting is not None:
            await self._restarting
        for task in self._claiming.values():
            task.cancel()
        clock.move(-self._moved_ms)
        await self._sessions.close()
        self._detach()
        if self.engine.is_aborted:
            return
        await self.engine.stop(timedelta(seconds=5))
        await self._stack.aclose()

    async def _start_engine(self) -> None:
        await self.engine.start()
        self.app.engines.append(self.engine)

    def _detach(self) -> None:
        if self.engine in self.app.engines:
            self.app.engines.remove(self.engine)

    # -- driving --

    async def deliver(
        self,
        topic: Topic[Any],
        event: Any,
        *,
        offset: int | None = None,
        partition: int = 0,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        on: str | None = None,
    ) -> int:
        """Append a record to the log and hand it to the inbox. An offset that is there already is delivered again.

        Args:
            topic: Whose handler gets it.
            event: An event of the topic's model, or `bytes` for a payload as it stands, or `None` for a tombstone.
            offset: Its place; the next one by default. Gaps are as in Kafka: records that do not exist.
            partition: Its partition.
            key: Instead of the topic's `key=`.
            headers: Its headers.
            timestamp_ms: Epoch milliseconds; now by default.
            on: Name of the concrete topic, where `topic` is a pattern.

        Returns its offset.
        """
        registration = self._registration(topic)
        ref = SourceRef(self.group, registration.name, on or topic.name, partition)
        log = self.log.setdefault(ref, [])
        for known in log:
            if known.offset == offset:
                self._hand(ref, [replace(known)])
                return known.offset
        place = offset if offset is not None else (log[-1].offset + 1 if log else 0)
        if log and place < log[-1].offset:
            raise ValueError(f"offset {place} is behind {log[-1].offset}, and not in the log")
        named, value = (None, event) if isinstance(event, bytes) else await _ready(partial(topic.encode, event))
        record = Record(
            topic=ref.topic,
            partition=partition,
            offset=place,
            key=key if key is not None else named,
            value=value,
            timestamp_ms=int(time.time() * 1000) if timestamp_ms is None else timestamp_ms,
            headers=tuple(headers),
        )
        log.append(record)
        await self.claim(ref)
        self._hand(ref, [record])
        return place

    async def claim(self, ref: SourceRef) -> None:
        """Claim a partition and attach it at its progress, unless it is attached."""
        if ref in self._sources or self._crash.is_set():
            return
        if ref not in self._claiming:
            self._claiming[ref] = asyncio.create_task(self._claim(ref))
            self._claiming[ref].add_done_callback(lambda _: self._claiming.pop(ref, None))
        await asyncio.shield(self._claiming[ref])

    async def release(self, ref: SourceRef) -> None:
        """Give a partition up, as a rebalance would; `claim` brings it back."""
        source = self._sources.pop(ref, None)
        if source is not None:
            await source.release()

    def ref(self, topic: Topic[Any], partition: int = 0) -> SourceRef:
        """A partition of a topic's handler."""
        return SourceRef(self.group, self._registration(topic).name, topic.name, partition)

    def adopt(self, source: Source) -> None:
        """Deliver to a claim that a test took itself."""
        self._sources[source.ref] = source

    def source(self, topic: Topic[Any], partition: int = 0) -> Source:
        """The claim of a partition."""
        return self._sources[self.ref(topic, partition)]

    async def settle(self, *, within: timedelta = SETTLE) -> None:
        """Wait until nothing is left to do: all workflows have ended, or wait for an operator or a retry's time."""
        deadline = time.monotonic() + within.total_seconds()
        while True:
            if self._crash.is_set():
                await self._restart()
            self._changed.clear()
            if self.engine.failure.done():
                raise self.engine.failure.result()
            left = reasons(self.engine, self._sources, self._claiming, self.log)
            if not left:
                left = await due(self.engine)
            if not left and not self._changed.is_set():  # whatever happened while the rows were read may have left more
                return
            if time.monotonic() > deadline:
                raise UnsettledError("not settled: " + "; ".join(left[:20]))
            try:
                async with asyncio.timeout(0.02):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def http(self, *, settings: "WebSettings | None" = None, identity: Identity | None = None) -> "HttpClient":
        """A client of the app's triggers and of the admin API, without a port. Needs the extra `web`.

        Args:
            settings: Tokens and bounds.
            identity: Whose calls they are, without a token; `None`: as the app or the tokens say.
        """
        from processor.config_web import WebSettings
        from processor.web import missing_extra

        try:
            from processor.testing.http import HttpClient
            from processor.web.application import Site
        except ModuleNotFoundError as error:
            raise missing_extra(error) from None
        site = Site(
            self.app,
            lambda: self.engine,
            settings or WebSettings(),
            tell=self._observe,
            authentication=None if identity is None else lambda _: identity,
            tracing=self.tracing,
        )
        return HttpClient(site.asgi)

    # -- crashing --

    def crash(
        self,
        *,
        after: AnyStep | None = None,
        at: CrashPoint | None = None,
        times: int = 1,
    ) -> None:
        """Arm a crash: after a step's function has returned and before its record is durable, or at a crash point.

        Args:
            after: A step or transaction.
            at: A crash point; `None`, as from the `crash_point` fixture: no crash.
            times: How many passes crash; later ones go through.
        """
        if after is not None and at is not None:
            raise ValueError("crash(after=step) or crash(at=CrashPoint), not both")
        if after is None and at is None:
            return
        left = times

        def act(point: CrashPoint) -> None:
            nonlocal left
            step = current_step.get()
            if after is not None and (step is None or step.name != after.step.name):
                return
            left -= 1
            if left <= 0:
                armed.pop(point, None)
            self._met.add(point)
            self.cut()
            raise Crashed(point)

        if at is not None:
            armed[at] = act
        elif isinstance(after, TransactionFunction | ProcedureFunction):
            armed[CrashPoint.TRANSACTION_OPEN] = act
        else:
            armed[CrashPoint.STEP_CALLED] = act

    async def restart(self) -> None:
        """Stop the engine in good order and start another one in its place."""
        self._detach()
        await self.engine.stop(timedelta(seconds=10))
        await self._start_anew()

    async def crash_now(self) -> None:
        """Crash between two events, and recover."""
        self.cut()
        await self._restart()

    async def advance(self, by: timedelta) -> None:
        """Let time pass, here and in the database: what sleeps, rests until its next attempt or has a deadline is due earlier."""
        by_ms = int(by.total_seconds() * 1000)
        clock.move(by_ms)
        self._moved_ms += by_ms
        await self._set_clock()
        for source in self._sources.values():
            source.inbox.look_at_clock()
        self.engine.waits.look_at_clock()
        self.engine.scan.hint()
        self.engine.scheduler.hint()

    async def _set_clock(self) -> None:
        schema = sql.quote(self.settings.schema)
        text = (
            f"CREATE OR REPLACE FUNCTION {schema}.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS "
            f"$$ SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + {clock.moved_ms()} $$"
        )
        async with self._sessions.session() as connection:
            await connection.execute(text.encode())

    # -- reading --

    async def fetch_all(self, query: LiteralString, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        async with self._sessions.session() as connection:
            cursor = await connection.execute(query, params or None)  # a lone % is then itself
            return await cursor.fetchall()

    async def execute(self, query: LiteralString, params: Sequence[Any] = ()) -> None:
        """Change the database, as an operator or another program would."""
        async with self._sessions.session() as connection:
            await connection.execute(query, params or None)

    async def published(self, topic: Topic[E]) -> list[E]:
        """Events of a topic that wait in the outbox, in the order in which they will reach Kafka: a bench has no relay."""
        rows: list[OutboxRow] = []
        async with self._sessions.session() as connection:
            while True:
                after = rows[-1].outbox_id if rows else 0
                page = await waiting(connection, self.settings.schema, topic=topic.name, after=after, limit=LIST_MAX)
                rows += page
                if len(page) < LIST_MAX:
                    break
        records = [Record(topic.name, 0, row.outbox_id, row.key, row.value) for row in rows]
        return [None if r.value is None else await _ready(partial(topic.codec.decode, r.value, r)) for r in records]  # pyright: ignore[reportReturnType]  # None: of topics that have tombstones

    # -- inside --

    def dropped(self, source: Source, reason: str) -> None:
        """The engine gave a claim up: take it again, as a consumer would (SourceListener)."""
        if self._sources.get(source.ref) is source:
            del self._sources[source.ref]
        self._changed.set()
        if (source.held is not None and reason != "hold lifted") or reason == RELEASED_ON_REQUEST:
            return
        if not self.engine.is_aborted:
            self._claiming[source.ref] = asyncio.create_task(self._claim(source.ref))
            self._claiming[source.ref].add_done_callback(lambda _: self._claiming.pop(source.ref, None))

    def _registration(self, topic: Topic[Any]) -> Registration:
        try:
            return self._by_topic[topic.name]
        except KeyError:
            raise ConfigurationError(f"app {self.app.name!r}: no handler has topic {topic.name!r}") from None

    def _new_engine(self) -> Engine:
        handlers = {name: each.handler() for name, each in self.app.workflows.items()}
        queues = [queue.spec for queue in self.app.queues.values()]
        return Engine(self.settings, handlers, Telemetry((self._observe,)), queues, self.tracing)

    def _observe(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def _hand(self, ref: SourceRef, records: list[Record]) -> None:
        source = self._sources.get(ref)
        if source is not None and source.held is None:
            with suppress(Crashed):
                source.deliver(records)

    async def _claim(self, ref: SourceRef) -> None:
        engine = self.engine
        try:
            claimed = await claim(engine, ref, engine_renamed_from(self._by_topic.values(), ref.handler))
            await claimed.open(self)
        except Crashed:
            return
        except Exception:
            if engine.is_aborted:
                return
            raise
        self._sources[ref] = claimed
        if claimed.held is None:
            records = [replace(r) for r in self.log.get(ref, []) if r.offset >= claimed.progress.next]
            with suppress(Crashed):
                claimed.deliver(records)

    def cut(self) -> None:
        """The synchronous part of a crash: from here on nothing is written."""
        self.crashes += 1
        self._detach()
        self.engine.cut()
        self._crash.set()
        self._changed.set()

    async def _restart(self) -> None:
        if self._restarting is None:
            self._restarting = asyncio.create_task(self._start_after_crash())
        try:
            await self._restarting
        finally:
            self._restarting = None

    async def _start_after_crash(self) -> None:
        await self.engine.abort()
        self._crash.clear()
        await self._start_anew()

    async def _start_anew(self) -> None:
        refs = list(self.log)
        self._sources.clear()
        self.engine = self._new_engine()
        await self._start_engine()
        for ref in refs:
            await self.claim(ref)


def _pass_over_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nobody awaits a task that crashed: it is no news that it raised."""
    if not isinstance(context.get("exception"), Crashed):
        loop.default_exception_handler(context)


async def _ready(attempt: Callable[[], T]) -> T:
    """What it returns, once the schema registry of its topic has answered, where that has one."""
    while True:
        try:
            return attempt()
        except NotYet as signal:
            await asyncio.sleep(signal.again_in.total_seconds())


def _registry_settings(registry: "str | RegistrySettings | None") -> "RegistrySettings | None":
    if not isinstance(registry, str):
        return registry
    from consumers.settings import RegistrySettings

    return RegistrySettings(url=registry, registers=True)


def engine_renamed_from(registrations: Any, handler: str) -> str | None:
    """The former name of a handler."""
    return next((each.renamed_from for each in registrations if each.name == handler), None)
