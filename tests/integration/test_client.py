"""The client: programs that start, await and act on workflows, and run none."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine import waits
from engine.acts import Refusal
from engine.dead_letters import DeadLetterError
from engine.payloads import PayloadKeys
from engine.queue_acts import QueueError
from engine.schedules import ScheduleError
from engine.settings import EngineSettings
from processor import (
    App,
    Client,
    ClientClosedError,
    ConfigurationError,
    Cron,
    DeduplicatedError,
    Identity,
    Queue,
    RecordedError,
    StoreUnavailableError,
    SyncClient,
    TerminalError,
    Tick,
    Topic,
    UndecodableError,
    UnreadablePayloadError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowFilter,
    WorkflowNotFoundError,
    WorkflowStatus,
    acting_as,
    close_stream,
    current_workflow,
    recv,
    set_event,
    write_stream,
)
from processor.testing import Bench
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import until

SETTLED = EngineSettings(conninfo="", scan=timedelta(milliseconds=100))
KEY = bytes(range(32))


@dataclass
class Receipt:
    order: str
    cents: int


class Shop:
    """What the other side runs: a workflow of each kind that a client may ask for."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: list[str] = []
        self.orders = Topic("orders", str)
        app.register_queue(Queue("mails", concurrency=1))
        app.register_queue(Queue("imports", priority=True, partitioned=True))

        @app.step()
        async def charge(order: str, cents: int) -> Receipt:
            self.calls.append(order)
            if cents < 0:
                raise TerminalError(f"order {order}: nothing to charge")
            return Receipt(order, cents)

        @app.workflow()
        async def buy(order: str, *, cents: int = 1) -> Receipt:
            return await charge(order, cents)

        @app.workflow()
        async def who() -> str | None:
            identity = current_workflow().identity
            return None if identity is None else identity.user

        @app.workflow()
        async def talk() -> str:
            await set_event("state", "waiting")
            await write_stream("log", 1)
            said = await recv(model=str)
            await write_stream("log", 2)
            await close_stream("log")
            return said

        @app.workflow(on=self.orders)
        async def fulfil(order: str) -> str:
            if order == "bad":
                raise TerminalError("bad")
            return f"{order} fulfilled"

        @app.workflow(on=Cron("0 3 * * *"))
        async def close_day(tick: Tick) -> str:
            return tick.scheduled_at.isoformat()


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def bench(database: str, shop: Shop) -> AsyncGenerator[Bench]:
    """A live app, once others know what it can run."""
    async with Bench(shop.app, database, settings=SETTLED) as bench:
        await announced(bench)
        yield bench


async def announced(bench: Bench) -> None:
    while not await bench.fetch_all("SELECT FROM dbos.executor_workflow") or not await bench.fetch_all(
        "SELECT FROM dbos.queue"
    ):
        await asyncio.sleep(0.005)


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
    assert await client.dead_letters.retry(letter.dead_letter_id) == 1
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


# -- what goes wrong


async def test_a_client_that_dies_behind_its_commit_gets_the_first_run_when_it_repeats(
    bench: Bench, client: Client, shop: Shop
) -> None:
    """P24: the ID was chosen before; between commit and reply a client can die, and does."""
    await client.queues.pause("mails", note="so that it has not run meanwhile")
    program = f"""
import asyncio, os, signal
from engine.crashpoints import CrashPoint, armed
from processor import Client

async def main():
    async with Client({bench.dsn!r}) as client:
        armed[CrashPoint.STARTED] = lambda point: os.kill(os.getpid(), signal.SIGKILL)
        await client.enqueue("buy", "o-1", queue="mails", id="w")

asyncio.run(main())
"""
    died = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert died.returncode == -signal.SIGKILL
    assert [info.id for info in await client.list_workflows()] == ["w"]

    again = await client.enqueue("buy", "o-1", queue="mails", id="w")
    await client.queues.resume("mails", note="now")

    assert await again.result() == {"order": "o-1", "cents": 1}
    assert shop.calls == ["o-1"]


async def test_a_lost_reply_to_a_commit_makes_no_second_run(bench: Bench, shop: Shop) -> None:
    """P24, P25: what was written is found, and the caller hears of one start."""
    async with losing_proxy(bench.dsn) as (proxy, dsn), Client(dsn) as client:
        proxy.marker = b"INSERT INTO"
        proxy.lose_commits = 1
        handle = await client.start("buy", "o-1")

        assert proxy.lost == 1
        assert await handle.result() == {"order": "o-1", "cents": 1}
        assert len(await client.list_workflows()) == 1
        assert shop.calls == ["o-1"]


async def test_with_notify_waits_end_without_looking(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others bring is heard on a connection that listens; here nothing else could end the wait."""
    monkeypatch.setattr(waits, "POLL_FIRST_S", 3_600.0)
    async with Client(bench.dsn) as client:
        handle = await client.start("talk")
        result = asyncio.ensure_future(handle.result())
        listening = "query = 'LISTEN \"processor_streams\"' AND state = 'idle'"
        while not await bench.fetch_all(f"SELECT FROM pg_stat_activity WHERE {listening}"):
            await asyncio.sleep(0.005)
        await handle.send("hello")

        assert await result == "hello"


async def test_without_notify_waits_end_by_looking(bench: Bench) -> None:
    """A pooler keeps LISTEN to itself: a look every second at the latest is the base."""
    async with Client(bench.dsn, direct_dsn="host=127.0.0.1 port=1 connect_timeout=1") as client:
        handle = await client.start("talk")
        assert await handle.get_event("state") == "waiting"
        result = asyncio.ensure_future(handle.result())
        await handle.send("hello")

        assert await result == "hello"


async def test_sealed_payloads_need_the_keys_and_say_so(database: str) -> None:
    shop = Shop()
    keys = PayloadKeys({"k1": KEY}, "k1")
    settings = EngineSettings(conninfo="", scan=timedelta(milliseconds=100), payload_keys=keys)
    async with Bench(shop.app, database, settings=settings) as bench, Client(database) as bare:
        await announced(bench)
        async with Client(database, payload_keys={"k1": KEY}, payload_key="k1") as client:
            handle = await client.start("buy", "o-1", id="w")
            assert await handle.result() == {"order": "o-1", "cents": 1}
        ((stored,),) = await bench.fetch_all("SELECT inputs FROM dbos.workflow_status")
        assert "o-1" not in stored

        for reading in (bare.retrieve("w").result(), bare.retrieve("w").status(), bare.list_workflows()):
            with pytest.raises(UnreadablePayloadError, match="workflow w: .*'k1'.*not among those configured"):
                await reading
        with pytest.raises(UnreadablePayloadError, match="workflow w: inputs"):
            await bare.start("buy", "o-1", id="w")
        assert [info.id for info in await bare.list_workflows(payloads=False)] == ["w"]


async def test_a_client_is_used_while_it_is_open_and_leaves_nothing_behind(bench: Bench) -> None:
    """No executor, no lease, no thread, no connection."""
    threads = set(threading.enumerate())
    executors = await bench.fetch_all("SELECT executor_id FROM dbos.executor")
    client = Client(bench.dsn)
    with pytest.raises(ClientClosedError):
        await client.list_workflows()
    async with client:
        handle = await client.start("talk")
        waiting = asyncio.ensure_future(handle.result())
        await handle.get_event("state")
        assert await sessions(bench)
        assert set(threading.enumerate()) <= threads

    with pytest.raises(ClientClosedError):
        await waiting
    with pytest.raises(ClientClosedError):
        await handle.status()
    while await sessions(bench):  # the server notices
        await asyncio.sleep(0.005)
    assert await bench.fetch_all("SELECT executor_id FROM dbos.executor") == executors
    async with client:
        await client.cancel_workflows([handle.id])
        assert (await client.retrieve(handle.id).status()).status is WorkflowStatus.CANCELLED


async def sessions(bench: Bench) -> list[Any]:
    return await bench.fetch_all(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'onceflow client' AND datname = current_database()"
    )


async def test_a_database_without_our_schema_or_server_is_refused(empty_database: str) -> None:
    with pytest.raises(ConfigurationError, match="processor migrate"):
        async with Client(empty_database):
            pass
    with pytest.raises(StoreUnavailableError, match="Postgres cannot be reached at 127.0.0.1:1"):
        async with Client("host=127.0.0.1 port=1 dbname=shop"):
            pass


# -- where it is called


async def test_a_client_is_used_in_steps_and_refused_in_a_workflows_own_code(database: str) -> None:
    """A replay would repeat the call: a step is remembered."""
    shop, app = Shop(), App("caller")
    client = Client(database)

    @app.step()
    async def buy() -> str:
        return (await client.start("buy", "o-1", id="bought")).id

    @app.step()
    def buy_in_thread() -> Any:
        return client.sync.start("buy", "o-1", id="bought").result()

    @app.workflow()
    async def run() -> Any:
        for call in (
            lambda: client.start("buy", "o-2"),
            lambda: client.enqueue("buy", "o-2", queue="mails"),
            lambda: client.send("bought", "hello"),
            lambda: client.get_event("bought", "state"),
            lambda: client.retrieve("bought").result(),
            client.list_workflows,
            client.queues.list,
        ):
            with pytest.raises(ConfigurationError, match=r"of a client in a workflow's own code"):
                await call()
        return [await buy(), await app.run_step(buy_in_thread)]

    async with client, Bench(shop.app, database, settings=SETTLED) as bench, Bench(app, database, executor="two"):
        await announced(bench)
        assert await run() == ["bought", {"order": "o-1", "cents": 1}]
        assert shop.calls == ["o-1"]


async def test_everything_is_there_for_programs_without_a_loop(bench: Bench, shop: Shop) -> None:
    """`SyncClient` brings its loop, and takes it away."""
    before = set(threading.enumerate())

    def program() -> None:
        with SyncClient(bench.dsn, actor="ada") as client:
            talking = client.start("talk", id="t")
            assert client.get_event("t", "state", model=str) == "waiting"
            client.send("t", "hello")
            assert list(client.read_stream("t", "log", model=int)) == [1, 2]
            assert talking.result() == "hello"
            receipt = client.enqueue("buy", "o-1", queue="mails", model=Receipt).result()
            assert receipt == Receipt("o-1", 1)
            assert [info.name for info in client.list_workflows()] == ["talk", "buy"]
            assert client.delete_workflows(["t"]).done == ["t"]
            client.queues.pause("mails", note="tired")
            assert [each.queue for each in client.queues.list() if each.is_paused] == ["mails"]
            client.queues.resume("mails", note="awake")
            assert client.schedules.list()[0].name == "close_day"
            assert client.retrieve(client.schedules.trigger("close_day")).result()
            assert client.dead_letters.list() == []
            with pytest.raises(ConfigurationError, match="there is no workflow"):
                client.start("nothing like it")
        with pytest.raises(ClientClosedError):
            client.list_workflows()

    while not await bench.fetch_all("SELECT FROM dbos.schedule"):
        await asyncio.sleep(0.005)
    thread = threading.Thread(target=program)
    failed: list[BaseException] = []
    thread.run = _caught(program, failed)  # type: ignore[method-assign]  # so that its assertions count
    thread.start()
    await until(lambda: not thread.is_alive())

    assert failed == []
    assert {each.name for each in set(threading.enumerate()) - before if "client" in each.name} == set()
    assert await bench.fetch_all("SELECT DISTINCT actor FROM dbos.audit") == [("ada",)]


def _caught(program: Any, failed: list[BaseException]) -> Any:
    def run() -> None:
        try:
            program()
        except BaseException as error:  # noqa: BLE001  # told to the test
            failed.append(error)

    return run


def test_it_is_imported_where_kafka_is_not_and_starts_nothing() -> None:
    """A program with a client need not have confluent_kafka, and gets no thread for an import."""
    program = """
import sys, threading

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "confluent_kafka":
            raise ImportError(f"{name} is absent")

sys.meta_path.insert(0, Absent())
import processor
from processor import Client, Settings, SyncClient
settings = Settings.model_validate({"postgres": {"dsn": "host=nowhere"}})
client = SyncClient(Client.from_settings(settings))
print(threading.active_count(), "confluent_kafka" in sys.modules, any(name.startswith("consumers") for name in sys.modules))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROCESSOR_")}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=environment
    )

    assert (ran.stdout.split(), ran.stderr) == (["1", "False", "False"], "")
