"""What tests of the store of executions share."""

import psycopg

from engine.execution_rows import Execution, ExecutionStatus
from engine.executions import ExecutionStore, UpdateExecutionStatusParams

MINUTE = 60_000


def execution(id: str = "e-1", **columns: object) -> Execution:
    return Execution(**{"id": id, "flow_id": "summarise", "owner_id": "ada", **columns})  # pyright: ignore[reportArgumentType]


def to(id: str, status: ExecutionStatus, **more: object) -> UpdateExecutionStatusParams:
    return UpdateExecutionStatusParams(execution_id=id, status=status, **more)  # pyright: ignore[reportArgumentType]


def let_time_pass(database: str, ms: int) -> None:
    """In Postgres, for leases and everything else."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION dbos.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS"
            f" $$ SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + {ms} $$".encode()
        )


async def got(store: ExecutionStore, id: str = "e-1") -> Execution:
    found = await store.get(id)
    assert found is not None
    return found
