"""The outbox's tables and functions: order of commits within a key, batches that miss nothing, the relay's fence (I9)."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from engine.ids import ExecutorId, WorkflowId
from engine.outgoing import Outgoing
from engine.store import operation_outputs, outbox
from engine.store.operation_outputs import Checkpoint
from engine.store.outbox import FormedRow, StandingRow
from engine.store.statement import Statement, rendered, send

Connection = AsyncConnection[TupleRow]
SCHEMA = "dbos"
ME = ExecutorId("me")


@pytest.fixture
async def conn(database: str) -> AsyncGenerator[Connection]:
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
async def other(database: str) -> AsyncGenerator[Connection]:
    async with await AsyncConnection.connect(database, autocommit=True) as conn:
        yield conn


async def run(conn: Connection, *statements: Statement[Any]) -> list[Any]:
    """Send statements; the rows of the last."""
    cursor = None
    for statement in statements:
        cursor = await send(conn, SCHEMA, statement)
    assert cursor is not None
    return await cursor.fetchall() if cursor.description else []


async def publish(conn: Connection, *names: str, key: str | None = "k", topic: str = "t") -> None:
    events = [Outgoing(topic, key.encode() if key else None, name.encode()) for name in names]
    await run(conn, *outbox.publishing(events))


async def claim(conn: Connection, *, epoch: int = -1, beat: int = -1) -> StandingRow:
    rows = await run(conn, outbox.claim(executor_id=ME, stuck_epoch=epoch, stuck_beat=beat))
    assert rows, "refused"
    return rows[0]


class Relay:
    """A relay that only forms batches, and keeps what was in each."""

    def __init__(self, conn: Connection, standing: StandingRow) -> None:
        self.conn = conn
        self.standing = standing
        self.batches: list[list[str]] = []
        self.formed: FormedRow | None = None

    async def form(
        self, *, rows_max: int = 100, bytes_max: int = 10**6, above: int = 0, refused: Sequence[str] = ()
    ) -> list[str]:
        """The last batch is published: form the next."""
        stands = self.standing
        token = f"token {stands.number + 2}"
        async with self.conn.transaction():
            await run(self.conn, outbox.fence(epoch=stands.epoch, token=stands.token, next_token=stands.next_token))
            if stands.next_token is not None:
                await run(self.conn, outbox.delete_batch())
            [self.formed] = await run(
                self.conn,
                outbox.form(
                    is_published=stands.next_token is not None,
                    token=token,
                    above=above,
                    floor=0,
                    refused=refused,
                    rows_max=rows_max,
                    bytes_max=bytes_max,
                ),
            )
            rows = await run(self.conn, outbox.batch())
        [self.standing] = await run(self.conn, outbox.standing())
        names = [row.value.decode() for row in rows]
        self.batches.append(names)
        return names


async def test_every_committed_event_is_in_one_batch_in_order(conn: Connection) -> None:
    await publish(conn, "a", "b", "c", "d", "e")
    relay = Relay(conn, await claim(conn))

    taken = [await relay.form(rows_max=2) for _ in range(4)]

    assert taken == [["a", "b"], ["c", "d"], ["e"], []]
    assert relay.standing.number == 3
    assert relay.standing.next_token is None
    assert await run(conn, outbox.rows(topic=None, after=0, limit=10)) == []


async def test_a_slow_transactions_event_is_not_skipped_though_its_number_is_lower(
    conn: Connection, other: Connection
) -> None:
    """I9: numbers of the sequence are not in commit order: the lower one becomes visible behind the higher one."""
    relay = Relay(conn, await claim(conn))
    async with other.transaction():
        await publish(other, "slow", key="a")
        await publish(conn, "fast", key="b")
        before = await relay.form()
    after = await relay.form()

    assert (before, after) == (["fast"], ["slow"])
    assert await relay.form() == []


async def test_transactions_of_one_key_draw_their_numbers_in_the_order_in_which_they_commit(
    conn: Connection, other: Connection
) -> None:
    """I9: the second waits at its last statement until the first has committed; another key's does not."""
    async with other.transaction():
        await publish(other, "first")
        waiting = asyncio.create_task(publish(conn, "second"))
        async with asyncio.timeout(30):
            while not await locks_waited_for(other):
                await asyncio.sleep(0.01)
        assert not waiting.done()
    await waiting

    rows = await run(conn, outbox.rows(topic=None, after=0, limit=10))
    assert [row.value for row in rows] == [b"first", b"second"]


async def test_an_event_of_a_checkpoint_is_written_only_with_it(conn: Connection) -> None:
    """P7, P31: one that stands already is another run's, also in a transaction that writes others; order is kept."""
    await conn.execute(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, created_at, updated_at) "
        "VALUES ('w', 'PENDING', 'n', 0, 0)"
    )
    places = [("w", 2), ("w", 1), ("w", 3), ("w", 4)]
    events = [Outgoing("t", b"k", name.encode()) for name in ("second", "first", "never", "last")]

    await run(conn, operation_outputs.insert([Checkpoint(WorkflowId("w"), 3, "publish", "null", None, 0, 0)]))
    async with conn.transaction():
        for function_id in (1, 2, 4):
            await run(
                conn,
                operation_outputs.insert([Checkpoint(WorkflowId("w"), function_id, "publish", "null", None, 0, 0)]),
            )
        for statement in outbox.append_recorded(places, events):
            await run(conn, statement)

    rows = await run(conn, outbox.rows(topic=None, after=0, limit=10))
    assert [row.value for row in rows] == [b"second", b"first", b"last"]


async def test_events_of_many_workflows_go_in_statements_that_postgres_takes(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: in order across them; one that is larger than a statement is one of its own."""
    monkeypatch.setattr(outbox, "STATEMENT_BYTES_MAX", 10)
    sizes = [4, 4, 4, 12, 1, 9, 1]
    events = [Outgoing("t", None, bytes([65 + n]) * size) for n, size in enumerate(sizes)]

    statements = outbox.publishing(events)
    assert len(statements) == 1 + 5
    await run(conn, *statements)

    rows = await run(conn, outbox.rows(topic=None, after=0, limit=10))
    assert [row.value for row in rows] == [event.value for event in events]
    assert len(outbox.append_recorded([("w", n) for n in range(7)], events)) == 5


async def test_transactions_of_other_keys_and_of_none_do_not_wait(conn: Connection, other: Connection) -> None:
    async with other.transaction():
        await publish(other, "a", key="a")

        async with asyncio.timeout(30):
            await publish(conn, "b", key="b")
            await publish(conn, "none", key=None)


async def test_lanes_are_locked_in_one_order_so_that_no_two_transactions_wait_in_a_circle(
    conn: Connection, other: Connection
) -> None:
    keys = [f"k{n}".encode() for n in range(40)]

    async def many(connection: Connection, mine: list[bytes]) -> None:
        for _ in range(30):
            async with connection.transaction():
                await run(connection, *outbox.publishing([Outgoing("t", key, b"") for key in mine]))

    async with asyncio.timeout(60):
        await asyncio.gather(many(conn, keys), many(other, keys[::-1]))

    [(count,)] = await (await conn.execute("SELECT count(*) FROM dbos.outbox")).fetchall()
    assert count == 2 * 30 * 40


async def test_a_batch_is_bounded_in_rows_and_bytes_and_has_one_row_at_least(conn: Connection) -> None:
    """I10."""
    await publish(conn, "x" * 50, "y" * 20, "z" * 20, "w" * 20, key=None)
    relay = Relay(conn, await claim(conn))

    sizes: list[list[int]] = []
    for _ in range(3):
        sizes.append([len(name) for name in await relay.form(bytes_max=40)])
        assert relay.formed is not None
        assert relay.formed.is_cut is (len(sizes) < 3)

    assert sizes == [[50], [20, 20], [20]]


async def test_what_is_rolled_back_is_in_no_batch(conn: Connection, other: Connection) -> None:
    relay = Relay(conn, await claim(conn))
    with pytest.raises(ZeroDivisionError):
        async with other.transaction():
            await publish(other, "never")
            raise ZeroDivisionError
    await publish(conn, "a")

    assert await relay.form() == ["a"]


async def test_a_batch_formed_anew_leaves_refused_topics_where_they_are(conn: Connection) -> None:
    await publish(conn, "a", topic="good")
    await publish(conn, "b", topic="bad")
    await publish(conn, "c", topic="good")
    relay = Relay(conn, await claim(conn))
    assert await relay.form() == ["a", "b", "c"]

    async with conn.transaction():
        await run(
            conn,
            outbox.form(
                is_published=False, token="anew", above=0, floor=0, refused=["bad"], rows_max=10, bytes_max=1000
            ),
        )
        rows = await run(conn, outbox.batch())

    assert [row.value for row in rows] == [b"a", b"c"]
    [relay.standing] = await run(conn, outbox.standing())
    assert (relay.standing.number, relay.standing.next_token) == (0, "anew")
    assert await relay.form() == ["b"]


async def test_a_relay_whose_claim_or_table_changed_writes_nothing(conn: Connection, other: Connection) -> None:
    """Another's claim, or a table that went back: KP004, and the COMMIT behind it is a rollback."""
    await publish(conn, "a")
    mine = await claim(conn)
    [theirs] = await run(other, outbox.claim(executor_id=ExecutorId("me"), stuck_epoch=-1, stuck_beat=-1))
    assert theirs.epoch == mine.epoch + 1

    for fence in (
        outbox.fence(epoch=mine.epoch, token=None, next_token=None),
        outbox.fence(epoch=theirs.epoch, token="unknown", next_token=None),
        outbox.fence(epoch=theirs.epoch, token=None, next_token="unknown"),
    ):
        with pytest.raises(psycopg.Error) as raised:
            async with conn.pipeline(), conn.transaction():
                await send(conn, SCHEMA, fence)
                await send(conn, SCHEMA, outbox.delete_batch())
        assert raised.value.sqlstate == "KP004"

    await run(conn, outbox.fence(epoch=theirs.epoch, token=None, next_token=None))


async def test_the_relay_is_taken_from_nobody_the_dead_and_one_whose_beat_stands_still(conn: Connection) -> None:
    """P2: a live owner keeps it; one without a row in `executor` is dead."""
    await conn.execute(
        "INSERT INTO dbos.executor (executor_id, name, hostname, pid, started_at, renewed_at, lease_until)"
        " VALUES ('alive', '', '', 1, 0, 0, dbos.now_ms() + 100000)"
    )
    [alive] = await run(conn, outbox.claim(executor_id=ExecutorId("alive"), stuck_epoch=-1, stuck_beat=-1))

    refused = await run(conn, outbox.claim(executor_id=ME, stuck_epoch=-1, stuck_beat=-1))
    assert refused == []
    beaten = await run(conn, outbox.claim(executor_id=ME, stuck_epoch=alive.epoch, stuck_beat=alive.beat - 1))
    assert beaten == []

    taken = await claim(conn, epoch=alive.epoch, beat=alive.beat)
    assert taken.epoch == alive.epoch + 1
    assert (await claim(conn)).epoch == alive.epoch + 2  # from an executor without a row
    assert await run(conn, outbox.release(epoch=alive.epoch)) == []
    assert (await run(conn, outbox.standing()))[0].executor_id == ME


async def test_a_table_that_somebody_emptied_gets_another_name(conn: Connection) -> None:
    """What was in Kafka under the old name says nothing of this outbox."""
    first = await claim(conn)
    await conn.execute("TRUNCATE dbos.outbox_relay")
    assert await run(conn, outbox.standing()) == []

    second = await claim(conn)

    assert (second.epoch, second.number) == (1, 0)
    assert second.outbox_name != first.outbox_name


async def test_a_discarded_event_leaves_its_batch_and_ends_the_claim(conn: Connection) -> None:
    await publish(conn, "a", "b", "c")
    relay = Relay(conn, await claim(conn))
    await relay.form()
    [a, b, _] = await run(conn, outbox.rows(topic=None, after=0, limit=10))

    dropped = await run(conn, outbox.discard(ids=[b.outbox_id, 999]))

    assert dropped == [(b.outbox_id, "t")]
    assert [row.value for row in await run(conn, outbox.batch())] == [b"a", b"c"]
    with pytest.raises(psycopg.Error, match="relay fence"):
        await relay.form()
    [stands] = await run(conn, outbox.standing())
    assert (stands.executor_id, stands.next_token) == (None, relay.standing.next_token)
    assert a.outbox_id < b.outbox_id


async def test_old_snapshots_do_not_make_forming_slow(conn: Connection, other: Connection) -> None:
    """The floor: deleted rows that a reader still sees are passed over, not read again for each batch."""
    relay = Relay(conn, await claim(conn))
    async with other.transaction():
        await other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await other.execute("SELECT 1")
        await publish(conn, *(str(n).zfill(400) for n in range(2_000)), key=None)
        await relay.form(rows_max=2_000)
        assert relay.formed is not None
        last = relay.formed.last_id
        assert last is not None
        await publish(conn, "next", key=None)
        assert await relay.form(above=last) == ["next"]

        await publish(conn, "last", key=None)

        assert 5 * await blocks_read(conn, outbox.has_rows(above=last, refused=["none"])) < await blocks_read(
            conn, outbox.has_rows(above=0, refused=["t"])
        )


async def test_a_transaction_that_was_open_when_a_batch_was_formed_is_older_than_the_next_forming(
    conn: Connection, other: Connection
) -> None:
    """Why the floor may rise: a lower number than a visible one belongs to a transaction older than any later forming."""
    relay = Relay(conn, await claim(conn))
    async with other.transaction():
        await publish(other, "slow", key="a")
        await publish(conn, "fast", key="b")
        await relay.form()
        await relay.form()
        assert relay.formed is not None
        newer_than_slow = relay.formed.xid
        assert relay.formed.xmin < newer_than_slow
    await relay.form()
    assert relay.batches[-1] == ["slow"]
    await relay.form()
    assert relay.formed.xmin >= newer_than_slow


async def locks_waited_for(conn: Connection) -> int:
    cursor = await conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def blocks_read(conn: Connection, statement: Statement[Any]) -> int:
    """Pages that a statement looks at."""
    query = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + rendered(statement, SCHEMA)
    row = await (await conn.execute(query, statement.parameters)).fetchone()
    assert row is not None
    return row[0][0]["Plan"]["Shared Hit Blocks"]
