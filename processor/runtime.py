"""The composition root: the one place where an app, its settings, the engine and Kafka are wired.

    App + Settings ──▶ handlers, EngineSettings ──▶ Engine ◀── Group (one per consumer group), Relay
                                                      │            │
                      Metrics, LogObserver ◀──events──┴────────────┘

    start   lifespan ─▶ engine ─▶ relay ─▶ groups ─▶ web     stop   web ─▶ groups ─▶ relay ─▶ engine ─▶ lifespan

Nothing is contacted before `Runtime.start`.
"""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from consumers.group import Group
from consumers.relay import Relay, RelayTracing
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.telemetry import Event, HeartbeatRenewed, Observer, StoreUnavailable, Telemetry
from engine.tracing import Tracing
from processor.app import App
from processor.config import Settings
from processor.config_tracing import TracingSettings
from processor.formats import check_formats
from processor.gauges import engine_gauges, group_gauges, relay_gauges, without_ages_that_nobody_knows
from processor.loading import load_settings
from processor.logs import LogObserver
from processor.metrics import Metrics, Samples
from processor.policies import dead_letter_topic
from processor.schema_registry import connected_to
from processor.wiring import (
    engine_settings,
    group_name,
    group_settings,
    listened,
    registry_settings,
    relay_settings,
    subscription,
)

if TYPE_CHECKING:
    from processor.web.server import WebServer

T = TypeVar("T")

log = logging.getLogger("processor")

POLL_AGE_MAX = timedelta(seconds=30)
"""A poll thread that has not come round for so long is stuck: it comes round many times a second."""

READ_ATTEMPTS = 5
"""Snapshots are read in the scraping thread, beside the loop that changes what they read."""


YOUNG_MAX = 50_000
"""Objects made since the last collection that start the next: 2,000 records in flight are 30,000 of them."""


def relax_garbage_collection() -> None:
    """Have Python look for cycles less often, and never again among what is there already. For a process of ours only.

    Records and their runs hold no cycles and are freed when they end; with Python's own thresholds (a collection every
    700 objects) looking at them again and again takes a third of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 50, 100)


class Runtime:
    """One process's share of an app: an engine, and a member of each consumer group.

    Args:
        app: Whose handlers run.
        settings: Of this process.
        kafka: Whether to consume.
        relay: Whether to relay the outbox, or stand by for it; `None`: as the settings say, where it consumes.
        web: Whether to serve HTTP, where the settings say so.
        shares_ports: Whether other processes beside this one listen on the same port for HTTP.
        observers: Of telemetry events, beside metrics and logs.

    Raises:
        ConfigurationError: Nothing starts any of the app's workflows, or settings contradict each other.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        *,
        kafka: bool = True,
        relay: bool | None = None,
        web: bool = True,
        shares_ports: bool = False,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.app = app
        self.settings = settings
        self.metrics = Metrics(settings.metrics.latency_buckets_s)
        self._signs = _SignsOfLife()
        telemetry = Telemetry((self.metrics.observe, LogObserver(), self._signs, *observers))
        started = [registration for registration in app.workflows.values() if registration.topic is not None]
        if kafka and not app.workflows:
            raise ConfigurationError(
                f"app {app.name!r} has no workflow, so nothing would ever run.\n"
                f"  Give it one, as `@app.workflow(on=Topic('orders', Order))`."
            )
        self._registry = registry_settings(settings)
        check_formats([each.topic.codec for each in started if each.topic is not None], self._registry)
        handlers = {
            registration.name: registration.handler(settings.executor.version)
            for registration in app.workflows.values()
        }
        tracing = tracing_of(settings.tracing, app.name)
        self.engine = Engine(engine_settings(settings, app), handlers, telemetry, listened(app, settings), tracing)
        self.groups: list[Group] = []
        names = sorted({group_name(registration, app, settings) for registration in started}) if kafka else []
        for name in names:
            members = [each for each in started if group_name(each, app, settings) == name]
            subscriptions = [subscription(each, settings) for each in members]
            dead_letters = sorted({topic for each in members if (topic := dead_letter_topic(each.on_failure))})
            self.groups.append(
                Group(self.engine, group_settings(settings, name), subscriptions, telemetry, also=dead_letters)
            )
        wants_relay = kafka and settings.outbox.relay if relay is None else relay
        self.relay = (
            Relay(self.engine, relay_settings(settings), telemetry, relay_tracing_of(self.engine.tracing))
            if wants_relay
            else None
        )
        self.web = web_server(app, settings, self.engine, telemetry, shares_port=shares_ports) if web else None
        self._stack = AsyncExitStack()
        self._is_started = self._is_stopping = False
        self._stop_by = 0.0

    # -- life --

    async def start(self) -> None:
        """Enter the lifespan, start the engine, join the groups. What fails takes down what was started before it.

        Raises:
            ConfigurationError: Database, schema, brokers or topics are not as they must be. Says what to do.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(connected_to(self._registry))
            if self.app.lifespan is not None:
                await stack.enter_async_context(self.app.lifespan(self.app))
            stack.push_async_callback(self._stop_engine)
            await self.engine.start()
            self.app.engines.append(self.engine)
            if self.relay is not None:
                stack.push_async_callback(self._stop_relay, self.relay)
                await self.relay.start()
            for group in self.groups:
                stack.push_async_callback(self._stop_group, group)
                await group.start()
            if self.web is not None:
                stack.push_async_callback(self._stop_web, self.web)
                await self.web.start()
            self._stack = stack.pop_all()
        self._is_started = True

    async def stop(self) -> None:
        """Release every partition and end. May be called again.

        Running steps have `executor.drain` to end, from now, everything together; closing connections takes seconds more.
        """
        if not self._is_stopping:
            self._is_stopping = True
            self._stop_by = time.monotonic() + self.settings.executor.drain.total_seconds()
        await self._stack.aclose()

    async def failure(self) -> BaseException:
        """Wait until something cannot go on, and return what it was. The process should stop then."""
        services = [*self.groups, *([self.relay] if self.relay is not None else [])]
        ends = [self.engine.failure, *(service.failed for service in services)]
        if self.web is not None and self.web.failed is not None:
            ends.append(self.web.failed)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self.engine.failure.done():
            return self.engine.failure.result()
        if self.web is not None and self.web.failed is not None and self.web.failed.done():
            return self.web.failed.result()
        error = next((service.failed.exception() for service in services if service.failed.done()), None)
        assert error is not None, "the future of a group, and of a relay, only fails"
        return error

    async def _stop_engine(self) -> None:
        if self.engine in self.app.engines:
            self.app.engines.remove(self.engine)
        await self.engine.stop(self._drain_left())
        if self.engine.tracing is not None:
            from processor.trace_export import flush_spans

            await asyncio.to_thread(flush_spans)

    async def _stop_relay(self, relay: Relay) -> None:
        await relay.stop(self._drain_left())

    async def _stop_web(self, web: "WebServer") -> None:
        await web.stop(self._drain_left())

    async def _stop_group(self, group: Group) -> None:
        await group.stop(self._drain_left())

    def _drain_left(self) -> timedelta:
        return timedelta(seconds=max(self._stop_by - time.monotonic(), 0.0))

    # -- for probes and scrapes, in other threads --

    def problems_of_life(self) -> list[str]:
        """What only a restart can mend; nothing while it starts or stops."""
        if not self._is_started or self._is_stopping:
            return []
        problems = [
            f"group {group}: the poll thread has not come round for {age:.0f} s"
            for group, age in self._poll_ages()
            if age > POLL_AGE_MAX.total_seconds()
        ]
        executor = self.settings.executor
        silence_max = 3 * executor.lease + self.settings.postgres.connect_timeout
        if (silence := self._signs.silence()) > silence_max.total_seconds():
            problems.append(f"the lease thread, or the event loop it reports to, has been silent for {silence:.0f} s")
        return problems

    def problems_of_readiness(self) -> list[str]:
        """Why nothing should rely on this process yet, or any more."""
        if self._is_stopping:
            return ["stopping"]
        return [] if self._is_started else ["starting"]

    def gauges(self) -> Samples:
        """What metrics read at a scrape."""
        if not self._is_started or self._is_stopping:
            return {}
        samples = _steadily(lambda: engine_gauges(self.engine.snapshot(), self.engine.settings.lease, time.time()))
        for group in self.groups:
            found = _steadily(lambda group=group: group_gauges(group.snapshot()))
            for name, values in found.items():
                samples.setdefault(name, []).extend(values)
        if self.relay is not None:
            samples |= _steadily(lambda relay=self.relay: relay_gauges(relay.snapshot()))
        return without_ages_that_nobody_knows(samples)

    def _poll_ages(self) -> list[tuple[str, float]]:
        snapshots = [_steadily(group.snapshot) for group in self.groups]
        return [(snapshot.group, snapshot.poll_age_s) for snapshot in snapshots]


def web_server(
    app: App, settings: Settings, engine: Engine, telemetry: Telemetry, *, shares_port: bool
) -> "WebServer | None":
    """What serves HTTP, if anything does. Raises `ConfigurationError` where its libraries are missing."""
    if not settings.web.enabled:
        if any(registration.http is not None for registration in app.workflows.values()):
            log.warning("HTTP triggers are not served", extra={"setting": "web.enabled"})
        return None
    from processor.web import missing_extra

    try:
        from processor.web.server import WebServer
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    return WebServer(app, engine, settings.web, telemetry.emit, shares_port=shares_port, of_process=settings)


def relay_tracing_of(tracing: Tracing | None) -> RelayTracing | None:
    """What makes the relay's spans, if anything makes spans here."""
    if tracing is None:
        return None
    from processor.relay_tracing import RelaySpans
    from processor.tracing import Spans

    return RelaySpans(tracing) if isinstance(tracing, Spans) else None


def tracing_of(settings: TracingSettings, app_name: str) -> Tracing | None:
    """What makes spans, if anything does. Raises `ConfigurationError` where its libraries are missing."""
    if not settings.enabled:
        return None
    try:
        from processor.trace_export import spans_of
        from processor.tracing import TraceIds
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"tracing.enabled: {error.name} is not installed: pip install 'onceflow[otel]'"
        ) from None
    for handler in logging.getLogger().handlers:
        if not any(isinstance(each, TraceIds) for each in handler.filters):
            handler.addFilter(TraceIds())
    return spans_of(settings, app_name)


class _SignsOfLife:
    """When the lease thread was last heard of: it renews, or says that it cannot."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, HeartbeatRenewed | StoreUnavailable):
            self._last = time.monotonic()

    def silence(self) -> float:
        return time.monotonic() - self._last


def _steadily(read: Callable[[], T]) -> T:
    """Read what another thread changes: a dictionary that changed under an iteration is read again."""
    for _ in range(READ_ATTEMPTS - 1):
        try:
            return read()
        except RuntimeError:
            continue
    return read()


@asynccontextmanager
async def running(
    app: App, settings: Settings | None = None, *, kafka: bool = True, observers: Sequence[Observer] = ()
) -> AsyncGenerator[Runtime]:
    """Run an app inside of a program of the caller's: see `App.running`."""
    runtime = Runtime(app, settings or load_settings(), kafka=kafka, observers=observers)
    runtime.metrics.read_at_scrape(runtime.gauges)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()
