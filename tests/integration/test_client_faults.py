"""`processor.Client` where something goes wrong, and where it is called from (P8, P24, decision 0020)."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from engine import waits
from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from processor import (
    App,
    Client,
    ClientClosedError,
    ConfigurationError,
    StoreUnavailableError,
    SyncClient,
    UnreadablePayloadError,
    WorkflowStatus,
)
from processor.testing import Bench
from tests.fixtures.proxy import losing_proxy
from tests.integration.client_shop import KEY, SETTLED, Receipt, Shop, announced
from tests.integration.protocol import until


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
