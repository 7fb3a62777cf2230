"""Random faults, long: `python -m tests.system.random_mix --seed 7 --minutes 20` (`make system SEED=7 MINUTES=20`).

Three workers on a Kafka and a Postgres of their own run handlers of every kind, a topic each; orders come at a steady
rate, and every few seconds a fault: SIGKILL, SIGKILL at a crash point, SIGTERM, SIGSTOP for up to two leases, a lost
COMMIT reply, a restart of the broker or of Postgres, in order or not. At the end everything settles, and the demo's audit
is held.

The seed decides the group's protocol, which faults come in which order, and the orders; not how they meet. Exit code 1
on a violation.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from engine.migrations import migrate
from processor.demo.workers import Worker
from tests.fixtures.kafka import KafkaServer
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.proxy import LosingProxy, losing_proxy
from tests.system.field import KINDS, MIXED, Field
from tests.system.points import points_of

WORKERS = ("one", "two", "three")
RATE = 200
"""Orders a second: what two cores process while workers start again and again."""

PAUSE_S = (1.0, 5.0)
"""Between two faults."""

STOPPED_S = (0.5, 7.0)
"""How long a SIGSTOP lasts: shorter and longer than the lease of 3 s."""

POINT_S = 5.0
"""Longest to wait for a worker to reach its crash point: one that nobody passes meanwhile stays armed."""


class Mix:
    """One run on servers of its own."""

    def __init__(
        self, field: Field, kafka: KafkaServer, postgres: PostgresServer, proxy: LosingProxy, seed: int
    ) -> None:
        self._field = field
        self._kafka = kafka
        self._postgres = postgres
        self._proxy = proxy
        self._random = Random(seed)
        self._armed: dict[str, str] = {}
        """The crash point a worker will die at, by its name."""
        self.faults: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        """Crash points that killed."""

    async def run(self, minutes: float) -> None:
        """Faults one after the other, while orders are produced."""
        faults: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill": (4, self._kill),
            "kill at a crash point": (4, self._kill_at_a_point),
            "stop": (2, self._stop),
            "freeze": (2, self._freeze),
            "lose a reply": (3, self._lose),
            "restart Kafka": (1, self._restart_kafka),
            "restart Postgres": (1, self._restart_postgres),
        }
        names = list(faults)
        weights = [weight for weight, _ in faults.values()]
        for name in WORKERS:
            self._field.worker(name)
        ends = time.monotonic() + 60 * minutes
        while time.monotonic() < ends:
            await asyncio.sleep(self._random.uniform(*PAUSE_S))
            [name] = self._random.choices(names, weights)
            standing = await self._field.books.standing()
            say(f"{name}; {standing.done} done of {self._field.ledger.count}")
            await faults[name][1]()
            self.faults[name] += 1
            for worker in self._field.workers.values():
                if not worker.is_running:
                    self._start(worker)
        self._proxy.lose_commits = 0

    async def produce(self) -> None:
        """Orders at a rate, until cancelled."""
        while True:
            self._field.produce(RATE // 10)
            await asyncio.sleep(0.1)

    async def _kill(self) -> None:
        worker = self._any()
        # One that is armed may reach its crash point meanwhile.
        either = {asyncio.ensure_future(self._field.at_work(worker)), asyncio.ensure_future(worker.ended())}
        ended, waiting = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        for task in ended:
            task.result()
        await self._end(worker)

    async def _kill_at_a_point(self) -> None:
        worker = self._any()
        await self._end(worker)
        point = self._random.choice(points_of(self._field.kind))
        worker.start(CRASH_AT=f"{point}:{self._random.randrange(1, 30)}")
        self._armed[worker.name] = point
        await asyncio.wait({asyncio.ensure_future(worker.ended())}, timeout=POINT_S)

    async def _stop(self) -> None:
        worker = self._any()
        # One that was just started and does not answer yet may still be importing, before it could handle a signal.
        codes = {0, -signal.SIGKILL} if await worker.metrics() else {0, -signal.SIGKILL, -signal.SIGTERM}
        worker.process.send_signal(signal.SIGTERM)
        code = await worker.ended()
        assert code in codes, f"{worker.name} ended with {code}\n{self._field.logs()}"

    async def _freeze(self) -> None:
        worker = self._any()
        worker.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._random.uniform(*STOPPED_S))
        worker.process.send_signal(signal.SIGCONT)

    async def _lose(self) -> None:
        self._proxy.lose_commits += self._random.randrange(1, 4)

    async def _restart_kafka(self) -> None:
        if self._random.random() < 0.5:
            await asyncio.to_thread(self._kafka.kill)
            await asyncio.to_thread(self._kafka.start)
        else:
            await asyncio.to_thread(self._kafka.restart)

    async def _restart_postgres(self) -> None:
        await asyncio.to_thread(self._postgres.restart, self._random.choice(["fast", "immediate"]))

    def _any(self) -> Worker:
        worker = self._field.workers[self._random.choice(WORKERS)]
        if not worker.is_running:  # it passed its crash point since the last fault
            self._start(worker)
        return worker

    async def _end(self, worker: Worker) -> None:
        if worker.is_running:
            self._armed.pop(worker.name, None)  # it will not have been the crash point's doing
        await worker.kill()

    def _start(self, worker: Worker) -> None:
        """Start a worker that has ended, and count the crash point it ended at."""
        point = self._armed.pop(worker.name, None)
        if point is not None and worker.process.returncode == -signal.SIGKILL:
            self.points[point] += 1
        worker.start()


async def run(seed: int, minutes: float, kind: str = MIXED) -> int:
    """Returns the exit code."""
    protocol = ("classic", "consumer")[seed % 2]
    say(f"seed {seed}: {kind} handlers, {protocol} protocol, {minutes:g} minutes")
    with KafkaServer() as kafka, PostgresServer() as postgres:
        await migrate(postgres.dsn())
        async with (
            losing_proxy(postgres.dsn()) as (proxy, through),
            Field(
                kafka.bootstrap_servers, postgres.dsn(), kind, through=through, protocol=protocol, seed=seed
            ) as field,
        ):
            mix = Mix(field, kafka, postgres, proxy, seed)
            producing = asyncio.ensure_future(mix.produce())
            try:
                await mix.run(minutes)
                producing.cancel()
                audit = await field.finish()
            except AssertionError as error:
                say(f"seed {seed}: VIOLATION after {dict(mix.faults)}: {error}")
                return 1
            finally:
                producing.cancel()
            say(
                json.dumps(
                    {
                        "seed": seed,
                        "kind": kind,
                        "protocol": protocol,
                        "faults": dict(mix.faults),
                        "killed_at": dict(mix.points),
                        "replies_lost": proxy.lost,
                        "produced": audit.produced,
                        "effects": audit.effects,
                        "missing": audit.missing,
                        "duplicates": audit.duplicates,
                        "out_of_order": audit.out_of_order,
                        "dead_letters": audit.dead_letters,
                    }
                )
            )
            return 0


def say(text: str) -> None:
    """A line at once."""
    print(text, flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=Random().randrange(2**31))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kind", choices=[*KINDS, MIXED], default=MIXED, help="handlers of one kind only")
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.seed, arguments.minutes, arguments.kind))


if __name__ == "__main__":
    sys.exit(main())
