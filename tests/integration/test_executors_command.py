"""`processor executors` and `processor lag`: who is at work, how far it is, and the end of one that is gone."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from consumers.mock import MockCluster
from processor.cli import DONE, FAILED, MISTAKE
from processor.testing import Bench
from tests.conformance.members import produce
from tests.fixtures.kafka import Kafka
from tests.integration.conftest import Command
from tests.integration.members import Members, fetch, settled
from tests.integration.protocol import FAST
from tests.integration.verifying import Order, app, orders


def shown(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def test_processes_are_listed_with_what_they_have(database: str, command: Command) -> None:
    """Live ones first; of the dead only those that still have something, unless all are asked for."""
    await fetch(database, "CREATE TABLE sale (workflow_id text, amount integer)")
    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(amount=1))
        await bench.settle()
        code, out, _ = await command("executors", "list", "--json")
        (row,) = shown(out)
        assert code == DONE
        assert (row["state"], row["partitions"], row["in_flight"], row["died_at"]) == ("live", 1, 0, None)
        assert 0 < row["lease_s"] <= 30
        code, _, err = await command("executors", "end", row["id"], "--note", "gone")
        assert (code, "lives: its lease runs for" in err) == (MISTAKE, True)

    assert (await command("executors", "list"))[1] == "no process has anything\n"
    code, out, _ = await command("executors", "list", "--all")
    assert out.splitlines()[0].split()[:5] == ["ID", "STATE", "NAME", "HOST", "PID"]
    assert out.splitlines()[1].split()[:2] == [row["id"], "dead"]
    for id, message in ((row["id"], "is dead already"), ("nobody", "there is no executor 'nobody'")):
        code, _, err = await command("executors", "end", id, "--note", "gone")
        assert (code, message in err) == (MISTAKE, True)


async def test_one_that_fell_silent_is_ended_and_its_partition_goes_on(database: str, command: Command) -> None:
    """P2: what any process would do that had watched it for a lease; recorded with who and why."""
    await fetch(database, "CREATE TABLE sale (workflow_id text, amount integer)")
    async with Bench(app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(amount=1))
        await bench.settle()
        await bench.release(bench.ref(orders))
        await fetch(
            database,
            """INSERT INTO dbos.executor (executor_id, name, hostname, pid, started_at, renewed_at, lease_until)
               VALUES ('silent', 'a', 'h', 1, 1, 1, 1)""",
        )
        await fetch(
            database,
            """UPDATE dbos.event_dispatch_kv
                  SET value = (value::jsonb || '{"owner": "silent", "released": false}')::text, update_seq = update_seq + 1""",
        )
        _, out, _ = await command("executors", "list", "--json")
        assert [(row["state"], row["partitions"]) for row in shown(out)] == [("silent", 1), ("live", 0)]

        code, out, _ = await command("executors", "end", "silent", "--note", "its node burnt", "--actor", "ada")

        assert (code, out) == (DONE, "executor silent is dead: what it had is taken over\n")
        await bench.claim(bench.ref(orders))
        await bench.deliver(orders, Order(amount=2))
        await bench.settle()
        _, out, _ = await command("executors", "list", "--json")
        assert [(row["state"], row["partitions"]) for row in shown(out)] == [("live", 1)]
    acts = await fetch(database, "SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit")
    assert acts == [("ada", "end executor", "silent", "its node burnt")]


@pytest.fixture
def progressed(database: str) -> Callable[..., Any]:
    async def write(topic: str, **progress: int) -> None:
        for partition, offset in progress.items():
            await fetch(
                database,
                f"""INSERT INTO dbos.event_dispatch_kv (service_name, workflow_fn_name, key, value, update_seq)
                    VALUES ('kafka:shop', 'fulfil', '{topic}-{partition[1:]}',
                            '{{"next": {offset}, "high": {offset}}}', 1)""",
            )

    return write


async def test_lag_is_told_in_offsets_and_seconds(
    mock_cluster: MockCluster, command: Command, progressed: Callable[..., Any]
) -> None:
    """The age of the first record that was not processed; a partition that is not there is not known."""
    mock_cluster.create_topic("orders", 2)
    kafka = mock_cluster.bootstrap_servers
    produce(kafka, "orders", ["a"], timestamp=int((time.time() - 10_000) * 1000))
    produce(kafka, "orders", ["b", "c"], timestamp=int((time.time() - 100) * 1000))
    await progressed("orders", p0=1, p1=0)

    code, out, err = await command("lag", "--json", kafka=kafka)

    first, second = shown(out)
    assert (code, err) == (DONE, "")
    assert (first["partition"], first["next"], first["end"], first["lag"]) == ("orders-0", 1, 3, 2)
    assert 100 <= first["lag_s"] < 1_000
    assert (second["lag"], second["lag_s"], second["open_transactions"]) == (0, 0.0, 0)
    code, out, _ = await command("lag", "--behind", "--offsets-max", "2", "--age-max", "1h", kafka=kafka)
    assert (code, len(out.splitlines())) == (DONE, 2)
    assert (await command("lag", "--offsets-max", "1", kafka=kafka))[0] == FAILED
    assert (await command("lag", "--age-max", "99s", kafka=kafka))[0] == FAILED
    code, out, _ = await command("lag", "--group", "nobody", kafka=kafka)
    assert (code, out) == (DONE, "no progress\n")
    code, _, err = await command("lag", "--group", "nobody", "--age-max", "1h", kafka=kafka)
    assert (code, "is not known" in err) == (FAILED, True), "a monitor with a misspelt group hears of it"
    code, _, err = await command("lag", "--age-max", "soon", kafka=kafka)
    assert (code, "--age-max 'soon'" in err) == (MISTAKE, True)
    await progressed("orders", p7=3)
    code, out, _ = await command("lag", "--json", "--offsets-max", "9", kafka=kafka)
    assert (code, shown(out)[2]["lag"]) == (FAILED, None)


@pytest.mark.kafka
async def test_a_transaction_left_open_is_no_lag_and_is_shown(
    kafka: Kafka, topic: str, database: str, members: Members, command: Command
) -> None:
    """Case 26: nobody can read beyond it."""
    kafka.create_topic(topic, 1)
    produce(kafka.bootstrap_servers, topic, ["a"])
    member = await members(kafka)
    await settled(database, 1, member)
    await member.stop()
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, "b", partition=0)
    assert producer.flush(30) == 0

    _, out, _ = await command("lag", "--json", kafka=kafka.bootstrap_servers)
    producer.abort_transaction(30)

    (row,) = shown(out)
    assert (row["lag"], row["lag_s"], row["open_transactions"]) == (0, 0.0, 1)
