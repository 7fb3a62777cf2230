"""Processes with a schedule of every second, killed with SIGKILL at every gap and frozen: every tick once, none left out (I2, I4, I5)."""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from engine.crashpoints import CrashPoint
from engine.cron import Cron
from engine.schedules import pause
from tests.fixtures.processes import GuardedProcess

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120

POINTS = [
    CrashPoint.TICKS_WRITTEN,
    CrashPoint.TICKS_DURABLE,
    CrashPoint.TAKEN,
    CrashPoint.STEP_CALLED,
    CrashPoint.TRANSACTION_OPEN,
    CrashPoint.TRANSACTION_DURABLE,
    CrashPoint.FLUSH_SENT,
]


def worker(name: str, database: str, folder: Path, crash_at: str = "") -> GuardedProcess:
    """`processor run` without Kafka: nothing of the app asks for it, and it does not relay."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROCESSOR_")} | {
        "PYTHONPATH": str(ROOT),
        "PROCESSOR_POSTGRES_DSN": database,
        "PROCESSOR_OUTBOX_RELAY": "false",
        "PROCESSOR_EXECUTOR_LEASE": "2s",
        "PROCESSOR_EXECUTOR_HEARTBEAT": "0.5s",
        "PROCESSOR_HTTP_HOST": "127.0.0.1",
        "PROCESSOR_HTTP_PORT": "0",
    }
    if crash_at:
        environment["CRASH_AT"] = crash_at
    command = [sys.executable, "-m", "tests.system.worker", "tests.system.ticking:app"]
    return GuardedProcess(command, log=folder / f"{name}.log", cwd=ROOT, env=environment)


async def ended(process: GuardedProcess) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while process.running:
            await asyncio.sleep(0.05)


async def counted(connection: AsyncConnection, sql: bytes) -> int:
    row = await (await connection.execute(sql)).fetchone()
    assert row is not None
    return int(row[0])


async def passed(connection: AsyncConnection, more: int) -> None:
    """Wait until so many more ticks are booked."""
    wanted = more + await counted(connection, b"SELECT count(*) FROM ticked")
    async with asyncio.timeout(PATIENCE_S):
        while await counted(connection, b"SELECT count(*) FROM ticked") < wanted:
            await asyncio.sleep(0.1)


async def booked(connection: AsyncConnection) -> list[int]:
    rows = await (
        await connection.execute("SELECT (EXTRACT(EPOCH FROM at) * 1000)::bigint FROM ticked ORDER BY at")
    ).fetchall()
    return [int(at) for (at,) in rows]


async def audit(connection: AsyncConnection) -> None:
    """Every second from the first tick to the last has its row, and its workflow. Processes run, so that all come to an end."""
    await pause(connection, "dbos", "tick", note="the test is over")
    async with asyncio.timeout(PATIENCE_S):
        while await counted(connection, b"SELECT count(*) FROM dbos.workflow_status WHERE status <> 'SUCCESS'"):
            await asyncio.sleep(0.1)
    at = await booked(connection)
    assert at == list(Cron("* * * * * *").between(at[0] - 1, at[-1]))
    assert await counted(connection, b"SELECT count(*) FROM dbos.workflow_status") == len(at)
    last = await counted(connection, b"SELECT last_run_time FROM dbos.scheduler_state")
    assert last == at[-1]


@pytest.mark.timeout(600)
async def test_a_process_killed_at_every_gap_of_a_tick_leaves_out_and_doubles_nothing(
    database: str, tmp_path: Path
) -> None:
    """One process after the other; each goes on with what was missed meanwhile (catch_up ALL)."""
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE ticked (at timestamptz PRIMARY KEY, seen text NOT NULL)")
        for place, point in enumerate(POINTS):
            process = worker(f"w{place}", database, tmp_path, crash_at=f"{point}:2")
            await ended(process)
            process.stop()
        last = worker("last", database, tmp_path)
        await passed(connection, 3)

        await audit(connection)
        last.stop()


@pytest.mark.timeout(600)
async def test_of_two_processes_one_is_killed_and_the_other_frozen_and_every_second_runs_once(
    database: str, tmp_path: Path
) -> None:
    """P2: who is frozen with a lock loses its session with its lease, and is nobody when it wakes."""
    async with await AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE ticked (at timestamptz PRIMARY KEY, seen text NOT NULL)")
        one = worker("one", database, tmp_path)
        two = worker("two", database, tmp_path)
        await passed(connection, 2)
        for _ in range(2):
            one.stop(signal.SIGKILL)
            two.send(signal.SIGSTOP)
            one = worker("one", database, tmp_path)
            await passed(connection, 5)
            two.send(signal.SIGCONT)
            await passed(connection, 2)

        await audit(connection)
        for process in (one, two):
            process.stop()
        at = await booked(connection)
        assert timedelta(milliseconds=at[-1] - at[0]) >= timedelta(seconds=10)
