"""`processor doctor` on real servers: what it finds, what it says to do, and its exit codes."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumers.mock import MockCluster
from engine import checkup
from engine.store import checkup as store
from processor.cli import DONE, FAILED, MISTAKE
from processor.testing import Bench
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka, unique
from tests.integration.conftest import Command
from tests.integration.members import fetch
from tests.integration.verifying import app

APP = "tests.integration.verifying:app"


@pytest.fixture(autouse=True)
def as_in_earnest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' shared server runs without fsync, on purpose (of that, tests/unit/test_checkup.py): it is not asked."""
    asked = tuple(name for name in store.SETTINGS if name not in ("fsync", "full_page_writes"))
    monkeypatch.setattr(store, "SETTINGS", asked)


def levels(out: str) -> dict[str, str]:
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(row["advice"] for row in rows if row["level"] != "ok")
    return {row["subject"]: row["level"] for row in rows if row["level"] != "ok"}


@pytest.fixture
def orders(mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch) -> MockCluster:
    """Brokers with the app's topic."""
    mock_cluster.create_topic("orders", 2)
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", mock_cluster.bootstrap_servers)
    return mock_cluster


async def test_where_all_is_well_there_is_nothing_to_do(database: str, orders: MockCluster, command: Command) -> None:
    """A line for each thing that was looked at; --quiet leaves those out that are fine."""
    async with Bench(app, database):
        code, out, err = await command("doctor", APP)

    assert (code, err) == (DONE, "")
    assert "topic orders: 2 partitions, 0 offsets" in out
    assert "pooler: none between" in out
    assert "leases: 1 live processes of 1 version" in out
    assert "privileges: this role may write every table" in out
    code, out, _ = await command("doctor", APP, "--json", "--quiet")
    assert (code, levels(out)) == (DONE, {"leases": "warning"})
    code, out, _ = await command("doctor", APP, "--strict", "--quiet")
    assert code == FAILED
    assert out.splitlines()[0] == "warning  leases: no process is alive  -> start one: processor run MODULE:app"


async def test_what_is_wrong_with_a_database_is_found(
    database: str, orders: MockCluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expired lease, work of the dead, a hold, a transaction left open, a topic without records it should have."""
    name = str(conninfo_to_dict(database)["dbname"])
    await fetch(
        database,
        """INSERT INTO dbos.executor (executor_id, name, hostname, pid, started_at, renewed_at, lease_until, died_at)
           VALUES ('silent', 'a', 'h', 1, 1, 1, 1, NULL), ('dead', 'b', 'h', 2, 1, 1, 1, 1)""",
    )
    progress = """'{"next": 7, "high": 7, "owner": "dead", "released": false}'"""
    await fetch(
        database,
        f"""INSERT INTO dbos.event_dispatch_kv (service_name, workflow_fn_name, key, value, update_seq)
            VALUES ('kafka:shop', 'fulfil', 'orders-0', {progress}, 1), ('kafka:shop', 'fulfil', 'orders-5', {progress}, 1)""",
    )
    await fetch(
        database,
        """INSERT INTO dbos.hold (service_name, key, kind, reason, created_at)
           VALUES ('kafka:shop', 'orders-0', 'pause', 'asked for', 0)""",
    )
    await fetch(database, f'ALTER DATABASE "{name}" SET synchronous_commit = off')

    monkeypatch.setattr(checkup, "IDLE_MAX_S", 0)
    with psycopg.connect(database, application_name="forgotten") as idle:
        idle.execute("SELECT 1")
        code, out, _ = await command("doctor", APP, "--json")

    assert code == FAILED
    assert "(forgotten) has a transaction open" in out
    assert levels(out) == {
        "idle transactions": "warning",
        "leases": "warning",
        "holds": "warning",
        "synchronous_commit": "problem",
        "topic orders-0": "problem",
        "topic orders-5": "problem",
    }
    assert "records up to 7 were processed" in out


async def test_servers_that_are_not_there_or_not_ready_are_each_said(
    empty_database: str, command: Command, mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was found before, everything is looked at: no migrations, and no topic."""
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", empty_database)
    code, out, _ = await command("doctor", APP, "--json", kafka=mock_cluster.bootstrap_servers)
    assert (code, levels(out)) == (FAILED, {"migrations": "problem", "topic orders": "problem"})
    assert "processor migrate" in out

    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", "postgresql://127.0.0.1:1/nowhere")
    code, out, _ = await command("doctor", "--json", kafka=mock_cluster.bootstrap_servers)
    assert (code, levels(out)) == (FAILED, {"postgres": "problem"})
    code, _, err = await command("doctor", "nothing:app")
    assert (code, "there is no module 'nothing'" in err) == (MISTAKE, True)


async def test_a_role_that_may_not_write_is_told_the_grant(
    database: str, orders: MockCluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = unique("reader").replace("-", "_")
    await fetch(database, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 5")
    await fetch(database, f"GRANT USAGE ON SCHEMA dbos TO {role}")
    await fetch(database, f"GRANT SELECT ON ALL TABLES IN SCHEMA dbos TO {role}")
    try:
        monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", make_conninfo(database, user=role))
        code, out, _ = await command("doctor", "--json")
        assert (code, levels(out)) == (FAILED, {"privileges": "problem", "connections": "problem"})
        assert "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES" in out
    finally:
        await fetch(database, f"DROP OWNED BY {role}")
        await fetch(database, f"DROP ROLE {role}")


@pytest.fixture
async def pooler(database: str) -> AsyncGenerator[str]:
    """What is between as PgBouncer is: clients are told another process number than the server's."""
    address = conninfo_to_dict(database)
    mark = b"K\x00\x00\x00\x0c"

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, marks: bool) -> None:
        while chunk := await reader.read(65536):
            if marks and (at := chunk.find(mark)) >= 0:
                chunk = chunk[: at + 5] + b"\x00\x00\xff\xff" + chunk[at + 9 :]
                marks = False
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection(str(address["host"]), int(str(address["port"])))
        await asyncio.gather(relay(reader, below, marks=False), relay(above, writer, marks=True))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield make_conninfo(database, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
    server.close()


async def test_a_pooler_is_found_and_wants_a_direct_connection(
    database: str, orders: MockCluster, pooler: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PgBouncer tells its clients a process number of its own."""
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", pooler)
    code, out, _ = await command("doctor", "--json")
    assert (code, levels(out)) == (FAILED, {"pooler": "problem", "leases": "warning"})
    monkeypatch.setenv("PROCESSOR_POSTGRES_DIRECT_DSN", pooler)
    code, out, _ = await command("doctor", "--json")
    assert (code, levels(out)) == (FAILED, {"direct connection": "problem", "leases": "warning"})
    monkeypatch.setenv("PROCESSOR_POSTGRES_DIRECT_DSN", database)
    code, out, _ = await command("doctor", "--json")
    assert (code, levels(out)) == (DONE, {"leases": "warning"})


@pytest.mark.kafka
async def test_a_record_from_the_future_tells_of_a_clock_that_is_ahead(
    database: str, kafka: Kafka, topic: str, command: Command
) -> None:
    """Nobody can ask a broker for its time."""
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, ["x"], timestamp=int((time.time() + 300) * 1000))
    await fetch(
        database,
        f"""INSERT INTO dbos.event_dispatch_kv (service_name, workflow_fn_name, key, value, update_seq)
            VALUES ('kafka:shop', 'fulfil', '{topic}-0', '{{"next": 1, "high": 1}}', 1)""",
    )

    code, out, _ = await command("doctor", "--json", kafka=kafka.bootstrap_servers)

    assert (code, levels(out)) == (DONE, {"leases": "warning", f"topic {topic} clock": "warning"})
