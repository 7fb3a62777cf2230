"""The run: produce, consume, kill, and check the books.

    Postgres, Kafka ─▶ tables, topic ─▶ two workers ─▶ orders at a rate ─┬▶ all settled ─▶ audit ─▶ JSON
                                             ▲                           │
                                             └── SIGKILL, anew ──────────┘

Every few seconds one of the workers, in turn, is killed and started anew under its name, so that it takes its
predecessor's place at once; until all orders are done (`processor.demo.kills`).
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from engine.errors import ConfigurationError, EngineError
from processor.demo import servers
from processor.demo.books import Books, Standing
from processor.demo.kills import KILLS_MIN, Killer
from processor.demo.ledger import Ledger, orders
from processor.demo.processes import Processes
from processor.demo.servers import MEMBER_SILENCE, PARTITIONS, Topics
from processor.demo.show import Show, State
from processor.demo.workers import Worker

LAG_MAX = 20_000
"""Production waits for the workers beyond this, on machines where they cannot keep the rate."""

IN_FLIGHT_MAX = 100
"""Of a worker. After a kill so many records of each partition run with caution, one row and one commit each."""

STALL_S = 300.0
"""Without any progress for so long, the run has failed. Two workers may take more than a minute until the first order
is done, beside other work on two cores."""

HELD_BACK = 10
"""While too few kills have hit, the last of so many orders come so many times more slowly: there must be work to hit.
The last of these even more so; all in all they do not take four times as long as all orders at their pace."""

TICK_S = 0.5
LASTS = timedelta(seconds=60)
"""Of producing, where no rate is given: long enough for the kills."""

RATE_MAX = 3_000
"""Orders a second where no rate is given: what a small machine processes between two kills."""

ORDERS_MIN = 2_000
"""Of fewer, no worker would have work in flight when it is to be killed."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run.

    Attributes:
        orders: How many.
        rate: Orders a second that are produced; one that lasts for `LASTS`, at most `RATE_MAX`, if not given.
        customers: Keys they are spread over.
        kill_every_s: Between two kills.
        away_s: How long the one worker that is left dead stays away: longer than silence and lease together.
        seed: Of the orders and their kinds.
        kafka: Address of brokers; `None` for the mock cluster.
        postgres: Address of a database; `None` for the embedded one.
    """

    orders: int = 200_000
    rate: int | None = None
    customers: int = 20_000
    kill_every_s: float = 6.0
    away_s: float = 18.0
    seed: int = field(default_factory=lambda: Random().randrange(2**32))
    kafka: str | None = None
    postgres: str | None = None

    @property
    def pace(self) -> float:
        """Orders a second."""
        return self.rate or min(RATE_MAX, self.orders / LASTS.total_seconds())

    def check(self) -> None:
        """Raise `ConfigurationError` about what cannot be run."""
        if self.orders < ORDERS_MIN:
            raise ConfigurationError(
                f"--orders {self.orders}: at least {ORDERS_MIN:,}; fewer give no worker enough to do to be killed at work"
            )
        if self.rate is not None and self.rate < 1:
            raise ConfigurationError(f"--rate {self.rate}: orders a second, at least 1")


def run(options: Options) -> int:
    """Run the demo. Returns its exit status; whatever happens, nothing is left running.

    Raises:
        ConfigurationError: There is too little to do, a server cannot be used, or a worker cannot run.
    """
    options.check()
    return asyncio.run(_until_signal(options))


async def _until_signal(options: Options) -> int:
    main = asyncio.ensure_future(_run(options))
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        # Once: cleaning up is quick, and must not be cut short.
        if not received:
            received.append(number)
            main.cancel()

    # From here on: until now there was nothing to clean up (processor.cli.demo).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await main
    except asyncio.CancelledError:
        if not received:  # before the signals were ours
            raise
        sys.stdout.write(f"\nended by {received[0].name}; nothing is left running\n")
        return 128 + received[0]


async def _run(options: Options) -> int:
    show = Show()
    processes = Processes()
    try:
        async with servers.kafka(options.kafka, show) as topics, servers.books(options.postgres, show) as books:
            return await Demo(options, processes, books, topics, show).run()
    finally:
        processes.close()


def slowness(left: int, orders: int, kills: int) -> float:
    """By how much the pace is slower for an order after which there are `left` of all `orders`, itself included."""
    held_back = orders // HELD_BACK
    if left > held_back or kills >= KILLS_MIN:
        return 1.0
    return HELD_BACK * min(held_back / left, HELD_BACK)


class Demo:
    """One run on servers that are there."""

    def __init__(self, options: Options, processes: Processes, books: Books, topics: Topics, show: Show) -> None:
        self._options = options
        self._books = books
        self._topics = topics
        self._feed = topics.feed
        self._show = show
        self._ledger = Ledger(processes.home / "ledger")
        self._workers = [Worker(processes, name, self._settings(name)) for name in ("demo-1", "demo-2")]
        self._killer = Killer(self._workers, show, every_s=options.kill_every_s, away_s=options.away_s)
        self._is_stopping = False
        self._took_s = 0.0
        self._done = 0

    def _settings(self, name: str) -> dict[str, str]:
        """Variables of a worker's environment. Real brokers know it again by its name (static membership)."""
        of_group = (
            {"PROCESSOR_KAFKA_GROUP_PROTOCOL": "consumer"}
            if self._options.kafka is None
            else {
                "PROCESSOR_KAFKA_GROUP_INSTANCE_ID": name,
                "PROCESSOR_KAFKA_SESSION_TIMEOUT": f"{MEMBER_SILENCE.total_seconds():g}s",
            }
        )
        return of_group | {
            "DEMO_HANDLERS": f"transactional={self._topics.by_card},fused={self._topics.on_account}",
            "DEMO_TABLE": self._books.table,
            "PROCESSOR_EXECUTOR_IN_FLIGHT_MAX": str(IN_FLIGHT_MAX),
            "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": self._topics.address,
            "PROCESSOR_KAFKA_GROUP": self._topics.group,
            "PROCESSOR_POSTGRES_DSN": self._books.dsn,
            "PROCESSOR_POSTGRES_SCHEMA": self._books.schema,
        }

    async def run(self) -> int:
        """Produce, kill, settle, audit. Returns the exit status."""
        options = self._options
        self._show.say(f"{options.orders:,} orders at {options.pace:,.0f}/s, seed {options.seed}; two workers")
        began = time.monotonic()
        for worker in self._workers:
            worker.start()
        producing = asyncio.ensure_future(asyncio.to_thread(self._produce))
        killing = asyncio.ensure_future(self._killer.run())
        try:
            await self._until_settled(producing, killing)
        finally:
            self._is_stopping = True
            killing.cancel()
            await asyncio.wait({producing, killing})
            self._ledger.close()
            # Nothing can be removed from under members of the group.
            for worker in self._workers:
                await worker.kill()
        self._took_s = time.monotonic() - began
        return await self._audited()

    # -- producing --

    def _produce(self) -> None:
        """Write the ledger and produce, in a thread, at a steady rate."""
        options, due = self._options, time.monotonic()
        for entry in orders(options.orders, options.customers, Random(options.seed)):
            while (ahead_s := due - time.monotonic()) > 0.01 and not self._is_stopping:
                time.sleep(min(ahead_s, 0.1))
            due += slowness(options.orders - entry.sequence, options.orders, self._killer.kills) / options.pace
            while self._ledger.count - self._done > LAG_MAX and not self._is_stopping:
                time.sleep(0.1)
            if self._is_stopping:
                return
            self._ledger.write(entry)
            topic = self._topics.by_card if entry.is_by_card else self._topics.on_account
            self._feed.produce(topic, entry.customer, entry.value())
        while not self._is_stopping and not self._feed.flush(timedelta(seconds=0.5)):
            pass

    # -- watching --

    async def _until_settled(self, producing: "asyncio.Future[None]", killing: "asyncio.Future[None]") -> None:
        """Show how far it is until everything produced is finished."""
        last, last_at, moved_at = 0, time.monotonic(), time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            for task in (producing, killing):
                if task.done():
                    task.result()
            for worker in self._workers:
                worker.check()
            standing = await self._books.standing()
            now = time.monotonic()
            rate, moved = (standing.done - last) / (now - last_at), standing.done != last
            last, last_at = standing.done, now
            self._done = max(self._done, standing.done)
            if moved:
                moved_at = now
            self._show.state(await self._state(standing, rate))
            if producing.done() and self._is_settled(standing):
                return
            if standing.holds or now - moved_at > STALL_S:
                raise EngineError(f"the run does not go on: {standing}")

    def _is_settled(self, standing: Standing) -> bool:
        return standing.next == self._ledger.count and not standing.open

    async def _state(self, standing: Standing, rate: float) -> State:
        return State(
            produced=self._ledger.count,
            done=standing.done,
            rate=rate,
            lag=self._feed.delivered - standing.done,
            in_flight=sum([await worker.in_flight() for worker in self._workers]),
            dead_letters=standing.dead_letters,
            kills=self._killer.kills,
            workers=sum(worker.is_running for worker in self._workers),
        )

    # -- the books --

    async def _audited(self) -> int:
        """Hold the ledger against the tables, and say what came of it."""
        topics = (self._topics.by_card, self._topics.on_account)
        bounds = [await asyncio.to_thread(self._feed.bounds, topic, PARTITIONS) for topic in topics]
        if trimmed := [each for logs in bounds for each in logs if each.start > 0]:
            raise ConfigurationError(f"the brokers have dropped records while the demo ran: {trimmed}")
        audit = await self._books.audit(self._ledger.entries())
        for example in audit.examples:
            self._show.say(example)
        if audit.misplaced:
            self._show.say(f"{audit.misplaced} orders ended as what they must not")
        has_killed = self._killer.kills >= KILLS_MIN
        if not has_killed:
            self._show.say(
                f"everything was done before {KILLS_MIN} kills had hit a worker at work, only {self._killer.kills}: "
                f"more orders, or a higher rate"
            )
        result = {
            "produced": audit.produced,
            "effects": audit.effects,
            "missing": audit.missing,
            "duplicates": audit.duplicates,
            "out_of_order": audit.out_of_order,
            "dead_letters": audit.dead_letters,
            "kills": self._killer.kills,
            "records_per_s": round(audit.produced / self._took_s),
        }
        is_good = audit.is_clean and has_killed
        self._show.say("every order took effect once, in order" if is_good else "FAILED")
        self._show.end(json.dumps(result))
        return 0 if is_good else 1
