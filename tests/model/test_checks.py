"""What the model checks would be noticed: the database is damaged by hand, one rule at a time."""

from typing import LiteralString

import psycopg
import pytest

from tests.model.executors import System

DAMAGES: dict[str, tuple[LiteralString, str]] = {
    "a record without its effect": (
        "DELETE FROM effect WHERE id = (SELECT min(id) FROM effect)",
        "I5: half a commit",
    ),
    "an effect twice": ('INSERT INTO effect (part, "offset", key) SELECT part, "offset", key FROM effect', "I5: an effect twice"),
    "an effect without its record": (
        """INSERT INTO effect (part, "offset", key) VALUES (0, 77, 'z')""",
        "I5: half a commit",
    ),
    "another's row": ("UPDATE dbos.workflow_status SET owner_xid = 'nobody'", "I6: .* has owner nobody"),
    "another executor": (
        """UPDATE dbos.workflow_status SET executor_id = 'nobody',
                  owner_xid = (SELECT value::json ->> 'token' FROM dbos.event_dispatch_kv WHERE key = 'orders-0')""",
        "I6: .* of nobody",
    ),
    "no dead letter": ("DELETE FROM dbos.dead_letter", "I1: dead letters"),
    "a lost row": ("DELETE FROM dbos.workflow_status WHERE status = 'ERROR'", "I1"),
}  # fmt: skip


@pytest.mark.parametrize("is_fused", [False, True], ids=["journaled", "fused"])
async def test_damage_is_seen(database: str, *, is_fused: bool) -> None:
    """I1, I5, I6: a check that finds nothing proves something only if it would."""
    system = System(database, is_fused=is_fused)
    try:
        await system.start()
        for partition, key, kind in [(0, "a", "ok"), (0, "b", "flaky"), (1, "c", "poison"), (1, "a", "ok")]:
            system.produce(partition, key, kind)
        await system.settle()
        await system.take_snapshot()
        for damage, seen in DAMAGES.values():
            await system.restore()
            await system.check()
            async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
                await connection.execute(damage)
            with pytest.raises(AssertionError, match=seen):
                await system.check()
    finally:
        await system.stop()


async def test_a_row_under_a_superseded_claim_is_seen(database: str) -> None:
    """I6: a zombie's write."""
    system = System(database)
    try:
        await system.start()
        system.produce(0, "a", "ok")
        await system.settle()
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            cursor = await connection.execute("SELECT value::json FROM dbos.event_dispatch_kv WHERE key = 'orders-0'")
            ((former,),) = await cursor.fetchall()
            system.move(0)
            await system.settle()
            await system.check()
            await connection.execute(
                "UPDATE dbos.workflow_status SET owner_xid = %s, executor_id = %s", [former["token"], former["owner"]]
            )
        with pytest.raises(AssertionError, match="I6: .* superseded"):
            await system.check()
    finally:
        await system.stop()
