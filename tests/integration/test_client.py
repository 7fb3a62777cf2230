"""The client: programs that start, await and act on workflows, and run none."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.acts import Refusal
from engine.client import Caller
from engine.dead_letters import DeadLetterError
from engine.queue_acts import QueueError
from engine.schedules import ScheduleError
from processor import (
    App,
    Client,
    ConfigurationError,
    DeduplicatedError,
    Identity,
    Queue,
    RecordedError,
    TerminalError,
    UndecodableError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowFilter,
    WorkflowNotFoundError,
    WorkflowStatus,
    acting_as,
)
from processor.testing import Bench
from tests.integration.client_shop import SETTLED, Receipt, Shop, announced


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def bench(database: str, shop: Shop) -> AsyncGenerator[Bench]:
    """A live app, once others know what it can run."""
    async with Bench(shop.app, database, settings=SETTLED) as bench:
        await announced(bench)
        yield bench


@pytest.fixture
async def client(bench: Bench) -> AsyncGenerator[Client]:
    async with Client(bench.dsn) as client:
        yield client


# -- starting


async def test_a_started_workflow_runs_where_its_code_is_and_gives_its_result(client: Client, shop: Shop) -> None:
    """The row is durable before `start` returns; the client has nothing of the workflow but its name."""
    handle = await client.start("buy", "o-1", kwargs={"cents": 5}, model=Receipt)

    assert await handle.result() == Receipt("o-1", 5)
    info = await handle.status()
    assert (info.name, info.status, info.executor_id is None) == ("buy", WorkflowStatus.SUCCESS, False)
    assert [step.name for step in await handle.steps()] == ["charge"]
    assert await client.retrieve(handle.id).result() == {"order": "o-1", "cents": 5}


async def test_the_same_id_is_the_first_run_and_another_one_under_it_an_error(client: Client, shop: Shop) -> None:
    first = await client.start("buy", "o-1", id="w")
    await first.result()
    again = await client.start("buy", "o-1", id="w", model=Receipt)

    assert await again.result() == Receipt("o-1", 1)
    assert shop.calls == ["o-1"]
    with pytest.raises(WorkflowConflictError, match="other inputs"):
        await client.start("buy", "o-2", id="w")
    with pytest.raises(WorkflowConflictError, match="it is a 'buy', this is a 'who'"):
        await client.start("who", id="w")


async def test_names_and_queues_that_nobody_registers_are_refused_with_the_nearest(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="there is no workflow 'buyy'.*did you mean 'buy'"):
        await client.start("buyy", "o-1")
    with pytest.raises(ConfigurationError, match="there is no queue 'mail'.*did you mean 'mails'"):
        await client.enqueue("buy", "o-1", queue="mail")
    with pytest.raises(ConfigurationError, match="instance='eu' out"):
        await client.start("buy", "o-1", instance="eu")
    with pytest.raises(ConfigurationError, match="timeout"):
        await client.start("buy", "o-1", timeout=timedelta(0))
    with pytest.raises(TypeError, match="queue= says where"):
        await client.enqueue("buy", "o-1")

    assert await client.list_workflows() == []


async def test_a_workflow_that_is_registered_while_a_client_asks_for_it_is_started(
    client: Client, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that starts at this moment: what was not there at the first look is there at the second."""
    look, looks = vars(Caller)["_one"], list[object]()

    async def late(caller: Caller, statement: Any) -> Any:
        found = await look(caller, statement)
        looks.append(found)
        return found._replace(latest=None) if len(looks) == 1 else found

    monkeypatch.setattr(Caller, "_one", late)
    handle = await client.start("buy", "o-1")

    assert await handle.result() == {"order": "o-1", "cents": 1}
    assert len(looks) >= 2


async def test_arguments_that_are_not_the_workflows_fail_it_and_errors_come_as_they_were_raised(
    client: Client,
) -> None:
    wrong = await client.start("buy", 1, 2, 3)
    with pytest.raises(UndecodableError, match="the inputs are none of workflow 'buy'"):
        await wrong.result()
    with pytest.raises(TypeError, match="workflow 'buy': its arguments"):
        await client.start("buy", object())
    failing = await client.start("buy", "o-1", kwargs={"cents": -1})

    with pytest.raises((TerminalError, RecordedError), match="nothing to charge"):
        await failing.result()


async def test_a_workflow_waits_for_the_version_it_is_given_and_runs_in_the_latest_where_nobody_lives(
    database: str,
) -> None:
    """P29: a row of a version is for whoever has it; without a live process the latest is taken."""
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTLED) as bench:
        await announced(bench)
        async with Client(database) as client:
            other = await client.start("buy", "o-1", id="other", version="other")
            await (await client.start("buy", "o-2", id="own")).result()
            assert (await other.status()).status is WorkflowStatus.PENDING
    async with Client(database) as client:
        late = await client.start("buy", "o-3", id="late")
        queued = await client.enqueue("buy", "o-4", queue="mails")
        versions = {info.id: info.version for info in await client.list_workflows()}
        async with Bench(shop.app, database, settings=SETTLED):
            assert (await late.result(), await queued.result()) == (
                {"order": "o-3", "cents": 1},
                {"order": "o-4", "cents": 1},
            )

    assert versions["late"] == versions["own"] != versions["other"] == "other"


async def test_methods_are_started_on_their_objects(database: str) -> None:
    app = App("gates")

    class Gate:
        def __init__(self, name: str) -> None:
            self.name = name

        @app.workflow(name="open")
        async def open(self, car: str) -> str:
            return f"{car} at {self.name}"

    app.instance("eu", Gate("eu"))
    async with Bench(app, database, settings=SETTLED) as bench, Client(database) as client:
        while not await bench.fetch_all("SELECT FROM dbos.executor_workflow"):
            await asyncio.sleep(0.005)

        assert await (await client.start("open", "c", instance="eu")).result() == "c at eu"
        with pytest.raises(ConfigurationError, match="instance= says of which object: 'eu'"):
            await client.start("open", "c")
        with pytest.raises(ConfigurationError, match="no live process has the object 'us'; there is 'eu'"):
            await client.start("open", "c", instance="us")


async def test_a_client_starts_as_whom_it_acts(client: Client) -> None:
    with acting_as(Identity("ada", ("customer",))):
        handle = await client.start("who")

    assert await handle.result() == "ada"
    assert await (await client.start("who")).result() is None


# -- queues


async def test_enqueued_workflows_obey_their_queue(bench: Bench, client: Client, shop: Shop) -> None:
    await client.queues.pause("mails", note="nobody reads them")
    first = await client.enqueue("buy", "o-1", queue="mails", deduplication_id="o", kwargs={"cents": 7})
    with pytest.raises(DeduplicatedError, match=first.id):
        await client.enqueue("buy", "o-2", queue="mails", deduplication_id="o")
    with pytest.raises(ConfigurationError, match="it has no priorities"):
        await client.enqueue("buy", "o-2", queue="mails", priority=1)
    with pytest.raises(ConfigurationError, match="is partitioned"):
        await client.enqueue("buy", "o-2", queue=Queue("imports"))
    with pytest.raises(QueueError, match="paused already"):
        await client.queues.pause("mails", note="again")
    (depth,) = [each for each in await client.queues.list() if each.queue == "mails"]
    assert (depth.ready, depth.is_paused) == (1, True)

    await client.queues.resume("mails", note="they do")

    assert await first.result() == {"order": "o-1", "cents": 7}
    placed = await client.enqueue("buy", "o-3", queue="imports", priority=2, partition_key="a")
    await placed.result()
    info = await placed.status()
    assert (info.queue, info.priority, info.partition_key) == ("imports", 2, "a")
    assert await bench.fetch_all("SELECT actor, action FROM dbos.audit ORDER BY audit_id") == [
        ("client", "pause queue"),
        ("client", "resume queue"),
    ]


# -- acts


async def test_workflows_are_listed_page_by_page_with_filters(client: Client) -> None:
    await client.queues.pause("mails", note="so that they stand")
    for number in range(5):
        await client.enqueue("buy", f"o-{number}", queue="mails", id=f"m-{number}")
    await (await client.start("who", id="w")).result()

    seen: list[str] = []
    page = await client.list_workflows(WorkflowFilter(prefix="m-"), limit=2, payloads=False)
    while page:
        seen += [info.id for info in page]
        page = await client.list_workflows(WorkflowFilter(prefix="m-"), limit=2, after=page[-1], payloads=False)

    assert seen == [f"m-{number}" for number in range(5)]
    assert [i.id for i in await client.list_workflows(WorkflowFilter(status="SUCCESS", name="who"))] == ["w"]
    assert len(await client.list_workflows(WorkflowFilter(queue="mails", name="buy"), limit=10)) == 5


async def test_workflows_are_cancelled_resumed_forked_and_deleted(client: Client, shop: Shop) -> None:
    talking = await client.start("talk", id="t")
    await talking.get_event("state")
    assert await talking.cancel()
    with pytest.raises(WorkflowCancelledError):
        await talking.result()
    assert await talking.resume()
    await client.send("t", "hello")
    assert await talking.result() == "hello"

    bought = await client.start("buy", "o-1", id="b")
    await bought.result()
    fork = await bought.fork(from_step=2, id="b-again")
    anew = await bought.restart(id="b-anew")
    assert (await fork.result(), await anew.result()) == ({"order": "o-1", "cents": 1},) * 2
    assert shop.calls == ["o-1", "o-1"]
    acted = await client.delete_workflows(["b", "b-again", "unknown"])
    assert (acted.done, acted.refused) == (["b", "b-again"], {"unknown": Refusal.UNKNOWN})
    assert await anew.delete()
    with pytest.raises(WorkflowNotFoundError):
        await bought.status()


async def test_messages_events_and_streams_cross_processes(client: Client) -> None:
    handle = await client.start("talk")
    assert await client.get_event(handle.id, "state", model=str) == "waiting"
    reading = client.read_stream(handle.id, "log", model=int)
    assert await anext(reading) == 1

    await client.send(handle.id, "hello", idempotency_key="once")
    await client.send(handle.id, "hello", idempotency_key="once")

    assert [value async for value in reading] == [2]
    assert await handle.result() == "hello"
    assert await handle.get_event("never") is None
    with pytest.raises(WorkflowNotFoundError):
        await client.send("nobody", "hello")


async def test_a_records_workflow_is_waited_for_and_another_ones_absence_is_told_at_once(
    bench: Bench, client: Client, shop: Shop
) -> None:
    """P8: an ID of a known topic may get its row within two seconds; no other ID."""
    await bench.deliver(shop.orders, "o-0")
    await bench.settle()
    result = asyncio.ensure_future(client.retrieve("orders-0-1").result())
    event = asyncio.ensure_future(client.get_event("orders-0-1", "state"))
    sent = asyncio.ensure_future(client.send("orders-0-1", "hello"))
    for _ in range(3):
        await client.list_workflows()  # behind their first looks
    assert not any(each.done() for each in (result, event, sent))
    await bench.deliver(shop.orders, "o-1")

    assert (await result, await event, await sent) == ("o-1 fulfilled", None, None)
    with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
        await client.retrieve("nobody").result()


async def test_dead_letters_are_listed_retried_and_discarded(bench: Bench, client: Client, shop: Shop) -> None:
    await bench.deliver(shop.orders, "bad")
    await bench.settle()
    (letter,) = await client.dead_letters.list(topic="orders")
    assert (letter.workflow_uuid, letter.record_value, letter.state) == ("orders-0-0", b"bad", "OPEN")
    assert await client.dead_letters.retry(letter.dead_letter_id, note="the gateway is back") == 1
    assert "the gateway is back" in str(await bench.fetch_all("SELECT detail FROM dbos.audit"))
    while not (found := await client.dead_letters.list()):
        await asyncio.sleep(0.005)
    (again,) = found
    with pytest.raises(ConfigurationError, match="note is empty"):
        await client.dead_letters.discard(again.dead_letter_id, note=" ")
    assert await client.dead_letters.discard(again.dead_letter_id, note="it is bad") == 1

    assert (await client.dead_letters.show(again.dead_letter_id)).note == "it is bad"
    assert await client.dead_letters.list() == []
    with pytest.raises(DeadLetterError, match="DISCARDED already"):
        await client.dead_letters.retry(again.dead_letter_id)


async def test_schedules_are_paused_triggered_and_made_up(bench: Bench, client: Client) -> None:
    while not await client.schedules.list():
        await asyncio.sleep(0.005)
    await client.schedules.pause("close_day", note="holidays")
    with pytest.raises(ScheduleError, match="is paused"):
        await client.schedules.pause("close_day", note="again")
    triggered = client.retrieve(await client.schedules.trigger("close_day"))
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    filled = await client.schedules.backfill("close_day", end - timedelta(days=2), end)

    assert (filled.started, filled.stood) == (2, 0)
    assert datetime.fromisoformat(await triggered.result())
    assert await client.schedules.resume("close_day", note="over") > 0
    (schedule,) = await client.schedules.list()
    assert (schedule.name, schedule.state) == ("close_day", "active")
