"""The programs of examples/ do what they say; the code in docs/ is theirs."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka import Producer

from consumers.mock import MockCluster
from examples import (
    approvals,
    changing,
    client,
    executions,
    failures,
    formats,
    fulfil,
    http_orders,
    in_a_program,
    mending,
    models,
    payments,
    procedures,
    publishing,
    queues,
    reminders,
    schedules,
    topics,
)
from processor import Client, Identity, NotAuthorizedError, Settings, Topic
from processor.executions import ExecutionStore
from processor.testing import Bench
from tests.docs.readme import blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]


async def test_orders_are_charged_and_recorded_once(database: str) -> None:
    async with Bench(fulfil.app, database) as bench:
        await bench.execute("CREATE TABLE sale (order_id text, receipt text)")
        bench.crash(after=fulfil.charge)
        await bench.deliver(fulfil.orders, fulfil.OrderPlaced(order_id="o-1", amount_cents=5))
        await bench.deliver(fulfil.orders, fulfil.OrderPlaced(order_id="o-2", amount_cents=0))
        await bench.settle()

        assert await bench.fetch_all("SELECT * FROM sale") == [("o-1", "receipt orders.placed-0-0:1")]
        assert await bench.fetch_all("SELECT workflow_uuid FROM dbos.dead_letter") == [("orders.placed-0-1",)]


async def test_payments_are_booked_in_shared_commits(database: str) -> None:
    app = payments.app
    booked, clicks, refunds = (app.workflows[name].topic for name in ("book", "load", "refund"))
    assert booked
    assert clicks
    assert refunds
    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE balance (account text PRIMARY KEY, cents bigint NOT NULL)")
        await bench.execute("CREATE TABLE click (page text NOT NULL, at timestamptz)")
        for _ in range(30):
            await bench.deliver(booked, payments.Payment(account="a", cents=10))
            await bench.deliver(clicks, payments.Click(page="/"), timestamp_ms=1_700_000_000_000)
        await bench.settle()
        for cents in (100, 1_000):
            await bench.deliver(refunds, payments.Payment(account="a", cents=cents))
        await bench.settle()

        assert await bench.fetch_all("SELECT * FROM balance") == [("a", 200)]
        assert await bench.fetch_all("SELECT count(*), min(at)::date::text FROM click") == [(30, "2023-11-14")]
        assert await bench.fetch_all("SELECT workflow_uuid FROM dbos.dead_letter") == [("refunds-0-1",)]


async def test_orders_in_avro_become_shipments_in_json_schema(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCESSOR_REGISTRY_URL", "mock://examples")
    monkeypatch.setenv("PROCESSOR_REGISTRY_REGISTER_SCHEMAS", "true")
    order = formats.Order(order_id="o-1", cents=5)
    key, value = await asyncio.to_thread(formats.by_hand, order)
    assert (key, value) == (b"o-1", b"\0\0\0\0\1\x06o-1\x0a")
    async with Bench(formats.app, database, registry="mock://examples") as bench:
        await bench.deliver(formats.orders, order)
        await bench.settle()

        assert await bench.published(formats.shipments) == [formats.Shipment(order_id="o-1")]


async def test_sign_ups_are_reminded_once_after_three_days(database: str) -> None:
    async with Bench(reminders.app, database) as bench:
        handle = await reminders.sign_up("u-1")
        await reminders.sign_up("u-1")
        await bench.settle()
        assert reminders.sent == []

        await bench.advance(reminders.REMIND_AFTER)
        assert await handle.result() == ["mail", "push"]
        await bench.advance(reminders.ANSWER_WITHIN)

        assert reminders.sent == ["mail: welcome back, u-1", "push: welcome back, u-1"]
        assert not await reminders.was_followed_up("u-1")


async def test_workflows_go_on_in_changed_code_and_on_their_objects(database: str) -> None:
    async with Bench(changing.app, database) as bench:
        await bench.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_version, inputs, kafka_asleep)"
            """ VALUES ('old', 'PENDING', 'fulfil', '1', '{"args": ["old"]}', true)"""
        )
        wake = json.dumps(int(datetime.now(UTC).timestamp() * 1000))
        await bench.execute("INSERT INTO dbos.operation_outputs VALUES ('old', 1, %s, NULL, 'DBOS.sleep')", (wake,))
        bench.engine.scan.hint()
        assert await changing.fulfil.retrieve("old").result() == "parcel of old"
        young = await changing.fulfil.start("young")
        await bench.settle()
        await bench.advance(timedelta(days=1))
        assert await young.result() == "parcel of young"
        assert changing.calls == ["check old", "ship old", "check young", "check young", "ship young"]

        assert await changing.europe.deliver("o-1") == "o-1 by eu.example.org"
        handle = await changing.america.deliver.start("o-2")
        assert await handle.result() == "o-2 by us.example.org"
        assert (await handle.status()).instance == "america"


async def test_expenses_are_paid_when_they_are_approved(database: str) -> None:
    expense, decision = approvals.Expense, approvals.Decision
    async with Bench(approvals.app, database) as bench:
        await bench.execute("CREATE TABLE payout (expense_id text PRIMARY KEY, cents bigint NOT NULL)")
        ledger = await approvals.ledger.start(1, id="ledger")
        handles = [await approvals.hand_in(expense(expense_id=f"{n}", cents=n * 100)) for n in range(1, 4)]
        state = await approvals.state_of("1")
        assert state
        assert state.name == "waiting"
        reminded = await approvals.remind.start("expense-2", handles[2].id)
        await approvals.decide("1", decision(by="ada", approves=True))
        await approvals.decide("1", decision(by="ada", approves=True))
        await approvals.decide("2", decision(by="bob", approves=False))

        assert (await handles[0].result()).startswith("paid under ")
        assert await handles[1].result() == "not paid"
        assert await reminded.result() == "reminded"
        assert await ledger.result() == 100
        assert [total async for total in approvals.totals()] == [100]
        await bench.settle()
        await bench.advance(approvals.DECIDE_WITHIN)
        assert await handles[2].result() == "not paid"
        assert await approvals.watch(handles[2].id) == "expired"
        assert await bench.fetch_all("SELECT * FROM payout") == [("1", 100)]


async def test_books_are_closed_every_night_and_rates_are_fetched_every_30_seconds(database: str) -> None:
    async with Bench(schedules.app, database) as bench:
        await bench.execute("CREATE TABLE closed_day (day date PRIMARY KEY)")
        await bench.settle()
        await bench.advance(timedelta(days=21))
        await bench.settle()

        ((closed, days),) = await bench.fetch_all("SELECT count(*), max(day) - min(day) + 1 FROM closed_day")
        assert closed == days >= 20
        reports = await bench.fetch_all("SELECT output FROM dbos.workflow_status WHERE name = 'weekly_report'")
        assert [output[:14] for (output,) in reports] == ['"report of 202']
        # Three weeks of them were missed; one may have been due before that, and one in the last seconds.
        assert len(schedules.fetched) <= 2


async def test_models_are_written_in_the_handlers_transaction(database: str) -> None:
    async with Bench(models.app, database) as bench:
        await bench.execute("CREATE TABLE account (name text PRIMARY KEY, cents integer NOT NULL)")
        for _ in range(3):
            await bench.deliver(models.deposits, models.Deposit(account="ada", cents=5))
        await bench.settle()
        assert [await models.sign_up(name) for name in ("ada", "bob")] == [False, True]

        assert await bench.fetch_all("SELECT * FROM account ORDER BY 1") == [("ada", 15), ("bob", 0)]


async def test_sql_functions_are_steps(database: str) -> None:
    async with Bench(procedures.app, database) as bench:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.stock (item text PRIMARY KEY, left_over integer NOT NULL)",
            "INSERT INTO shop.stock VALUES ('nut', 10), ('bolt', 5)",
            """CREATE FUNCTION shop.reserve(item text, quantity integer) RETURNS shop.stock LANGUAGE sql AS $$
               UPDATE shop.stock AS s SET left_over = s.left_over - $2 WHERE s.item = $1 RETURNING s.* $$""",
            """CREATE FUNCTION shop.stock_list(at_least integer) RETURNS SETOF shop.stock LANGUAGE sql AS $$
               SELECT * FROM shop.stock WHERE left_over >= $1 ORDER BY item $$""",
        ):
            await bench.execute(statement)
        assert await procedures.order("nut", 5) == ["bolt: 5", "nut: 5"]


async def test_failed_orders_are_put_right(database: str) -> None:
    async with Bench(mending.app, database) as bench:
        mending.away.add("carrier")
        for n in range(3):
            await mending.fulfil.start(f"o-{n}", id=f"o-{n}")
        await bench.settle()
        mending.away.clear()
        acted = await mending.put_back_to_work()
        await bench.settle()
        assert sorted(acted.done) == ["o-0", "o-1", "o-2"]

        assert await (await mending.ship_again("o-1")).result() == "receipt of o-1, parcel of o-1"
        assert mending.calls.count("charge o-1") == 1
        assert mending.calls.count("ship o-1") == 2
        assert await mending.clean_up(["o-0", "o-1"]) == 2


async def test_events_are_published_with_their_cause(database: str) -> None:
    app, placed = publishing.app, publishing.OrderPlaced
    views, cancelled = (app.workflows[name].topic for name in ("count", "cancel"))
    assert views
    assert cancelled
    async with Bench(app, database) as bench:
        await bench.execute("CREATE TABLE sale (order_id text PRIMARY KEY, receipt text NOT NULL)")
        await bench.execute("CREATE TABLE page_view (page text PRIMARY KEY, n bigint NOT NULL)")
        await bench.deliver(publishing.orders, placed(order_id="o-1", cents=5))
        await bench.deliver(publishing.orders, placed(order_id="o-1", cents=5))
        await bench.deliver(publishing.orders, placed(order_id="o-2", cents=0))
        await bench.settle()
        await bench.deliver(cancelled, placed(order_id="o-1", cents=5))
        for page in "abaca":
            await bench.deliver(views, publishing.Viewed(page=page))
        await bench.settle()

        # The second delivery of o-1 is another record: its transaction fails, and publishes nothing.
        assert await bench.published(publishing.shipments) == [publishing.ShipmentRequested(order_id="o-1"), None]
        assert {(each.page, each.views) for each in await bench.published(publishing.popular)} >= {("a", 3), ("c", 1)}
        states = [(each.order_id, each.state) for each in await bench.published(publishing.progress)]
        assert [state for order_id, state in states if order_id == "o-1"] == ["accepted", "recorded", "accepted"]
        assert [state for order_id, state in states if order_id == "o-2"] == ["accepted"]
        dead = Topic("orders.dead", placed)
        assert sorted(order.order_id for order in await bench.published(dead)) == ["o-1", "o-2"]


async def test_orders_by_http_are_placed_once_for_each_key(database: str) -> None:
    async with Bench(http_orders.app, database) as bench:
        await bench.execute("CREATE TABLE placed (order_id text, item text, amount int, customer text)")
        client = bench.http(identity=Identity("ada", ("customer",)))
        answer = await client.post("/orders/o-1", json={"item": "book"}, headers={"Idempotency-Key": "o-1"})
        assert answer.status == 202
        await bench.settle()
        own = await client.get("/workflows/o-1")
        assert own.json()["result"] == "o-1 for ada"
        await client.post("/orders/o-1", json={"item": "book"}, headers={"Idempotency-Key": "o-1"})
        assert await http_orders.order_at_night() == "o-2 for night-shift"
        with pytest.raises(NotAuthorizedError):
            await http_orders.place.start("o-3", http_orders.Order(item="book"))
        behind = bench.http().with_headers(x_user="eve", x_roles="clerk")
        assert (await behind.get("/prices/book")).json() == {"item": "book", "price": "4.00 EUR"}
        assert (await behind.post("/orders/o-4", json={"item": "book"})).status == 403
        assert (await bench.http().get("/prices/book")).status == 401

        found = await bench.fetch_all("SELECT * FROM placed ORDER BY 1")
        assert found == [("o-1", "book", 1, "ada"), ("o-2", "book", 1, "night-shift")]


async def test_failures_are_retried_and_block_their_key(database: str) -> None:
    app, parcel = failures.app, failures.Parcel
    returns = app.workflows["take_back"].topic
    assert returns
    async with Bench(app, database) as bench:
        await bench.deliver(failures.parcels, parcel(parcel_id="light", address="here"))
        await bench.deliver(failures.parcels, parcel(parcel_id="heavy", address="here", heavy=True))
        await bench.deliver(failures.parcels, parcel(parcel_id="lost", address=""))
        await bench.deliver(failures.parcels, parcel(parcel_id="lost", address="here"))
        await bench.deliver(returns, parcel(parcel_id="back", address="here", heavy=True))
        await bench.settle()
        async with asyncio.timeout(60):
            while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE output LIKE '%lorry%'"):
                await asyncio.sleep(0.01)

        found = await bench.fetch_all("SELECT workflow_uuid, status, output FROM dbos.workflow_status ORDER BY 1")
        assert found == [
            ("parcels-0-0", "SUCCESS", '"car for light"'),
            ("parcels-0-1", "SUCCESS", '"lorry for heavy"'),
            ("parcels-0-2", "ERROR", None),
            ("parcels-0-3", "PENDING", None),
            ("returns-0-0", "SUCCESS", '"by post"'),
        ]
        assert await bench.fetch_all("SELECT kind, workflow_uuid FROM dbos.hold") == [("block", "parcels-0-2")]
        assert failures.asked.count("back") == 3


async def test_topics_are_ordered_filtered_and_decoded_as_they_say(database: str) -> None:
    ada = topics.Profile(user_id="u", name="Ada")
    async with Bench(topics.app, database) as bench:
        eu = ("region", b"eu")
        await bench.deliver(topics.profiles, ada, headers=[eu, ("trace", b"t1"), ("secret", b"s")])
        await bench.deliver(topics.profiles, ada, headers=[("region", b"us")])
        await bench.deliver(topics.profiles, None, key=b"u", headers=[eu])
        await bench.deliver(topics.audits, "signed in", on="audit.web")
        await bench.deliver(topics.readings, topics.Reading(7, 300))
        await bench.deliver(topics.readings, b"short")
        await bench.settle()

        assert sorted(topics.seen) == [
            "7=300",
            "profiles-0-0 Ada b't1'",
            "profiles-0-2 deleted None",
            "signed in",
        ]
        assert await bench.fetch_all("SELECT workflow_uuid, reason FROM dbos.dead_letter") == [
            ("readings-0-1", "undecodable")
        ]


async def test_a_program_runs_the_engine_inside(database: str, mock_cluster: MockCluster) -> None:
    mock_cluster.create_topic("orders", 1)
    producer = Producer({"bootstrap.servers": mock_cluster.bootstrap_servers})
    producer.produce("orders", '{"order_id": "o-1"}')
    producer.flush(30)
    servers = {"postgres": {"dsn": database}, "kafka": {"bootstrap_servers": mock_cluster.bootstrap_servers}}

    async with asyncio.timeout(60):
        first = await in_a_program.main(Settings.model_validate(servers))

    assert (first, in_a_program.opened) == ("o-1", [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_in_the_docs_stands_in_an_example(page: Path) -> None:
    """So that it is formatted, type-checked and run. Blocks with a file of their own are programs of the README."""
    programs = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py"))
    tests = Path(__file__).read_text(encoding="utf-8") + (ROOT / "tests" / "docs" / "test_patterns.py").read_text()

    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            for part in re.split(r"\n\n+", block.text.strip()):
                assert part in programs or part in tests or indented(part) in tests, f"{page.name}: not run:\n{part}"


def indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


async def test_mails_wait_for_their_turn_and_an_index_for_quiet(database: str) -> None:
    app, topic = queues.app, queues.app.workflows["welcome"].topic
    assert topic
    async with Bench(app, database) as bench:
        letter = await queues.newsletter.start([f"u{n}@example.org" for n in range(120)], "news")
        await bench.settle()
        await bench.deliver(topic, queues.SignedUp(email="new@example.org"))
        await bench.settle()
        assert len(queues.sent) == 100
        await bench.advance(timedelta(minutes=1))
        assert await letter.result() == 120
        await bench.settle()
        assert queues.sent[100] == "new@example.org: welcome"

        first = [await queues.upload("a", f"{n}.csv") for n in range(3)]
        again = await queues.upload("b", "0.csv")
        await bench.settle()
        assert [name for name in queues.imported if name.startswith("a")] == ["a/0.csv", "a/1.csv", "a/2.csv"]
        assert again.id not in {handle.id for handle in first}
        assert queues.indexed == []
        await bench.advance(timedelta(seconds=30))
        await bench.settle()
        assert sorted(queues.indexed) == ["a", "b"]


async def test_programs_beside_the_processors_hand_in_approve_and_put_right(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", database)
    async with Bench(approvals.app, database) as bench, Client(database) as beside:
        await bench.execute("CREATE TABLE payout (expense_id text PRIMARY KEY, cents bigint NOT NULL)")
        await approvals.ledger.start(1, id="ledger")
        while not await bench.fetch_all("SELECT FROM dbos.workflow_version"):
            await asyncio.sleep(0.005)
        assert await client.hand_in(beside, "1", 100) == "waiting"
        assert await client.hand_in(beside, "2", 200) == "waiting"
        assert await client.every_open_one(beside) == ["expense-1", "expense-2"]
        assert (await client.decide(beside, "1", "ada")).startswith("paid under ")
        assert await client.from_the_settings_of_the_deployment() == 1
        await bench.execute("DROP TABLE payout")
        with pytest.raises(Exception, match="payout"):
            await client.decide(beside, "2", "ada")
        done = await asyncio.to_thread(client.put_right, database)
        assert done == {"back to work": ["expense-2"], "dead letters": [], "queues": {"_dbos_internal_queue": 0}}


async def test_research_is_watched_paused_and_done_elsewhere(database: str) -> None:
    async with ExecutionStore(database) as store, ExecutionStore(database) as elsewhere:
        worker = executions.worker_of(store)
        async with Bench(executions.app, database):
            await executions.start_research(worker, "r-1", "whales", "ada", watched=True)
            seen: list[str] = []
            async with asyncio.timeout(60):
                async for line in executions.watch(store, "r-1"):
                    seen.append(line)
                    if line == "paused at read":
                        assert await executions.go_on(store, "r-1", "ada") == "read"
            assert seen == [
                *("created", "running"),
                *["paused at read", "resumed at read"] * 3,
                "completed",
            ]
            books = [f"whales, volume {volume}: read" for volume in (1, 2, 3)]
            assert await executions.research.retrieve("r-1").result() == books

            await store.create(executions.Execution(id="r-2", flow_id="research", owner_id="ada"))
            assert await executions.work_elsewhere(elsewhere, "typescript-7", "r-2")
            assert not await executions.work_elsewhere(store, "typescript-8", "r-2")
            done = await store.get("r-2")
            assert done is not None
            assert done.status == "completed"
