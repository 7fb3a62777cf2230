"""Behind the real PgBouncer, which hands server connections out by transaction: what works, and what takes a direct connection.

Before 1.21 it loses prepared statements, from then on it keeps them: what differs is tested with each that this machine has.
"""

import asyncio
import os
from collections.abc import Generator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from pydantic import BaseModel

from consumers.mock import MockCluster
from engine.errors import ConfigurationError, EngineError
from engine.migrations import migrate
from engine.poolers import Pooling, pooling
from engine.settings import EngineSettings
from processor import App, Client, Queue, Topic, Transaction, recv
from processor.cli import FAILED
from processor.testing import Bench
from tests.conftest import Databases
from tests.fixtures.certificates import write_certificate
from tests.fixtures.pgbouncer import NEEDED, Bouncer, pgbouncer, programs
from tests.integration.conftest import Command
from tests.integration.test_doctor import levels

PROGRAMS = programs()

pytestmark = pytest.mark.skipif(not PROGRAMS and "PROCESSOR_TEST_PGBOUNCER_REQUIRED" not in os.environ, reason=NEEDED)

CONNECTIONS = 4
"""Of PgBouncer to the server: fewer than a process has to PgBouncer, so that they go from hand to hand."""


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)
clicks = Topic("clicks", Order)
app = App("shop")
slow = app.register_queue(Queue("slow", concurrency=3))


@app.step()
async def charge(order_id: str) -> str:
    return f"receipt-{order_id}"


@app.transaction()
async def book(tx: Transaction, order_id: str, receipt: str) -> None:
    await tx.execute("INSERT INTO sale VALUES (%s, %s)", (order_id, receipt))


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    await book(order.order_id, receipt=await charge(order.order_id))


@app.transaction(on=clicks)
async def count(tx: Transaction, order: Order) -> None:
    await tx.execute("INSERT INTO sale VALUES (%s, 'click')", (order.order_id,))


@app.workflow()
async def ask(order_id: str) -> str:
    receipt = await charge(order_id)
    return f"{receipt} {await recv(timeout=timedelta(minutes=5))}"


@pytest.fixture(scope="module", params=PROGRAMS or [None], ids=str)
def bouncer(request: pytest.FixtureRequest, postgres_server: Databases) -> Generator[Bouncer]:
    assert request.param is not None, NEEDED
    with pgbouncer(request.param, postgres_server.server, connections=CONNECTIONS) as running:
        yield running


async def work_of_every_kind(bench: Bench, client: Client) -> None:
    """Records, fused ones, a queue, a message from another program: each effect once, every workflow at its end."""
    await bench.execute("CREATE TABLE sale (order_id text, receipt text)")
    for number in range(60):
        await bench.deliver(orders, Order(order_id=f"o-{number}"))
        await bench.deliver(clicks, Order(order_id=f"c-{number}"))
    handles = [await slow.enqueue(ask, f"q-{number}") for number in range(6)]
    for handle in handles:
        await client.send(handle.id, "paid")
    answers = [await handle.result() for handle in handles]
    await bench.settle()

    assert answers == [f"receipt-q-{number} paid" for number in range(6)]
    found = await bench.fetch_all("SELECT count(*), count(DISTINCT order_id) FROM sale")
    assert found == [(120, 120)]
    states = await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1")
    assert states == [("SUCCESS", 126)]
    holding = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert await bench.fetch_all(holding) == [(0,)]


async def test_with_a_direct_connection_beside_it_everything_works(bouncer: Bouncer, database: str) -> None:
    """I2, I5, I6: fences, groups, fused handlers, pool transactions, queues and messages need no session of their own.
    With prepared statements, where it keeps them."""
    prepare = bouncer.program.keeps_prepared
    settings = EngineSettings(conninfo=bouncer.dsn(database), direct_conninfo=database, prepare=prepare)
    async with (
        Bench(app, bouncer.dsn(database), settings=settings) as bench,
        Client(bouncer.dsn(database), direct_dsn=database, prepared_statements=prepare) as client,
    ):
        await work_of_every_kind(bench, client)

        with psycopg.connect(database) as connection:
            behind = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND client_port > 0 "
                "AND pid <> pg_backend_pid() AND application_name LIKE 'onceflow%'"
            ).fetchone()
        assert behind is not None
        assert behind[0] <= CONNECTIONS + 3, "direct ones: the lease's, the client's, and one for the tables"


async def test_without_one_hints_are_lost_and_every_wait_ends_by_looking(
    bouncer: Bouncer, database: str, orders_topic: MockCluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LISTEN stays with a server connection that is somebody else's: slower, and nothing is lost. `doctor` says so."""
    settings = EngineSettings(conninfo=bouncer.dsn(database), prepare=False)
    async with (
        Bench(app, bouncer.dsn(database), settings=settings) as bench,
        Client(bouncer.dsn(database), prepared_statements=False) as client,
    ):
        await work_of_every_kind(bench, client)
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", orders_topic.bootstrap_servers)
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", bouncer.dsn(database))
    monkeypatch.setenv("PROCESSOR_POSTGRES_PREPARED_STATEMENTS", "false")

    code, out, _ = await command("doctor", "--json")

    assert (code, levels(out)["pooler"]) == (FAILED, "problem")


@pytest.fixture
def orders_topic(mock_cluster: MockCluster) -> MockCluster:
    for topic in ("orders", "clicks"):
        mock_cluster.create_topic(topic, 1)
    return mock_cluster


async def test_prepared_statements_are_lost_before_1_21_and_doctor_finds_out(
    bouncer: Bouncer, database: str, orders_topic: MockCluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails under load first; so it is tried with two clients, and not believed of a version."""
    assert await pooling(bouncer.dsn(database)) == Pooling(
        by_transaction=True, keeps_prepared=bouncer.program.keeps_prepared
    )
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", orders_topic.bootstrap_servers)
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", bouncer.dsn(database))
    monkeypatch.setenv("PROCESSOR_POSTGRES_DIRECT_DSN", database)

    _, out, err = await command("doctor", "--json")
    monkeypatch.setenv("PROCESSOR_POSTGRES_PREPARED_STATEMENTS", "false")
    _, without, _ = await command("doctor", "--json")

    assert err == ""
    assert levels(out).get("prepared statements") == (None if bouncer.program.keeps_prepared else "problem")
    assert "prepared statements" not in levels(without)
    assert "PgBouncer or the like, with a direct connection beside it" in without


async def test_migrations_through_it_are_refused_and_through_a_session_are_not(
    bouncer: Bouncer, postgres_server: Databases, empty_database: str
) -> None:
    """The migrators' lock is a session's: it would stay with a connection that somebody else has by then."""
    with pytest.raises(ConfigurationError, match=r"postgres\.direct_dsn \(PROCESSOR_POSTGRES_DIRECT_DSN\)"):
        await migrate(bouncer.dsn(empty_database))
    with pgbouncer(bouncer.program, postgres_server.server, "session") as by_session:
        assert await pooling(by_session.dsn(empty_database)) is None
        await asyncio.gather(*(migrate(by_session.dsn(empty_database)) for _ in range(2)))


async def test_everything_by_tls_that_verifies_and_nothing_by_one_that_does_not(
    postgres_server: Databases, empty_database: str, tmp_path: Path
) -> None:
    """`sslmode=verify-full` is libpq's: every connection of ours has it, those of the lease and of migrations too. PgBouncer, by
    session, is the server that speaks TLS: the one that tests start is built without."""
    write_certificate(tmp_path)
    with pgbouncer(PROGRAMS[-1], postgres_server.server, "session", tls=tmp_path) as server:
        dsn = server.dsn(empty_database, sslmode="verify-full", sslrootcert=str(tmp_path / "ca.pem"))
        await migrate(dsn)
        async with Bench(app, dsn) as bench, Client(dsn) as client:
            await work_of_every_kind(bench, client)
        settings = EngineSettings(conninfo=dsn)
        for wrong, said in (
            (server.dsn(empty_database, sslmode="disable"), "SSL"),
            (server.dsn(empty_database, sslmode="verify-full", sslrootcert="system"), "certificate verify failed"),
            (dsn.replace("@localhost:", "@127.0.0.2:"), "."),
        ):
            with pytest.raises(EngineError, match=said):
                async with Bench(app, wrong, settings=replace(settings, conninfo=wrong)):
                    raise AssertionError("it was let in")
