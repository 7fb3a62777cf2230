"""Where Postgres is: by TLS that verifies, and of several hosts the one that takes writes. On servers of the tests' own."""

import asyncio
import re
import socket
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import BaseModel

from engine.errors import ConfigurationError
from engine.migrations import migrate
from processor import App, Client, Topic, Transaction
from processor.cli import DONE, FAILED, MISTAKE
from processor.testing import Bench
from tests.fixtures.certificates import write_certificate
from tests.fixtures.postgres import PostgresServer, installations, speaks_tls
from tests.fixtures.processes import free_ports
from tests.fixtures.standby import Standby, address_of_all, standby
from tests.integration.commands import command as process
from tests.integration.conftest import Command

WITH_TLS = next((found for found in installations() if speaks_tls(found)), None)


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)
app = App("shop")


@app.transaction()
async def book(tx: Transaction, order_id: str) -> None:
    await tx.execute("INSERT INTO sale VALUES (%s)", (order_id,))


@app.workflow(on=orders)
async def fulfil(order: Order) -> None:
    await book(order.order_id)


@app.workflow()
async def ask(order_id: str) -> str:
    return f"of {order_id}"


async def everything_works(dsn: str) -> None:
    """Records with transactions, and a program beside them: each effect once."""
    async with Bench(app, dsn) as bench, Client(dsn) as client:
        await bench.execute("CREATE TABLE sale (order_id text)")
        for number in range(20):
            await bench.deliver(orders, Order(order_id=f"o-{number}"))
        handle = await client.start("ask", "o-1", id="asked")
        await bench.settle()

        assert await handle.result() == "of o-1"
        assert await bench.fetch_all("SELECT count(*), count(DISTINCT order_id) FROM sale") == [(20, 20)]
        with psycopg.connect(dsn) as connection:
            # Also the lease's, the listener's, and those of the pools.
            ours = connection.execute(
                "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
                "WHERE application_name LIKE 'onceflow%'"
            ).fetchone()
        assert ours is not None
        assert ours[0] >= 5
        assert ours[1] in (0, ours[0]), "all, or none"
        assert (ours[1] > 0) == ("verify-full" in dsn)


# -- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's, which is its own CA, and beside it another CA's that knows nothing of it."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "other").mkdir()
    write_certificate(folder)
    write_certificate(folder / "other")
    return folder


@pytest.fixture(scope="module")
def secured(certificates: Path) -> Generator[PostgresServer]:
    if WITH_TLS is None:
        pytest.skip("needs a Postgres that speaks TLS: Debian's package `postgresql`")
    with PostgresServer(WITH_TLS, tls=certificates) as server:
        yield server


@pytest.mark.private_postgres
async def test_every_connection_is_by_tls_that_verifies_the_server(secured: PostgresServer, certificates: Path) -> None:
    dsn = secured.dsn(sslmode="verify-full", sslrootcert=str(certificates / "ca.pem"))

    await migrate(dsn)

    await everything_works(dsn)


@pytest.mark.private_postgres
@pytest.mark.parametrize(
    "parameters, said",
    [
        ({"sslrootcert": "other/ca.pem"}, "certificate verify failed"),
        ({"sslrootcert": "none.pem"}, r'root certificate file ".*/none.pem" does not exist'),
        (
            {"sslrootcert": "ca.pem", "host": "db.example", "hostaddr": "127.0.0.1"},
            r'server certificate for "localhost".* does not match host name "db.example"',
        ),
    ],
)
async def test_a_server_that_does_not_verify_is_one_clear_message_of_every_command(
    secured: PostgresServer,
    certificates: Path,
    *,
    project: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    parameters: dict[str, str],
    said: str,
) -> None:
    """Exit status 2, what libpq found, which settings to look at; no traceback, and no server that is down."""
    parameters = parameters | {"sslrootcert": str(certificates / parameters["sslrootcert"])}
    dsn = make_conninfo(secured.dsn(), sslmode="verify-full", **parameters)
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", dsn)
    answers = [await command(*words) for words in (("migrate",), ("outbox", "status"))]
    if "other" in parameters["sslrootcert"]:
        env = {"PROCESSOR_POSTGRES_DSN": dsn, "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        ran = await asyncio.to_thread(process, project, "run", "shop:app", env=env | {"PROCESSOR_HTTP_PORT": "0"})
        answers.append((ran.returncode, ran.stdout, ran.stderr))

    for code, out, err in answers:
        assert (code, out) == (MISTAKE, "")
        assert re.search(said, err), err
        assert "Check sslmode and sslrootcert in postgres.dsn, or PROCESSOR_POSTGRES_DSN" in err
        assert (err.count("processor:"), "Traceback" in err) == (1, False)


# -- several hosts


@pytest.fixture
def followed(private_postgres: PostgresServer) -> Generator[Standby]:
    """A standby, which answers and takes no writes."""
    with ExitStack() as stack:
        yield stack.enter_context(standby(private_postgres, free_ports(1)[0]))


@pytest.mark.private_postgres
async def test_of_several_hosts_the_one_that_takes_writes_is_found(
    private_postgres: PostgresServer, followed: Standby, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`target_session_attrs=read-write`: the first is dead, the second is a standby, and the third is meant; of each connection."""
    [dead] = free_ports(1)
    dsn = address_of_all((dead, followed.port, private_postgres.port))

    await migrate(dsn)

    await everything_works(dsn)
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", dsn)
    assert (await command("outbox", "rename", "--note", "by the third"))[0] == DONE

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        blackholed = address_of_all((silent.getsockname()[1], private_postgres.port))
        monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", blackholed)
        monkeypatch.setenv("PROCESSOR_POSTGRES_CONNECT_TIMEOUT", "1s")
        assert (await command("outbox", "status"))[0] == DONE

    without = address_of_all((dead, followed.port))
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", without)
    code, _, err = await command("outbox", "status")
    assert code == MISTAKE
    assert err.startswith(f"processor: Postgres cannot be reached at 127.0.0.1:{dead}, 127.0.0.1:{followed.port}, ")
    assert "Of the servers that answer none takes writes (target_session_attrs)" in err

    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", followed.dsn())
    code, _, err = await command("outbox", "rename", "--note", "of a standby")
    assert code == FAILED
    assert "cannot execute UPDATE in a read-only transaction\n  That server takes no writes: a standby" in err
    assert (await command("outbox", "status"))[0] == DONE, "a look is no write"


async def test_a_database_that_refuses_tls_is_not_met_without(database: str) -> None:
    """Those of wheels have none: who asks for it does not get less."""
    if "sslmode" in database:
        pytest.skip("this server's address has its own")
    with psycopg.connect(database) as connection:
        speaks = connection.execute("SHOW ssl").fetchone()
    if speaks == ("on",):
        pytest.skip("this server speaks TLS")
    with pytest.raises(ConfigurationError, match="that the server speaks TLS"):
        await migrate(make_conninfo(database, sslmode="require"))
