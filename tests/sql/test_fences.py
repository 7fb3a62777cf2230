"""The fences raise, so that a COMMIT sent behind them in the same pipeline keeps nothing (protocol P4 to P7)."""

import asyncio
import json
from collections.abc import AsyncGenerator

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from engine.migrations import migrate
from tests.fixtures.postgres import PostgresServer

Connection = AsyncConnection[TupleRow]

FENCE_PARTITIONS = "SELECT dbos.fence_partitions(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[])"
FENCE_ROW = "SELECT dbos.fence_row(%s, %s, %s::integer[], %s, %s::pg_lsn)"
POSITION = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_current_wal_insert_lsn()::text"


@pytest.fixture
async def conn(database: str) -> AsyncGenerator[Connection]:
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        yield conn


async def values(conn: Connection) -> list[tuple[str, str]]:
    cursor = await conn.execute("SELECT key, value FROM dbos.event_dispatch_kv ORDER BY key")
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def position(conn: Connection) -> tuple[str, str]:
    row = await (await conn.execute(POSITION)).fetchone()
    assert row is not None
    return row[0], row[1]


async def claim(conn: Connection, *keys: str, service: str = "kafka:group", epoch: int = 1) -> None:
    for key in keys:
        await conn.execute(
            "INSERT INTO dbos.event_dispatch_kv VALUES (%s, 'handler', %s, 'held', %s)", (service, key, epoch)
        )


async def test_partitions_of_ours_get_their_new_values(conn: Connection) -> None:
    await claim(conn, "t-0", "t-1")

    await conn.execute(FENCE_PARTITIONS, (["kafka:group"] * 2, ["t-0", "t-1"], [1, 1], ["held", "held"], ["a", "b"]))

    assert await values(conn) == [("t-0", "a"), ("t-1", "b")]


async def test_a_lost_partition_is_named_and_nothing_is_kept(conn: Connection) -> None:
    """P6: another epoch, another value, no row, a row that is not Kafka's: each is lost, and only those."""
    await claim(conn, "t-0", "t-1", "t-2", "t-5")
    await claim(conn, "t-4", service="other")
    await conn.execute("UPDATE dbos.event_dispatch_kv SET update_seq = 2 WHERE key = 't-1'")
    await conn.execute("UPDATE dbos.event_dispatch_kv SET value = 'another' WHERE key = 't-2'")
    before = await values(conn)

    with pytest.raises(psycopg.Error) as raised:
        async with conn.pipeline(), conn.transaction():
            await conn.execute("INSERT INTO dbos.topic_owner VALUES ('t', 'kafka:group', 0)")
            await conn.execute(
                FENCE_PARTITIONS,
                (
                    ["kafka:group"] * 4 + ["other", "kafka:group"],
                    ["t-0", "t-1", "t-2", "t-3", "t-4", "t-5"],
                    [1] * 6,
                    ["held"] * 6,
                    ["new"] * 6,
                ),
            )

    assert raised.value.sqlstate == "KP001"
    assert json.loads(raised.value.diag.message_detail or "") == [2, 3, 4, 5]
    assert await values(conn) == before
    assert await (await conn.execute("SELECT count(*) FROM dbos.topic_owner")).fetchone() == (0,)


async def test_a_zombie_waits_for_the_claim_and_is_refused(database: str, conn: Connection) -> None:
    """P6 against a claim that commits while the zombie's flush waits for its row lock."""
    await claim(conn, "t-0")
    async with await AsyncConnection.connect(database) as claimer:
        await claimer.execute("UPDATE dbos.event_dispatch_kv SET update_seq = 2 WHERE key = 't-0'")
        async with await AsyncConnection.connect(database, autocommit=True) as zombie:
            await zombie.execute("SET lock_timeout = 0")
            pid = zombie.info.backend_pid
            flush = zombie.execute(FENCE_PARTITIONS, (["kafka:group"], ["t-0"], [1], ["held"], ["zombie"]))
            task = asyncio.ensure_future(flush)
            blocked = "SELECT cardinality(pg_blocking_pids(%s))"
            while await (await conn.execute(blocked, (pid,))).fetchone() == (0,):
                assert not task.done()
            await claimer.commit()

            with pytest.raises(psycopg.Error) as raised:
                await task

    assert raised.value.sqlstate == "KP001"
    assert await values(conn) == [("t-0", "held")]


async def workflow(conn: Connection, *, status: str = "PENDING", owner: str = "me", checkpoints: int = 2) -> None:
    await conn.execute(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, owner_xid) VALUES ('w', %s, %s)", (status, owner)
    )
    for step in range(checkpoints):
        await conn.execute("INSERT INTO dbos.operation_outputs (workflow_uuid, function_id) VALUES ('w', %s)", (step,))


async def test_an_owned_pending_row_passes_and_stays_locked(conn: Connection) -> None:
    await workflow(conn)
    timeline, lsn = await position(conn)

    async with conn.transaction():
        row = await (await conn.execute(FENCE_ROW, ("w", "me", [0, 1], timeline, lsn))).fetchone()
        assert row is not None
        locked = await conn.execute("SELECT count(*) FROM pg_locks WHERE relation = 'dbos.workflow_status'::regclass")
        assert await locked.fetchone() != (0,)

    assert row[0] >= lsn


@pytest.mark.parametrize(
    "status, owner, checkpoints, sqlstate",
    [
        ("PENDING", "another", 2, "KP002"),
        ("CANCELLED", "me", 2, "KP002"),
        ("PENDING", "me", 1, "KP003"),
    ],
    ids=["another owner", "cancelled", "a checkpoint a restore took away"],
)
async def test_a_row_that_is_not_ours_as_we_know_it_is_refused(
    conn: Connection, status: str, owner: str, checkpoints: int, sqlstate: str
) -> None:
    """P7."""
    await workflow(conn, status=status, owner=owner, checkpoints=checkpoints)
    timeline, lsn = await position(conn)

    with pytest.raises(psycopg.Error) as raised:
        await conn.execute(FENCE_ROW, ("w", "me", [0, 1], timeline, lsn))

    assert raised.value.sqlstate == sqlstate


async def test_a_missing_row_is_refused(conn: Connection) -> None:
    timeline, lsn = await position(conn)

    with pytest.raises(psycopg.Error) as raised:
        await conn.execute(FENCE_ROW, ("nobody", "me", [], timeline, lsn))

    assert (raised.value.sqlstate, raised.value.diag.message_detail) == ("KP002", "nobody")


FENCE_ROWS = "SELECT dbos.fence_rows(%s::text[], %s::text[], %s::text[], %s::integer[], %s, %s::pg_lsn)"


async def test_rows_of_several_workflows_pass_together(conn: Connection) -> None:
    """P7 for a group; `v` has no checkpoint yet."""
    await workflow(conn)
    await conn.execute(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, owner_xid) VALUES ('v', 'PENDING', 'you')"
    )
    timeline, lsn = await position(conn)

    cursor = await conn.execute(FENCE_ROWS, (["w", "v"], ["me", "you"], ["w", "w"], [0, 1], timeline, lsn))

    row = await cursor.fetchone()
    assert row is not None
    assert row[0] >= lsn


@pytest.mark.parametrize(
    "status, owner, checkpoints, refusal",
    [
        ("PENDING", "another", 2, ("KP002", '["w"]')),
        ("CANCELLED", "me", 2, ("KP002", '["w"]')),
        ("PENDING", "me", 1, ("KP003", None)),
    ],
    ids=["another owner", "cancelled", "a checkpoint a restore took away"],
)
async def test_a_group_is_told_which_row_is_not_ours(
    conn: Connection, status: str, owner: str, checkpoints: int, refusal: tuple[str, str | None]
) -> None:
    """P7: who is not in the detail may try again."""
    await workflow(conn, status=status, owner=owner, checkpoints=checkpoints)
    await conn.execute(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, owner_xid) VALUES ('v', 'PENDING', 'you')"
    )
    timeline, lsn = await position(conn)

    with pytest.raises(psycopg.Error) as raised:
        await conn.execute(FENCE_ROWS, (["w", "v"], ["me", "you"], ["w", "w"], [0, 1], timeline, lsn))

    assert (raised.value.sqlstate, raised.value.diag.message_detail) == refusal


@pytest.mark.private_postgres
@pytest.mark.parametrize("new_timeline", [False, True], ids=["position goes back", "timeline changes"])
async def test_a_restored_backup_is_noticed(private_postgres: PostgresServer, new_timeline: bool) -> None:
    """P4: a database that lost commits refuses who saw them, whether it was promoted or put back in place."""
    server = private_postgres
    await migrate(server.dsn())
    backup = server.base_backup()
    async with await AsyncConnection.connect(server.dsn(), autocommit=True) as conn:
        # More than the restore itself writes, so that the position of the restored server is behind.
        await conn.execute("SELECT pg_switch_wal()")
        await conn.execute("INSERT INTO dbos.topic_owner VALUES ('lost', 'kafka:group', 0)")
        await conn.execute("SELECT pg_switch_wal()")
        timeline, lsn = await position(conn)
        await conn.execute("SELECT dbos.fence_database(%s, %s::pg_lsn)", (timeline, lsn))

    server.restore(backup, new_timeline=new_timeline)

    async with await AsyncConnection.connect(server.dsn(), autocommit=True) as conn:
        assert await (await conn.execute("SELECT count(*) FROM dbos.topic_owner")).fetchone() == (0,)
        now, _ = await position(conn)
        assert (now != timeline) == new_timeline
        with pytest.raises(psycopg.Error) as raised:
            await conn.execute("SELECT dbos.fence_database(%s, %s::pg_lsn)", (timeline, lsn))
        assert raised.value.sqlstate == "KP003"
