"""An app with a schedule whose every run leaves a row, and a clock to move: what the tests of schedules share."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from engine.settings import EngineSettings
from processor import App, Cron, Tick, Transaction
from processor.testing import Bench

FAST = EngineSettings(
    conninfo="", lease=timedelta(seconds=2.4), heartbeat=timedelta(seconds=0.4), scan=timedelta(milliseconds=50)
)

PATIENCE_S = 60
HOUR = timedelta(hours=1)
HOURLY = Cron("0 * * * *")


class Books:
    """A schedule whose every run leaves a row; it fails if there is one for its tick already."""

    def __init__(self, cron: Cron = HOURLY, *, version: str | None = None, name: str = "close") -> None:
        self.app = app = App("books")
        self.cron = cron
        self.ticks: list[Tick] = []
        self.gate = asyncio.Event()
        self.gate.set()

        @app.transaction()
        async def book(tx: Transaction, at: datetime) -> None:
            await tx.execute("INSERT INTO closed (at) VALUES (%s)", (at,))

        @app.workflow(on=cron, name=name, version=version)
        async def close(tick: Tick) -> str:
            self.ticks.append(tick)
            await self.gate.wait()
            await book(tick.scheduled_at)
            return tick.scheduled_at.isoformat()

        self.close = close


async def prepare(bench: Bench) -> None:
    await bench.execute("CREATE TABLE IF NOT EXISTS closed (at timestamptz PRIMARY KEY)")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def last_of(bench: Bench, name: str = "close") -> int:
    rows = await bench.fetch_all("SELECT last_run_time FROM dbos.scheduler_state WHERE workflow_fn_name = %s", (name,))
    return int(rows[0][0])


async def now_of(bench: Bench) -> int:
    return int((await bench.fetch_all("SELECT dbos.now_ms()"))[0][0])


async def closed(bench: Bench) -> list[int]:
    """Times that were booked, in order; epoch ms. The table's key sees to it that none is twice."""
    rows = await bench.fetch_all("SELECT (EXTRACT(EPOCH FROM at) * 1000)::bigint FROM closed ORDER BY at")
    return [int(at) for (at,) in rows]


async def missing(bench: Bench, by: timedelta, name: str = "close") -> None:
    """As if nothing had run for so long."""
    await bench.execute(
        "UPDATE dbos.scheduler_state SET last_run_time = last_run_time - %s WHERE workflow_fn_name = %s",
        (int(by.total_seconds() * 1000), name),
    )


async def to_next(bench: Bench, cron: Cron, *, past: timedelta = timedelta(milliseconds=100)) -> int:
    """Move the clock to just behind the next tick; returns that."""
    now = await now_of(bench)
    tick = next(cron.after(now))
    await bench.advance(timedelta(milliseconds=tick - now) + past)
    return tick


async def absent(database: str, books: Books, by: timedelta) -> int:
    """A first process runs and ends; then nothing for a while. Returns the last tick as it stands then."""
    async with Bench(books.app, database) as bench:
        await prepare(bench)
        await bench.settle()
    await missing(bench, by)
    return await last_of(bench)
