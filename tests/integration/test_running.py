"""An app from its settings to its rows: real Postgres, the mock cluster, nothing imitated."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from consumers.mock import MockCluster
from engine import telemetry
from engine.telemetry import Event
from processor import (
    App,
    ConfigurationError,
    Record,
    Retry,
    Settings,
    SyncTransaction,
    Topic,
    Transaction,
    current_step,
    current_workflow,
)
from processor.http import StatusServer
from processor.runtime import Runtime

WAIT_S = 60
"""Longest any of these takes on a busy machine; a second alone."""


class Order(BaseModel):
    order_id: str
    cents: int = 0


@pytest.fixture
def settings(database: str, mock_cluster: MockCluster) -> Settings:
    return Settings.model_validate(
        {
            "postgres": {"dsn": database},
            "kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers, "mirror_every": 0},
            "executor": {"drain": "5s"},
        }
    )


class Finished:
    """Waits for workflows to become durably terminal."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def count(self) -> int:
        return sum(len(e.latencies_s) for e in self.events if isinstance(e, telemetry.WorkflowsFinished))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(app: App, settings: Settings) -> AsyncGenerator[tuple[Runtime, Finished]]:
    from processor.runtime import running as run

    finished = Finished()
    async with run(app, settings, observers=(finished,)) as runtime:
        yield runtime, finished


def produce(kafka: MockCluster, topic: str, values: Sequence[object], *, key: str = "k", headers: Any = None) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for value in values:
        producer.produce(topic, json.dumps(value), key=key, headers=headers)
    assert producer.flush(WAIT_S) == 0


async def rows(database: str, query: Any) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        cursor = await connection.execute(query)
        return await cursor.fetchall() if cursor.description else []


async def test_a_record_becomes_a_workflow_with_steps_and_a_transaction(
    database: str, mock_cluster: MockCluster, settings: Settings
) -> None:
    mock_cluster.create_topic("orders", partitions=1)
    await rows(database, "CREATE TABLE sale (order_id text, receipt text)")
    orders = Topic("orders", Order, headers=("trace",))
    app = App("shop")
    seen: dict[str, object] = {}

    @app.step(retry=Retry(attempts=3, first_delay=timedelta(0)))
    async def charge(order: Order) -> str:
        if current_step().attempt == 1:
            raise TimeoutError
        return current_step().idempotency_key

    @app.step()
    def wrap(receipt: str) -> str:
        return f"<{receipt}>"

    @app.transaction()
    async def record(tx: Transaction, order: Order, receipt: str) -> int:
        await tx.execute("INSERT INTO sale VALUES (%s, %s)", (order.order_id, receipt))
        return 1

    @app.transaction()
    def amend(tx: SyncTransaction, order: Order) -> str:
        found = tx.execute(
            "UPDATE sale SET receipt = receipt || '!' WHERE order_id = %s RETURNING receipt", (order.order_id,)
        )
        ((receipt,),) = found.fetchall()
        return receipt

    @app.workflow(on=orders)
    async def fulfil(order: Record[Order]) -> str:
        workflow = current_workflow()
        seen.update(id=workflow.id, attempt=workflow.attempt, trace=workflow.record.header("trace"))
        workflow.logger.info("fulfilling %s", order.event.order_id)
        receipt = await charge(order.event)
        receipt = await app.run_step(wrap, receipt)
        receipt += await app.run_step(lambda: asyncio.sleep(0, "?"), name="ask")
        await record(order.event, receipt)
        return await app.run_step(amend, order.event)

    produce(mock_cluster, "orders", [{"order_id": "o-1"}], headers=[("trace", b"t-1"), ("authorization", b"secret")])
    async with running(app, settings) as (_, finished):
        await finished.until(lambda: finished.count() == 1)

    assert seen == {"id": "orders-0-0", "attempt": 1, "trace": b"t-1"}
    assert await rows(database, "SELECT order_id, receipt FROM sale") == [("o-1", "<orders-0-0:1>?!")]
    assert await rows(database, "SELECT status, output, name FROM dbos.workflow_status") == [
        ("SUCCESS", '"<orders-0-0:1>?!"', "fulfil")
    ]
    names = await rows(database, "SELECT function_name FROM dbos.operation_outputs ORDER BY function_id")
    assert [name for (name,) in names] == ["charge", "wrap", "ask", "record", "amend"]
    assert "secret" not in str(await rows(database, "SELECT * FROM dbos.workflow_status"))


async def test_fused_handlers_and_a_second_group_see_every_record(
    database: str, mock_cluster: MockCluster, settings: Settings
) -> None:
    mock_cluster.create_topic("payments", partitions=2)
    mock_cluster.create_topic("clicks", partitions=2)
    await rows(
        database, "CREATE TABLE booked (cents int); CREATE TABLE clicked (id text); CREATE TABLE audited (id text)"
    )
    app = App("shop")

    @app.transaction(on=Topic("payments", Order))
    async def book(tx: Transaction, payment: Order) -> None:
        await tx.execute("INSERT INTO booked VALUES (%s)", (payment.cents,))

    @app.batch(on=Topic("clicks", Order), size=100)
    async def load(tx: Transaction, clicks: Sequence[Record[Order]]) -> None:
        await tx.execute("INSERT INTO clicked SELECT unnest(%s::text[])", ([c.event.order_id for c in clicks],))

    @app.transaction(on=Topic("clicks", Order), group="audit")
    def audit(tx: SyncTransaction, click: Order) -> None:
        tx.execute("INSERT INTO audited VALUES (%s)", (click.order_id,))

    produce(mock_cluster, "payments", [{"order_id": "o", "cents": n} for n in range(50)])
    produce(mock_cluster, "clicks", [{"order_id": f"o-{n}"} for n in range(50)])
    async with running(app, settings) as (_, finished):
        await finished.until(lambda: finished.count() == 150)

    counts = await rows(
        database,
        "SELECT (SELECT sum(cents) FROM booked), (SELECT count(DISTINCT id) FROM clicked), (SELECT count(*) FROM audited)",
    )
    assert counts == [(sum(range(50)), 50, 50)]


async def test_a_record_that_cannot_be_decoded_is_a_dead_letter_and_the_rest_goes_on(
    database: str, mock_cluster: MockCluster, settings: Settings
) -> None:
    mock_cluster.create_topic("orders", partitions=1)
    app = App("shop")

    @app.workflow(on=Topic("orders", Order))
    async def fulfil(order: Order) -> None: ...

    produce(mock_cluster, "orders", ["not an order", {"order_id": "o-1"}])
    async with running(app, settings) as (_, finished):
        await finished.until(lambda: finished.count() == 2)

    (letter,) = [event for event in finished.events if isinstance(event, telemetry.DeadLettered)]
    assert "orders-0-0: not Order" in letter.error
    assert await rows(database, "SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY 1") == [
        ("orders-0-0", "ERROR"),
        ("orders-0-1", "SUCCESS"),
    ]


async def test_probes_and_metrics_tell_of_a_running_process(mock_cluster: MockCluster, settings: Settings) -> None:
    mock_cluster.create_topic("orders", partitions=1)
    app = App("shop")

    @app.workflow(on=Topic("orders", Order))
    async def fulfil(order: Order) -> None: ...

    produce(mock_cluster, "orders", [{"order_id": "o-1"}])

    def get(port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as answer:
            return str(answer.read(), "utf-8")

    async with running(app, settings) as (runtime, finished):
        await finished.until(lambda: finished.count() == 1)
        server = StatusServer(
            host="127.0.0.1",
            port=0,
            metrics=runtime.metrics,
            live=runtime.problems_of_life,
            ready=runtime.problems_of_readiness,
        )
        with server:
            metrics = await asyncio.to_thread(get, server.port, "/metrics")
            live = await asyncio.to_thread(get, server.port, "/livez")
            ready = await asyncio.to_thread(get, server.port, "/readyz")

    place = 'group="shop",partition="0",topic="orders"'
    assert 'processor_workflows_finished_total{handler="fulfil",status="SUCCESS"} 1.0' in metrics
    assert f"processor_partition_progress_offset{{{place}}} 1.0" in metrics
    assert f'processor_partition_state{{{place},state="attached"}} 1.0' in metrics.replace(
        'group="shop",partition="0",state="attached",topic="orders"', f'{place},state="attached"'
    )
    assert json.loads(live)["status"] == json.loads(ready)["status"] == "ok"
    assert runtime.problems_of_readiness() == ["stopping"]


async def test_the_lifespan_surrounds_everything_that_runs(mock_cluster: MockCluster, settings: Settings) -> None:
    mock_cluster.create_topic("orders", partitions=1)
    order_of_events: list[str] = []

    @asynccontextmanager
    async def resources(app: App) -> AsyncGenerator[None]:
        order_of_events.append(f"{app.name} opened")
        yield
        order_of_events.append("closed")

    app = App("shop", lifespan=resources)

    @app.workflow(on=Topic("orders", Order))
    async def fulfil(order: Order) -> None:
        order_of_events.append("ran")

    produce(mock_cluster, "orders", [{"order_id": "o-1"}])
    async with running(app, settings) as (_, finished):
        await finished.until(lambda: finished.count() == 1)

    assert order_of_events == ["shop opened", "ran", "closed"]


async def test_a_start_that_fails_says_what_to_do_and_closes_what_was_opened(
    empty_database: str, mock_cluster: MockCluster, settings: Settings
) -> None:
    closed: list[bool] = []

    @asynccontextmanager
    async def resources(app: App) -> AsyncGenerator[None]:
        yield
        closed.append(True)

    app = App("shop", lifespan=resources)

    @app.workflow(on=Topic("orders", Order))
    async def fulfil(order: Order) -> None: ...

    unmigrated = settings.model_copy(
        update={"postgres": settings.postgres.model_copy(update={"dsn": _secret(empty_database)})}
    )
    with pytest.raises(ConfigurationError, match="processor migrate"):
        async with app.running(unmigrated):
            raise AssertionError("never entered")

    with pytest.raises(ConfigurationError, match="has no workflow, so nothing would ever run"):
        async with App("empty").running(settings):
            raise AssertionError("never entered")


def _secret(value: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(value)


async def test_a_silent_lease_thread_fails_the_liveness_probe(mock_cluster: MockCluster, settings: Settings) -> None:
    """The process may begin no effect any more and cannot say so: only a restart helps."""
    mock_cluster.create_topic("orders", partitions=1)
    app = App("shop")

    @app.workflow(on=Topic("orders", Order))
    async def fulfil(order: Order) -> None: ...

    hurried = Settings.model_validate(
        {
            "postgres": {"dsn": settings.postgres.dsn, "connect_timeout": "500ms"},
            "kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers},
            "executor": {"lease": "600ms", "heartbeat": "200ms", "drain": "1s"},
        }
    )
    async with running(app, hurried) as (runtime, _):
        assert runtime.problems_of_life() == []
        runtime.engine.lease.is_held_back = True
        async with asyncio.timeout(WAIT_S):
            while not (problems := runtime.problems_of_life()):
                await asyncio.sleep(0.1)

    assert "the lease thread" in problems[0]
