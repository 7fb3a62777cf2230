"""The official clients of DBOS on a live database of ours: what they write our engine runs, what it writes they read."""

from datetime import timedelta

import pytest

from engine.settings import EngineSettings
from processor.testing import Bench
from tests.integration.protocol import until, until_row
from tests.interop.conftest import CallError, Client, client_named
from tests.interop.shop import Order, Shop

pytestmark = pytest.mark.postgres
SETTINGS = EngineSettings(conninfo="", scan=timedelta(milliseconds=50))


async def test_it_enqueues_a_workflow_and_gets_its_result(client: Client, database: str) -> None:
    """Arguments by position, options of a place; the same ID again is the same workflow."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS):
        order = {"order_id": "o-1", "amount": 5}
        workflow_id = await client.call("enqueue", "pay", "mails", [order, True], id="w-1", deduplication="d")
        assert workflow_id == "w-1"
        assert await client.call("result", "w-1") == {"receipt": "receipt o-1", "amount": 5, "express": True}
        await client.call("enqueue", "pay", "mails", [order, True], id="w-1")
        other = await client.call("enqueue", "pay", "mails", [{"order_id": "o-2", "amount": 1}], deduplication="d")
        assert await client.call("result", other) == {"receipt": "receipt o-2", "amount": 1, "express": False}

        assert shop.charged == ["o-1", "o-2"]
        assert await client.call("status", "w-1") == {
            "id": "w-1",
            "status": "SUCCESS",
            "name": "pay",
            "input": [order, True],
            "output": {"receipt": "receipt o-1", "amount": 5, "express": True},
            "forked_from": None,
        }
        assert await client.call("steps", "w-1") == [[1, "charge", "receipt o-1", None]]
        assert await client.call("listed", queue_name="mails", status="SUCCESS") == ["w-1", other]
        assert await client.call("listed", prefix="w-") == ["w-1"]


async def test_it_gets_the_error_of_a_workflow(client: Client, database: str) -> None:
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS):
        workflow_id = await client.call("enqueue", "pay", "mails", [{"order_id": "o-1", "amount": 0}])
        with pytest.raises(CallError, match="TerminalError.*order o-1: nothing to charge"):
            await client.call("result", workflow_id)
        wrong = await client.call("enqueue", "pay", "mails", [{"order_id": "o-1"}])
        with pytest.raises(CallError, match=r"UndecodableError.*argument order: .*amount"):
            await client.call("result", wrong)


async def test_it_sends_messages_and_reads_events_and_streams(client: Client, database: str) -> None:
    """One message for one idempotency key; a send leaves a row of its own, which has succeeded."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        workflow_id = await client.call("enqueue", "approve", "mails", ["o-1"], id="a-1")
        await until(lambda: shop.charged)
        assert await client.call("event", workflow_id, "state") == {"waits": "o-1"}
        await bench.settle()
        for _ in range(2):
            await client.call("send", workflow_id, {"approved": True}, "decision", "k")
        assert await client.call("result", workflow_id) == {"approved": True}

        assert await client.call("stream", workflow_id, "log") == ["asked", {"approved": True}]
        assert await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY 1") == [
            ("a-1", "SUCCESS"),
            ("a-1-k", "SUCCESS"),
        ]
        with pytest.raises(CallError, match="(?i)non-?existent"):
            await client.call("send", "nobody", 1)


async def test_it_cancels_and_resumes_one_that_runs_rests_or_waits(client: Client, database: str) -> None:
    """I4, I8, P29: what it cancels begins nothing more, what it resumes goes on behind its history."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        workflow_id = await client.call("enqueue", "approve", "mails", ["o-1"], id="a-1", deduplication="d")
        await until_row(bench, "workflow_uuid = 'a-1' AND owner_xid IS NULL AND kafka_wake_at > 0")
        await client.call("enqueue", "pay", "mails", [{"order_id": "o-2", "amount": 1}], id="p-1")
        await client.call("cancel", workflow_id)
        with pytest.raises(CallError, match="(?i)cancelled"):
            await client.call("result", workflow_id)
        assert (await client.call("result", "p-1"))["receipt"] == "receipt o-2"  # the place is free
        again = await client.call("enqueue", "approve", "mails", ["o-3"], deduplication="d")
        assert await bench.fetch_all(
            "SELECT workflow_uuid, completed_at_epoch_ms IS NULL, deduplication_id FROM dbos.workflow_queue ORDER BY 2, 1"
        ) == [("a-1", False, None), ("p-1", False, None), (again, True, "d")]
        await client.call("resume", workflow_id)
        await client.call("send", workflow_id, "yes", "decision")
        assert await client.call("result", workflow_id) == "yes"

        assert shop.charged == ["o-1", "o-2", "o-3"]


async def test_a_parent_at_rest_hears_that_it_cancelled_the_child(client: Client, database: str) -> None:
    """I8: nobody of ours wrote that row, and the parent waits for nothing else."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        await client.call("enqueue", "parent", "mails", ["c-1"], id="p-1")
        await until_row(bench, "workflow_uuid = 'p-1' AND owner_xid IS NULL AND kafka_wake_at > 0")
        await client.call("cancel", "c-1")

        assert await client.call("result", "p-1") == "WorkflowCancelledError"


async def test_it_forks_a_workflow_from_a_step(client: Client, database: str) -> None:
    """P29: steps below are taken over, with their events; the first is left as it is."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        first = await client.call("enqueue", "pay", "mails", [{"order_id": "o-1", "amount": 1}])
        result = await client.call("result", first)
        fork, anew = [await client.call("fork", first, step) for step in (2, 1)]
        assert await client.call("result", fork) == result
        assert await client.call("result", anew) == result

        assert shop.charged == ["o-1", "o-1"]
        assert (await client.call("status", fork))["forked_from"] == first
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE application_version IS NULL") == [
            (0,)
        ]


async def test_it_forks_a_workflow_whose_inputs_are_large(client: Client, database: str) -> None:
    """Its row only says where they are; the fork has none of its own."""
    shop = Shop()
    settings = EngineSettings(conninfo="", scan=timedelta(milliseconds=50), inputs_inline_max=100)
    async with Bench(shop.app, database, settings=settings):
        handle = await shop.pay.start(Order(order_id="o" * 500, amount=1))
        fork = await client.call("fork", handle.id, 1)

        assert (await client.call("result", fork))["receipt"] == f"receipt {'o' * 500}"


async def test_what_it_deletes_is_gone_with_all_that_hangs_on_it(client: Client, database: str) -> None:
    """Also what is at rest in a queue: its place is free. What was deleted may be begun anew, and has no history."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        paid = await client.call("enqueue", "pay", "mails", [{"order_id": "o-1", "amount": 1}], id="p-1")
        await client.call("result", paid)
        await client.call("enqueue", "approve", "mails", ["o-2"], id="a-1", deduplication="d")
        await until_row(bench, "workflow_uuid = 'a-1' AND owner_xid IS NULL AND kafka_wake_at > 0")
        await client.call("enqueue", "parent", "mails", ["c-1"], id="f-1")
        await client.call("delete", "a-1", False)
        await until_row(bench, "workflow_uuid = 'f-1' AND owner_xid IS NULL AND kafka_wake_at > 0")
        for workflow_id, children in ((paid, False), ("f-1", True)):
            await client.call("delete", workflow_id, children)

        for table in (
            "workflow_status",
            "operation_outputs",
            "workflow_events",
            "streams",
            "workflow_queue",
            "waiting",
        ):
            assert await bench.fetch_all(f"SELECT * FROM dbos.{table}") == [], table
        again = await client.call("enqueue", "approve", "mails", ["o-2"], id="a-1", deduplication="d")
        await client.call("send", again, "yes", "decision")
        assert await client.call("result", again) == "yes"
        assert shop.charged == ["o-1", "o-2", "c-1", "o-2"]


async def test_it_works_on_workflows_of_records(client: Client, database: str) -> None:
    """P18, P29, I7: resumed by their partition's owner, behind what was open of the key; a fork has no source."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        await bench.deliver(shop.orders, Order(order_id="a", amount=500))
        await until_row(bench, "kafka_offset = 0 AND owner_xid IS NULL AND kafka_wake_at > 0")
        await client.call("cancel", "orders-0-0")
        await bench.deliver(shop.orders, Order(order_id="a", amount=1))
        await until_row(bench, "kafka_offset = 1 AND status = 'SUCCESS'")
        await client.call("resume", "orders-0-0")
        await bench.deliver(shop.orders, Order(order_id="a", amount=2))
        await client.call("send", "orders-0-0", "go", "release")
        assert await client.call("result", "orders-0-0") == "receipt a"
        await bench.settle()
        fork = await client.call("fork", "orders-0-1", 1)
        assert await client.call("result", fork) == "receipt a"

        assert shop.charged == ["a", "a", "a", "a"]
        assert await bench.fetch_all(
            "SELECT kafka_offset, kafka_place, queue_name, status FROM dbos.workflow_status WHERE kafka_source IS NOT NULL ORDER BY 1"
        ) == [(0, 2, None, "SUCCESS"), (1, None, None, "SUCCESS"), (2, None, None, "SUCCESS")]
        assert (await client.call("status", "orders-0-1"))["input"] == [{"order_id": "a", "amount": 1}]


@pytest.mark.parametrize("client_process", [client_named("dbos-sdk")], indirect=True)
async def test_dates_maps_and_sets_of_typescript_are_read_by_annotations(client: Client, database: str) -> None:
    """Arguments and messages; what is left out takes its default."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS):
        rich = {
            "at": {"$js": "new Date(0)"},
            "tags": {"$js": "new Set(['b', 'a'])"},
            "prices": {"$js": "new Map([[1, 2n ** 40n]])"},
            "blob": {"$js": "Buffer.from('hi')"},
        }
        told = {"at": "1970-01-01T00:00:00Z", "tags": ["a", "b"], "prices": {"1": 2**40}, "blob": "aGk="}
        workflow_id = await client.call("enqueue", "receive", "mails", [rich])
        await client.call("send", workflow_id, rich)

        assert await client.call("result", workflow_id) == [told, told]
