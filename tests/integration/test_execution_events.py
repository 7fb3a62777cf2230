"""The event bus of executions: order, history, late subscribers, other programs (decision 0016)."""

import asyncio
from contextlib import aclosing

import psycopg
import pytest

from engine.execution_events import ExecutionEvent, ExecutionEventBus, ExecutionNotFoundError
from engine.execution_rows import Execution, ExecutionOptions, ExecutionStatus
from engine.executions import ExecutionStore, UpdateExecutionStatusParams
from engine.payloads import PayloadKeys
from engine.settings import EngineSettings
from processor import ConfigurationError
from processor.testing import Bench
from tests.integration.flows import Summarising, ended, store_of
from tests.integration.protocol import PATIENCE_S


def execution(id: str = "e-1") -> Execution:
    return Execution(id=id, flow_id="summarise", owner_id="ada")


async def set_status(store: ExecutionStore, id: str, status: ExecutionStatus) -> None:
    assert await store.update_execution_status(UpdateExecutionStatusParams(execution_id=id, status=status))


async def taken(bus: ExecutionEventBus, id: str, *, from_index: int = 0) -> list[ExecutionEvent]:
    """All of a subscription that ends."""
    async with asyncio.timeout(PATIENCE_S):
        return [event async for event in bus.subscribe(id, from_index=from_index)]


def statuses(events: list[ExecutionEvent]) -> list[str]:
    return [event.data["status"] for event in events if event.type == "status"]


async def test_a_subscriber_that_comes_late_has_everything_and_one_that_comes_back_the_rest(database: str) -> None:
    async with store_of(database) as store:
        bus = ExecutionEventBus(store)
        await store.create(execution())
        await store.claim_execution("e-1", "w", 60_000)
        await set_status(store, "e-1", ExecutionStatus.RUNNING)
        await set_status(store, "e-1", ExecutionStatus.COMPLETED)

        everything = await taken(bus, "e-1")
        rest = await taken(bus, "e-1", from_index=1)

    assert statuses(everything) == ["created", "running", "completed"]
    assert [event.data["previous"] for event in everything] == [None, "created", "running"]
    assert [event.index for event in everything] == [0, 1, 2]
    assert rest == everything[1:]


async def test_a_subscriber_in_another_process_sees_each_change_as_it_comes(database: str) -> None:
    async with store_of(database) as store, store_of(database) as other:
        await store.create(execution())
        seen: asyncio.Queue[str] = asyncio.Queue()

        async def follow() -> None:
            async for event in ExecutionEventBus(other).subscribe("e-1"):
                seen.put_nowait(event.data["status"])

        following = asyncio.create_task(follow())
        async with asyncio.timeout(PATIENCE_S):
            assert await seen.get() == "created"
            await store.claim_execution("e-1", "w", 60_000)
            await set_status(store, "e-1", ExecutionStatus.RUNNING)
            assert await seen.get() == "running"
            await set_status(store, "e-1", ExecutionStatus.FAILED)
            assert await seen.get() == "failed"
            await following


async def test_subscribers_look_for_themselves_where_nobody_tells_them(database: str) -> None:
    """The listening connection is cut; NOTIFY is a hint only."""
    async with store_of(database) as store:
        bus = ExecutionEventBus(store)
        await store.create(execution())
        following = asyncio.create_task(taken(bus, "e-1"))
        with psycopg.connect(database, autocommit=True) as connection:
            cut: list[tuple[bool]] = []
            async with asyncio.timeout(PATIENCE_S):
                while not cut:
                    await asyncio.sleep(0.02)
                    cut = connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'onceflow events' AND datname = current_database()"
                    ).fetchall()
        await store.claim_execution("e-1", "w", 60_000)
        await set_status(store, "e-1", ExecutionStatus.COMPLETED)

        assert statuses(await following) == ["created", "completed"]


async def test_what_an_engine_and_other_programs_change_is_told_too(database: str) -> None:
    """The trigger sees every hand: a flush, and an UPDATE as the official client's."""
    flows = Summarising()
    async with store_of(database) as store, Bench(flows.app, database):
        await flows.run(store, execution("e-1"))
        await store.create(execution("e-2"))
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE dbos.workflow_status SET status = 'CANCELLED' WHERE workflow_uuid = 'e-2'")
        await ended(store, "e-1")
        bus = ExecutionEventBus(store)

        assert statuses(await taken(bus, "e-1")) == ["created", "running", "completed"]
        assert statuses(await taken(bus, "e-2")) == ["created", "stopped"]


async def test_events_of_many_writers_have_places_without_gaps(database: str) -> None:
    async with store_of(database) as store, store_of(database) as other:
        await store.create(execution())
        buses = [ExecutionEventBus(store), ExecutionEventBus(other)]

        places = await asyncio.gather(*(buses[n % 2].publish("e-1", "progress", {"n": n}) for n in range(40)))

        events = await buses[0].history("e-1")
    assert sorted(place for place in places if place is not None) == list(range(1, 41))
    assert [event.index for event in events] == list(range(41))
    assert [event.position for event in events] == sorted(event.position for event in events)
    assert {event.data["n"] for event in events[1:]} == set(range(40))


async def test_a_subscriber_to_all_loses_nothing_that_is_committed_late(database: str) -> None:
    """A transaction that drew its number first commits last: what came after it is held back until then."""
    async with store_of(database) as store:
        bus = ExecutionEventBus(store)
        for id in ("e-1", "e-2"):
            await store.create(execution(id))
        start = await bus.position()
        seen: list[tuple[str, str]] = []

        async def follow() -> None:
            async with aclosing(bus.subscribe_all(after=start)) as events:
                async for event in events:
                    seen.append((event.execution_id, event.type))
                    if len(seen) == 3:
                        return

        following = asyncio.create_task(follow())
        with psycopg.connect(database) as slow:
            slow.execute("SELECT dbos.append_execution_event('e-1', 'slow', '{}')")
            await bus.publish("e-2", "quick", {})
            assert [event.type for event in await bus.history("e-2")] == ["status", "quick"]
            assert seen == []
            slow.commit()
        await bus.publish("e-2", "later", {})
        async with asyncio.timeout(PATIENCE_S):
            await following

    assert seen == [("e-1", "slow"), ("e-2", "quick"), ("e-2", "later")]


async def test_a_worker_that_lost_its_claim_publishes_nothing(database: str) -> None:
    """P7: as with everything else it writes."""
    async with store_of(database) as store, store_of(database) as other:
        await store.create(execution())
        await store.claim_execution("e-1", "w-1", 60_000)
        bus = ExecutionEventBus(store)
        assert await bus.publish("e-1", "progress", {"percent": 10}) == 1
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE dbos.executor SET lease_until = 0")
        assert await other.claim_execution("e-1", "w-2", 60_000)

        assert await bus.publish("e-1", "progress", {"percent": 20}) is None

        assert [event.type for event in await bus.history("e-1")] == ["status", "progress"]


@pytest.mark.parametrize("event_type", ["", "status", "paused", "a\nb", "x" * 101])
async def test_an_event_without_a_type_of_its_own_is_refused(database: str, event_type: str) -> None:
    async with store_of(database) as store:
        await store.create(execution())
        with pytest.raises(ConfigurationError, match="event_type"):
            await ExecutionEventBus(store).publish("e-1", event_type, {})


async def test_there_is_nothing_to_say_or_hear_of_an_execution_that_is_not_there(database: str) -> None:
    async with store_of(database) as store:
        bus = ExecutionEventBus(store)
        with pytest.raises(ExecutionNotFoundError, match="'e-1'"):
            await bus.publish("e-1", "progress", {})
        with pytest.raises(ExecutionNotFoundError, match="'e-1'"):
            await taken(bus, "e-1")
        with pytest.raises(ConfigurationError, match="data cannot be written as JSON"):
            await bus.publish("e-1", "progress", {"n": float("inf")})


async def test_what_users_publish_is_sealed(database: str) -> None:
    """Decision 0012."""
    keys = PayloadKeys({"k": bytes(32)}, "k")
    async with ExecutionStore(EngineSettings(conninfo=database, payload_keys=keys)) as store:
        await store.create(execution())
        bus = ExecutionEventBus(store)
        await bus.publish("e-1", "answer", {"text": "secret"})

        assert (await bus.history("e-1"))[1].data == {"text": "secret"}
    with psycopg.connect(database) as connection:
        assert "secret" not in str(connection.execute("SELECT v::text FROM dbos.execution_event v").fetchall())


async def test_other_workflows_have_no_events(database: str) -> None:
    """And cost nothing: the trigger's condition is false for them."""
    flows = Summarising()
    async with Bench(flows.app, database) as bench:
        started = Execution(id="no row", flow_id="summarise", owner_id="ada", options=ExecutionOptions())
        assert await (await flows.summarise.start(started, id="w-1")).result() == "WHY"
        assert await bench.fetch_all("SELECT * FROM dbos.execution_event") == []
