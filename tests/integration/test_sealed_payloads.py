"""With a key, nothing of users is readable in the tables, and everything goes on as without one (decision 0012)."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, sql

from engine.dead_letters import list_dead_letters, opened, retry
from engine.execution_events import ExecutionEventBus
from engine.execution_rows import Execution
from engine.executions import ExecutionStore
from engine.inspection import connected
from engine.payloads import PayloadKeys, Payloads, UnreadablePayloadError
from engine.pool import connect
from engine.resealing import keys_in_use, reseal
from engine.settings import EngineSettings
from engine.store.payloads import TABLES
from processor import (
    App,
    BlockKey,
    HaltPartition,
    Ordering,
    Record,
    Retry,
    SyncTransaction,
    TerminalError,
    Topic,
    Transaction,
    current_workflow,
    send,
    set_event,
    write_stream,
)
from processor.testing import Bench
from tests.integration.protocol import FAST, LAZY, Order, Shop, statuses, until, until_row

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
CANARY = "canary-in-the-coal-mine"
"""Is in every key, header, payload, result and error that a test has."""


def sealed(settings: EngineSettings = FAST, *, current: str | None = "new", **keys: bytes) -> EngineSettings:
    return replace(settings, payload_keys=PayloadKeys(keys or {"new": NEW, "old": OLD}, current))


def rekey(bench: Bench, *, current: str | None = "new", **keys: bytes) -> None:
    """What the next process of a bench has."""
    bench.settings = replace(bench.settings, payload_keys=PayloadKeys(keys or {"new": NEW, "old": OLD}, current))


async def readable(bench: Bench, word: str = CANARY) -> list[str]:
    """Columns of the system tables in which a word can be read, as text or in base64."""
    names = await bench.fetch_all(
        """SELECT c.table_name, c.column_name FROM information_schema.columns AS c
            WHERE c.table_schema = 'dbos' AND c.data_type IN ('text', 'jsonb', 'bytea', 'character varying')"""
    )
    encoded = [
        b64encode(b" " * shift + word.encode()).decode()[(8 * shift + 5) // 6 : 8 * (shift + len(word)) // 6]
        for shift in range(3)
    ]
    found: list[str] = []
    async with await connect(bench.settings, "test") as connection:
        for table, column in names:
            cursor = await connection.execute(
                sql.SQL(
                    """SELECT count(*) FROM (SELECT CASE pg_typeof({column})::text
                                                    WHEN 'bytea' THEN encode({column}::text::bytea, 'escape')
                                                    ELSE {column}::text END AS text
                                               FROM dbos.{table}) AS t
                        WHERE text LIKE ANY (%s) OR text LIKE %s"""
                ).format(column=sql.Identifier(column), table=sql.Identifier(table)),
                ([f"%{part}%" for part in (word, *encoded)], f"%{word.encode().hex()}%"),
            )
            row = await cursor.fetchone()
            if row is not None and row[0]:
                found.append(f"{table}.{column}")
    return found


def everything() -> tuple[App, list[Topic[Any]]]:  # noqa: C901  # a list of handlers
    """Every kind of handler, each of which takes in, returns and raises the canary."""
    app = App("shop")
    kinds = ["async", "sync", "fused", "fused_sync", "batch", "blocking", "halting"]
    topics = {kind: Topic(kind, Order, key=lambda order: order.key, headers=("h",)) for kind in kinds}

    @app.step(retry=Retry(attempts=2, first_delay=timedelta(0)))
    async def work(order: Order) -> str:
        if order.n % 2:
            raise ValueError(f"{CANARY} {order.n}")
        return f"{CANARY} {order.n}"

    @app.step()
    def work_sync(order: Order) -> str:
        return f"{CANARY} {order.n}"

    @app.transaction()
    async def record(tx: Transaction, text: str) -> str:
        return text

    @app.transaction(isolation="serializable")
    async def alone(tx: Transaction, text: str) -> str:
        return text

    @app.transaction()
    def record_sync(tx: SyncTransaction, text: str) -> str:
        return text

    @app.workflow(on=topics["async"], retry=Retry(attempts=2, first_delay=timedelta(milliseconds=1)))
    async def handle(order: Record[Order]) -> str:
        assert order.header("h") == CANARY.encode()
        await send(current_workflow().id, CANARY)
        await set_event("state", CANARY)
        await write_stream("lines", CANARY)
        return await alone(await record(await work(order.event)))

    @app.workflow(on=topics["sync"])
    def handle_sync(order: Order) -> str:
        if order.n % 2:
            raise TerminalError(f"{CANARY} {order.n}")
        return record_sync(work_sync(order))

    @app.transaction(on=topics["fused"])
    async def fused(tx: Transaction, order: Order) -> str:
        if order.n % 2:
            raise TerminalError(f"{CANARY} {order.n}")
        return f"{CANARY} {order.n}"

    @app.transaction(on=topics["fused_sync"])
    def fused_sync(tx: SyncTransaction, order: Order) -> str:
        return f"{CANARY} {order.n}"

    @app.batch(on=topics["batch"])
    async def batch(tx: Transaction, orders: Sequence[Order]) -> None:
        if any(order.n % 2 for order in orders):
            raise TerminalError(f"{CANARY}")

    @app.workflow(on=topics["blocking"], on_failure=BlockKey())
    async def blocking(order: Order) -> str:
        return await work(order)

    @app.workflow(on=topics["halting"], on_failure=HaltPartition())
    async def halting(order: Order) -> str:
        return await work(order)

    return app, list(topics.values())


async def deliver_everything(bench: Bench, topics: Sequence[Topic[Any]]) -> None:
    headers = [("h", CANARY.encode()), ("secret", CANARY.encode())]
    for topic in topics:
        for n in range(4):
            order = Order(key=f"{CANARY}-{n}", n=n)
            await bench.deliver(topic, order, headers=headers)
        await bench.deliver(topic, f"{CANARY} is no JSON".encode(), headers=headers)
        await bench.deliver(topic, json.dumps({"key": CANARY, "n": 6, "more": "x" * 200_000}).encode(), headers=headers)


async def create_an_execution(bench: Bench) -> None:
    async with ExecutionStore(bench.settings) as store:
        said = {CANARY: [CANARY]}
        await store.create(Execution(id="e-1", flow_id="f", owner_id="o", integration=said, external_events=[said]))
        await store.update_failure_info("e-1", 1, CANARY)
        await ExecutionEventBus(store).publish("e-1", "progress", said)


async def test_nothing_of_a_user_is_readable_in_any_table(database: str) -> None:
    """Inputs inline and apart, results, errors, dead letters, holds, keys and headers; of every kind of handler."""
    app, topics = everything()
    async with Bench(app, database, settings=sealed()) as bench:
        await deliver_everything(bench, topics)
        await create_an_execution(bench)
        await bench.settle()

        assert await readable(bench) == []
        assert await bench.fetch_all("SELECT count(*) > 5 FROM dbos.workflow_inputs") == [(True,)]
        assert await bench.fetch_all("SELECT kind FROM dbos.hold ORDER BY 1") == [("block",), ("block",), ("halt",)]
        reasons = [reason for (reason,) in await bench.fetch_all("SELECT reason FROM dbos.hold")]
        assert all(reason.endswith(" failed: StepFailedError") for reason in reasons), reasons


async def test_without_a_key_it_would_be_found(database: str) -> None:
    """The search itself: each column that is sealed above has it."""
    app, topics = everything()
    async with Bench(app, database, settings=FAST) as bench:
        await deliver_everything(bench, topics)
        await create_an_execution(bench)
        await bench.settle()

        expected = {f"{table.name}.{column.name}" for table in TABLES for column in table.columns}
        expected |= {f"dead_letter.{name}" for name in ("record_key", "record_value", "record_headers", "error")}
        assert set(await readable(bench)) == expected | {"hold.reason"}


@pytest.mark.parametrize("ordering", [Ordering.KEY, Ordering.PARTITION])
async def test_a_crash_is_recovered_from_over_sealed_rows(database: str, ordering: Ordering) -> None:
    """I4: inputs, key, headers and history come back as they were; a step that is recorded does not run again."""
    app, calls, seen = App("shop"), list[str](), list[Any]()
    topic = Topic("orders", Order, headers=("h",), ordering=ordering)
    is_shut = True

    @app.step()
    async def first(n: int) -> str:
        calls.append("first")
        return f"{CANARY} {n}"

    @app.step()
    async def fails(n: int) -> str:
        calls.append("fails")
        raise LookupError(CANARY)

    @app.transaction()
    async def second(tx: Transaction, text: str) -> str:
        calls.append("second")
        return text

    @app.step()
    async def last() -> None:
        while is_shut:
            await asyncio.sleep(0.005)

    @app.workflow(on=topic)
    async def handle(record: Record[Order]) -> str:
        seen.append(record)
        text = await second(await first(record.event.n))
        try:
            await fails(1)
        except LookupError as error:
            text += str(error)
        await last()
        return text

    async with Bench(app, database, settings=sealed()) as bench:
        await bench.deliver(topic, Order(key=CANARY, n=1), key=b"\xff\x00k", headers=[("h", b"\x00\xff"), ("h", None)])
        await until_row(bench, "kafka_offset = 0")
        while (await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs")) != [(3,)]:
            await asyncio.sleep(0.01)
        assert await readable(bench) == []

        # The next process has another current key, and the old one for the rows of before.
        rekey(bench, current="old")
        await bench.crash_now()
        is_shut = False
        await bench.settle()

        assert calls == ["first", "second", "fails"]
        assert seen[0] == seen[1], "key, headers and event are those that came from Kafka"
        payloads = Payloads(bench.settings.payload_keys)
        ((output,),) = await bench.fetch_all("SELECT output FROM dbos.workflow_status")
        assert payloads.open(output, "row") == json.dumps(f"{CANARY} 1{CANARY}")


async def test_a_late_run_writes_sealed_as_well(database: str) -> None:
    """P12: checkpoints and outcome of a partition that has left, and its dead letter with the same error (P7)."""
    shop = Shop()
    shop.error = TerminalError
    async with Bench(shop.app, database, settings=sealed(replace(FAST, lease=timedelta(seconds=20)))) as bench:
        shop.shut = {"second 0", "second 1"}
        for n in range(2):
            await bench.deliver(shop.topic, Order(key=CANARY + str(n), n=n))
            await until_row(bench, f"kafka_offset = {n}")
        shop.fails["second 1"] = 1
        await bench.release(bench.ref(shop.topic))
        shop.shut.clear()
        await until_row(bench, "kafka_offset = 0 AND status = 'SUCCESS'")
        await until_row(bench, "kafka_offset = 1 AND status = 'ERROR'")

        assert await readable(bench) == []
        assert (
            await readable(bench, "second 1") == ["dead_letter.workflow_uuid"]
            or await readable(bench, "second 1") == []
        )
        assert await bench.fetch_all("SELECT count(*) FROM dbos.dead_letter") == [(1,)]


async def test_a_row_whose_key_is_missing_halts_its_partition_until_it_is_there(database: str) -> None:
    """I1, I8: row and key are named; nothing fails for a setting, nothing is written; then it goes on."""
    shop = Shop()
    async with Bench(shop.app, database, settings=sealed(current="old", old=OLD)) as bench:
        shop.shut = {"second 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")

        rekey(bench, new=NEW)
        await bench.crash_now()
        while not (held := await bench.fetch_all("SELECT kind, reason FROM dbos.hold")):
            await asyncio.sleep(0.01)
        ((kind, reason),) = held
        assert kind == "halt"
        assert reason.startswith("workflow orders-0-0: request is sealed with key 'old', which is not among")
        assert await statuses(bench) == [(0, "PENDING")]
        await until_row(bench, "owner_xid IS NULL")

        rekey(bench)
        await bench.restart()
        shop.shut.clear()
        await bench.execute("DELETE FROM dbos.hold")
        await until_row(bench, "status = 'SUCCESS'")
        assert shop.began.count("first 0") == 1


@pytest.mark.parametrize("column", ["inputs", "request"])
async def test_a_value_that_was_changed_halts_its_partition(database: str, column: str) -> None:
    """The tag says so; the workflow does not run with what somebody put there."""
    shop = Shop()
    async with Bench(shop.app, database, settings=sealed(replace(LAZY, persist_after=FAST.persist_after))) as bench:
        shop.shut = {"first 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        await bench.crash_now()
        await until(lambda: shop.began.count("first 0") == 2)
        await bench.execute(
            f"UPDATE dbos.workflow_status SET {column} = regexp_replace({column}, '(.{{8}})\"}}$', 'AAAAAAAA\"}}')"  # type: ignore[arg-type]
        )

        await bench.crash_now()
        while not (held := await bench.fetch_all("SELECT reason FROM dbos.hold")):
            await asyncio.sleep(0.01)
        assert f"workflow orders-0-0: {column} is sealed with key 'new', but not with the one" in held[0][0]
        assert await statuses(bench) == [(0, "PENDING")]


async def test_rows_of_before_the_key_and_after_it_are_read(database: str) -> None:
    """A key is introduced, and taken back: what is under way goes on either way."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        shop.shut = {"second 0", "second 1"}
        await bench.deliver(shop.topic, Order(key=CANARY, n=0))
        await until_row(bench, "kafka_offset = 0")

        rekey(bench)
        await bench.crash_now()
        await bench.deliver(shop.topic, Order(key=f"{CANARY}1", n=1))
        await until_row(bench, "kafka_offset = 1")

        rekey(bench, current=None)
        await bench.crash_now()
        shop.shut.clear()
        await bench.settle()
        assert await statuses(bench) == [(0, "SUCCESS"), (1, "SUCCESS")]
        assert [shop.began.count(f"first {n}") for n in range(2)] == [1, 1]


async def test_dead_letters_are_shown_with_their_key_and_put_back_to_work(database: str) -> None:
    shop = Shop()
    shop.error = TerminalError
    async with Bench(shop.app, database, settings=sealed()) as bench, connected(bench.settings) as connection:
        shop.fails["first 0"] = 1
        await bench.deliver(shop.topic, Order(key=CANARY, n=0), key=b"\xff")
        await bench.deliver(shop.topic, b"no JSON")
        await bench.deliver(shop.topic, b"\x00\xff" + bytes(range(256)), headers=[("h", b"v")])
        await bench.settle()

        letters = await list_dead_letters(connection, "dbos")
        payloads = Payloads(bench.settings.payload_keys)
        plain = [opened(letter, payloads) for letter in letters]
        assert [letter.record_value for letter in plain] == [
            f'{{"key":"{CANARY}","n":0}}'.encode(),
            b"no JSON",
            b"\x00\xff" + bytes(range(256)),
        ]
        assert plain[0].record_key == b"\xff"
        assert json.loads(plain[0].error)["message"] == "first 0"
        with pytest.raises(UnreadablePayloadError, match="dead letter 1: error is sealed with key 'new'"):
            opened(letters[0], Payloads())

        await retry(connection, "dbos", [1])
        await until_row(bench, "kafka_offset = 0 AND status = 'SUCCESS'")


# -- rotation


async def keys_of(connection: AsyncConnection[Any]) -> set[str | None]:
    return {each.key_id for each in await keys_in_use(connection, "dbos")}


async def test_every_value_is_sealed_anew_while_its_workflows_are_under_way(database: str) -> None:
    """Also what was readable before. Then the old key can go."""
    app, topics = everything()
    async with Bench(app, database, settings=FAST) as bench, connected(bench.settings) as connection:
        await deliver_everything(bench, topics[4:])
        await bench.settle()
        rekey(bench, current="old", old=OLD)
        await bench.restart()
        await deliver_everything(bench, topics[:4])
        await bench.settle()
        assert await keys_of(connection) == {None, "old"}
        before = await _plain(bench, Payloads(PayloadKeys({"old": OLD})))

        done = await reseal(connection, "dbos", Payloads(PayloadKeys({"old": OLD, "new": NEW}, "new")))

        assert done.unreadable_count == 0
        assert await keys_of(connection) == {"new"}
        assert await readable(bench) == ["hold.reason"], "a hold that was placed before the key"
        only_new = Payloads(PayloadKeys({"new": NEW}))
        assert await _plain(bench, only_new) == before, "nothing else has changed"
        again = await reseal(connection, "dbos", Payloads(PayloadKeys({"old": OLD, "new": NEW}, "new")))
        assert again.values == 0
        assert (
            await bench.fetch_all("SELECT actor, action, subject FROM dbos.audit WHERE action LIKE 'seal%'")
            == [("operator", "seal payloads anew", "new")] * 2
        )

        opened_again = await reseal(connection, "dbos", only_new)
        assert opened_again.values == done.values
        assert await keys_of(connection) == {None}
        assert await _plain(bench, Payloads()) == before


async def test_a_workflow_goes_on_over_rows_that_were_sealed_anew(database: str) -> None:
    """P7: nobody compares what was replaced."""
    shop = Shop()
    async with Bench(shop.app, database, settings=sealed(current="old", old=OLD)) as bench:
        shop.shut = {"second 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        async with connected(bench.settings) as connection:
            await reseal(connection, "dbos", Payloads(PayloadKeys({"old": OLD, "new": NEW}, "new")))
        rekey(bench, new=NEW)
        await bench.crash_now()
        shop.shut.clear()
        await bench.settle()

        assert await statuses(bench) == [(0, "SUCCESS")]
        assert shop.began.count("first 0") == 1


async def test_what_cannot_be_opened_is_left_counted_and_named(database: str) -> None:
    shop = Shop()
    async with Bench(shop.app, database, settings=sealed(current="old", old=OLD)) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        async with connected(bench.settings) as connection:
            done = await reseal(connection, "dbos", Payloads(PayloadKeys({"new": NEW}, "new")))
            assert done.values == 0
            assert done.unreadable_count == 2
            assert re.match(r"workflow_status, row \(0,\d\): inputs is sealed with key 'old'", done.unreadable[0])
            assert await keys_of(connection) == {"old"}


async def _plain(bench: Bench, payloads: Payloads) -> list[Any]:
    """Every value as it is for the program, whatever it is sealed with."""
    from engine.sealed_rows import opened_request

    rows = await bench.fetch_all(
        """SELECT w.workflow_uuid, w.inputs, w.output, w.error, w.request, i.inputs
             FROM dbos.workflow_status AS w LEFT JOIN dbos.workflow_inputs AS i USING (workflow_uuid) ORDER BY 1"""
    )
    steps = await bench.fetch_all(
        "SELECT output, error FROM dbos.operation_outputs ORDER BY workflow_uuid, function_id"
    )
    async with connected(bench.settings) as connection:
        letters = await list_dead_letters(connection, "dbos")
    return (
        [
            [
                *(text and payloads.open(str(text), "row") for text in (*row[1:4], row[5])),
                json.loads(opened_request(row[4], payloads, "row")),
            ]
            for row in rows
        ]
        + [[text and payloads.open(str(text), "row") for text in row] for row in steps]
        + [opened(letter, payloads) for letter in letters]
    )
