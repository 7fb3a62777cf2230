"""Queues as operators meet them: pause and resume, what waits and who takes from it, settings, limits that change."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.inspection import connected, list_stranded
from engine.queue_acts import QueueError, list_queues, pause, resume
from engine.store.queues import QueueDepth
from engine.telemetry import QueueTaken
from processor import App, ConfigurationError, Queue, Settings
from processor.gauges import engine_gauges
from processor.testing import Bench
from processor.wiring import listened
from tests.integration.protocol import FAST, PATIENCE_S, until
from tests.integration.test_cli import command
from tests.integration.test_queue_limits import Floor, Hall


async def acted(bench: Bench, act: Any, *args: Any, **kwargs: Any) -> Any:
    async with connected(bench.settings) as connection:
        return await act(connection, "dbos", *args, **kwargs)


async def depth_of(bench: Bench, name: str) -> QueueDepth:
    return next(depth for depth in await acted(bench, list_queues) if depth.queue == name)


async def test_a_paused_queue_starts_nothing_and_goes_on_where_it_was(database: str) -> None:
    """What has started goes on; every act is recorded; a second one of the kind is refused with the reason."""
    queue, floor = Queue("q", concurrency=1), Floor()
    hall = Hall(floor, "one", queue)
    floor.shut.add("a-0")
    async with Bench(hall.app, database, settings=FAST) as bench:
        await queue.enqueue(hall.task, "a-0")
        await until(floor.running)
        await acted(bench, pause, "q", note="provider is down", actor="ada")
        for n in range(1, 3):
            await queue.enqueue(hall.task, f"a-{n}")
        floor.shut.clear()
        await bench.settle()
        assert floor.order == ["a-0"]
        depth = await depth_of(bench, "q")
        assert (depth.ready, depth.places, depth.is_paused, depth.listeners) == (2, 0, True, 1)
        with pytest.raises(QueueError, match=r"queue 'q' is paused already"):
            await acted(bench, pause, "q", note="again")
        with pytest.raises(QueueError, match=r"there is no queue 'other'"):
            await acted(bench, pause, "other", note="n")
        await acted(bench, resume, "q", note="it is back")
        await until(lambda: floor.order == ["a-0", "a-1", "a-2"])

        audit = await bench.fetch_all(
            "SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit ORDER BY audit_id"
        )
        assert audit == [
            ("ada", "pause queue", "q", "provider is down"),
            ("operator", "resume queue", "q", "it is back"),
        ]


async def test_what_waits_is_counted_by_one_process(database: str) -> None:
    """Depth, oldest, delayed, places, listeners; starts with their waits as events."""
    queue, floor = Queue("q", concurrency=1), Floor()
    hall = Hall(floor, "one", queue)
    floor.shut.add("all")
    async with Bench(hall.app, database, settings=FAST) as bench:
        await queue.enqueue(hall.task, "a-0")
        await until(floor.running)
        await queue.enqueue(hall.task, "a-1")
        await queue.having(delay=timedelta(days=1)).enqueue(hall.task, "a-2")
        await Queue("elsewhere").enqueue(hall.task, "a-3")
        await bench.engine.depths.look_at_queues()

        samples = engine_gauges(bench.engine.snapshot(), bench.settings.lease, 4_000_000_000)
        assert samples["queue_depth"] == [(("_dbos_internal_queue",), 0), (("elsewhere",), 1), (("q",), 1)]
        assert dict(samples["queue_places"])[("q",)] == 1
        assert dict(samples["queue_delayed"])[("q",)] == 1
        assert dict(samples["queue_listeners"]) == {("_dbos_internal_queue",): 1, ("elsewhere",): 0, ("q",): 1}
        assert dict(samples["queue_oldest_seconds"])[("q",)] > 1_000_000_000
        taken = [event for event in bench.events if isinstance(event, QueueTaken)]
        assert [(event.queue, event.reason, event.count, len(event.waits_s)) for event in taken] == [
            ("q", "ready", 1, 1)
        ]
        floor.shut.clear()


async def test_a_workflow_from_whose_queue_nobody_takes_is_listed_with_that_reason(database: str) -> None:
    """I8: it has begun, its code is there, and it waits for a process that takes from its queue."""
    queue, floor = Queue("gpu"), Floor()
    async with Bench(Hall(floor, "one", queue).app, database, executor="one", settings=FAST) as bench:
        hall = Hall(floor, "one", queue)
        await queue.having(id="w").enqueue(hall_of(bench, hall).nap, "a-0")
        async with asyncio.timeout(PATIENCE_S):
            while not await bench.fetch_all("SELECT 1 FROM dbos.workflow_status WHERE kafka_asleep"):
                await asyncio.sleep(0.02)
    async with Bench(Hall(floor, "two").app, database, executor="two", settings=FAST) as bench:
        rows = await acted(bench, list_stranded)

        assert [(row.workflow_id, row.reason) for row in rows] == [("w", "no live executor takes from its queue 'gpu'")]


def hall_of(bench: Bench, hall: Hall) -> Hall:
    """A hall whose app runs on a bench's engine: enqueueing needs no registration."""
    hall.app.engines.append(bench.engine)
    return hall


async def test_all_obey_the_limits_of_whoever_started_last(database: str) -> None:
    """A deployment with another limit is never half in force."""
    floor = Floor()
    floor.shut.add("all")
    one = Hall(floor, "one", Queue("q", concurrency=1))
    two = Hall(floor, "two", Queue("q", concurrency=4))
    async with Bench(one.app, database, executor="one", settings=FAST) as first:
        for n in range(6):
            await Queue("q").enqueue(one.task, f"a-{n}")
        await until(floor.running)
        assert len(floor.running()) == 1
        async with Bench(two.app, database, executor="two", settings=FAST):
            await until(lambda: len(floor.running()) == 4)
            limits = await first.fetch_all("SELECT concurrency FROM dbos.queue WHERE queue_name = 'q'")
            assert limits == [(4,)]
            floor.shut.clear()
            await until(lambda: len(floor.order) == 6)


def test_a_process_takes_from_what_its_settings_name() -> None:
    """Of those that the app registers; another name is refused with theirs."""
    app = App("shop")
    for name in ("a", "b"):
        app.register_queue(Queue(name))

    def names(chosen: list[str] | None) -> list[str]:
        return [spec.name for spec in listened(app, Settings.model_validate({"queues": {"listen": chosen}}))]

    assert names(None) == ["a", "b"]
    assert names(["b"]) == ["b"]
    assert names([]) == []
    with pytest.raises(ConfigurationError, match=r"queues.listen has 'c', and app 'shop' registers 'a', 'b'"):
        names(["c"])


def test_queues_are_registered_once_and_have_sensible_limits() -> None:
    """Bad limits name the queue and the option."""
    app = App("shop")
    app.register_queue(Queue("a"))
    with pytest.raises(ConfigurationError, match=r"queue 'a' is registered twice in app 'shop'"):
        app.register_queue(Queue("a"))
    with pytest.raises(ConfigurationError, match=r"'_dbos_internal_queue' is the official client's"):
        app.register_queue(Queue("_dbos_internal_queue"))
    untyped: Any = Queue
    for options, match in (
        ({"name": ""}, r"queue '': a name of 1 to 200"),
        ({"name": "q", "concurrency": 0}, r"queue 'q': concurrency is 0: a whole number"),
        ({"name": "q", "worker_concurrency": True}, r"queue 'q': worker_concurrency is True"),
        ({"name": "q", "concurrency": 1, "worker_concurrency": 2}, r"worker_concurrency=2 of one process is more"),
        ({"name": "q", "limit": 5}, r"limit=5 is no pair"),
        ({"name": "q", "limit": (5, 3)}, r"limit=\(5, 3\) is no pair"),
        ({"name": "q", "limit": (0, timedelta(seconds=1))}, r"the starts of its limit is 0"),
        ({"name": "q", "limit": (1, timedelta(0))}, r"the period of its limit"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            untyped(**options)


async def test_the_command_lists_pauses_and_resumes(database: str, tmp_path: Path) -> None:
    """As operators meet it."""
    env = {"PROCESSOR_POSTGRES_DSN": database}
    hall = Hall(Floor(), "one", Queue("mails"))
    async with Bench(hall.app, database) as bench, asyncio.timeout(PATIENCE_S):
        while not await bench.fetch_all("SELECT 1 FROM dbos.queue WHERE queue_name = 'mails'"):
            await asyncio.sleep(0.02)

    paused = await asyncio.to_thread(command, tmp_path, "queues", "pause", "mails", "--note", "n", env=env)
    listed = await asyncio.to_thread(command, tmp_path, "queues", "list", "--json", env=env)
    refused = await asyncio.to_thread(command, tmp_path, "queues", "pause", "mails", "--note", "n", env=env)
    resumed = await asyncio.to_thread(command, tmp_path, "queues", "resume", "mails", "--note", "n", env=env)

    assert paused.stdout == "queue mails is paused\n"
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["queue"], row["state"]) for row in rows] == [("_dbos_internal_queue", "open"), ("mails", "paused")]
    assert (refused.returncode, refused.stderr) == (2, "processor: queue 'mails' is paused already\n")
    assert resumed.stdout == "queue mails goes on\n"
