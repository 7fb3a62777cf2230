"""Processes of executions killed with SIGKILL in the middle of a node: another one goes on (I4, I5, I8, P3, P29)."""

import asyncio
import os
import sys
from pathlib import Path

from psycopg import AsyncConnection

from processor.executions import Execution, ExecutionDebugger, ExecutionOptions, ExecutionStore
from tests.fixtures.processes import GuardedProcess
from tests.integration.flows import ended
from tests.system.executing import worker_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60
NODES = ["pick", "book", "tell"]


def process(database: str, log: Path, *arguments: str, hold: bool = False) -> GuardedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROCESSOR_")} | {
        "PYTHONPATH": str(ROOT),
        "PROCESSOR_POSTGRES_DSN": database,
        "PROCESSOR_EXECUTOR_NAME": "worker",  # the next one of the name needs not wait for a lease to end (P3)
        **({"HOLD": "1"} if hold else {}),
    }
    command = [sys.executable, "-m", "tests.system.executing", *arguments]
    return GuardedProcess(command, log=log, cwd=ROOT, env=environment)


async def counted(connection: AsyncConnection, sql: bytes, wanted: int) -> None:
    """Wait until there are so many at least."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            row = await (await connection.execute(sql)).fetchone()
            assert row is not None
            if row[0] >= wanted:
                return
            await asyncio.sleep(0.02)


async def test_what_killed_processes_were_executing_goes_on_in_another_and_every_effect_is_there_once(
    database: str, tmp_path: Path
) -> None:
    """One worker holds an execution in each of three nodes and one at a breakpoint, a program outside of the engine holds a
    fifth: both are killed. What was recorded is not called again; the interrupted node is, and its key makes it one effect.
    """
    async with (
        await AsyncConnection.connect(database, autocommit=True) as connection,
        ExecutionStore(database) as store,
    ):
        await connection.execute("CREATE TABLE held (node text)")
        await connection.execute("CREATE TABLE called (execution_id text, node text)")
        await connection.execute("CREATE TABLE effect (key text PRIMARY KEY, execution_id text, node text)")
        queue = worker_of(store).get_queue()
        for node in NODES:
            held = Execution(id=node, flow_id="ship", owner_id="ada", integration={"hold": node})
            assert await queue.enqueue(held)
        breakpoints = ExecutionOptions(breakpoints=("tell",))
        await queue.enqueue(Execution(id="paused", flow_id="ship", owner_id="ada", options=breakpoints))
        killed = process(database, tmp_path / "killed.log", hold=True)
        outside = process(database, tmp_path / "outside.log", "outside", "left")
        try:
            await counted(connection, b"SELECT count(*) FROM held", 3)
            await counted(connection, b"SELECT count(*) FROM dbos.execution WHERE paused_node_id = 'tell'", 1)
            await counted(
                connection,
                b"SELECT count(*) FROM dbos.workflow_status WHERE workflow_uuid = 'left' AND started_at_epoch_ms > 0",
                1,
            )
        finally:
            killed.kill()
            outside.kill()

        other = process(database, tmp_path / "other.log")
        try:
            for id in [*NODES, "left"]:
                assert (await ended(store, id)).status == "completed"
            assert await ExecutionDebugger(store).resume("paused")
            assert (await ended(store, "paused")).status == "completed"
        finally:
            other.stop()

        effects = await (await connection.execute("SELECT execution_id, node FROM effect ORDER BY 1, 2")).fetchall()
        calls = await (
            await connection.execute(
                "SELECT execution_id, node FROM called GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1"
            )
        ).fetchall()
        lost = await store.get_recovery_history("left")
    assert effects == sorted((id, node) for id in [*NODES, "left", "paused"] for node in NODES)
    assert calls == [("pick", "pick"), ("tell", "tell")]
    assert [(each.previous_worker_id, each.reason) for each in lost] == [("outside", "worker outside was lost")]
