"""The proxy that loses COMMITs: what the server did is what it says, and nothing of it outlives its loop."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from tests.fixtures.proxy import Connection, LosingProxy, losing_proxy


@pytest.mark.parametrize("side", ["reply", "request"])
@pytest.mark.parametrize("pipelined", [True, False])
async def test_a_lost_reply_stands_and_a_lost_request_does_not(database: str, side: str, *, pipelined: bool) -> None:
    async with losing_proxy(database) as (proxy, dsn):
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("CREATE TABLE t (n int)")
            proxy.lose_commits += side == "reply"
            proxy.lose_requests += side == "request"
            with pytest.raises(psycopg.OperationalError):
                await insert(connection, pipelined=pipelined)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            count = await (await connection.execute("SELECT count(*) FROM t")).fetchone()

    assert proxy.lost == 1
    assert count == ((1,) if side == "reply" else (0,))


async def test_a_commit_is_lost_only_in_a_transaction_that_is_marked(database: str) -> None:
    async with losing_proxy(database) as (proxy, dsn), await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.set_autocommit(True)
        await connection.execute("CREATE TABLE t (n int)")
        proxy.marker = b"INSERT INTO t"
        proxy.lose_commits = 1

        async with connection.transaction():
            await connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            await insert(connection, pipelined=False)


@pytest.mark.parametrize("in_order", [True, False])
def test_a_loop_that_ends_with_connections_open_hears_no_complaint(database: str, *, in_order: bool) -> None:
    complaints: list[dict[str, Any]] = []
    clients: list[psycopg.AsyncConnection[Any]] = []
    proxies = AsyncExitStack()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        _, dsn = await proxies.enter_async_context(losing_proxy(database))
        clients.append(await psycopg.AsyncConnection.connect(dsn))
        if in_order:
            await proxies.aclose()

    asyncio.run(main())
    clients[0].pgconn.finish()

    assert complaints == []


async def insert(connection: psycopg.AsyncConnection[Any], *, pipelined: bool) -> None:
    if not pipelined:
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
        return
    async with connection.pipeline(), connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")


async def test_an_end_that_is_gone_is_not_written_to_message_by_message(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio warns of each write to a connection that is lost, and many messages may come in one read."""
    ends: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: ends.put_nowait(writer), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        other = await ends.get()
        other.transport.abort()
        assert await reader.read() == b"", "the end is gone, and seen to be"
        sent = asyncio.StreamReader()
        sent.feed_data(1_000 * (b"D" + (4).to_bytes(4)))
        sent.feed_eof()

        connection = Connection(LosingProxy("127.0.0.1", 1), reader, writer)
        await connection.pass_on(sent, writer, of_client=False)
        writer.close()
        other.close()

    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
