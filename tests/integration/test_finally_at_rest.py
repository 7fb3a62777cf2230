"""What the code calls while it is unwound, in a `finally:` above all, has no place in the history (I4)."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from processor import (
    App,
    Topic,
    Transaction,
    close_stream,
    deprecate_patch,
    get_event,
    now,
    patch,
    publish,
    random,
    read_stream,
    recv,
    send,
    set_event,
    sleep,
    sync,
    uuid4,
    write_stream,
)
from processor.testing import Bench
from tests.integration.protocol import PATIENCE_S

DAY = timedelta(days=1)
SHORT = timedelta(milliseconds=1)
topic = Topic("told", str)


class Ends:
    """Workflows that wait, call a step, and call something durable in a `finally:`, by its name."""

    def __init__(self) -> None:  # noqa: C901  # a list of calls
        self.app = app = App("ends")

        @app.step()
        async def note(what: str) -> str:
            return what

        @app.step()
        def note_sync(what: str) -> str:
            return what

        @app.transaction()
        async def count(tx: Transaction) -> int:
            return 1 if await tx.execute("SELECT 1") else 0

        @app.workflow()
        async def child() -> str:
            return "grown"

        @app.workflow()
        async def source() -> None:
            await write_stream("s", 1)
            await close_stream("s")
            await recv("never")

        async def patched() -> None:
            patch("p")

        async def deprecated() -> None:
            deprecate_patch("p")

        async def waited() -> None:
            with suppress(TimeoutError):
                await app.retrieve("source").result(timeout=SHORT)

        async def read() -> list[Any]:
            return [each async for each in read_stream("source", "s")]

        def waited_sync() -> None:
            with suppress(TimeoutError):
                app.sync.retrieve("source").result(timeout=SHORT)

        self.calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "step": lambda: note("last"),
            "run_step": lambda: app.run_step(lambda: 1, name="inline"),
            "transaction": count,
            "sleep": lambda: sleep(SHORT),
            "recv": lambda: recv("none", timeout=SHORT),
            "get_event": lambda: get_event("source", "none", timeout=SHORT),
            "result": waited,
            "set_event": lambda: set_event("e", 1),
            "send": lambda: send("source", 1, "other"),
            "publish": lambda: publish(topic, "said"),
            "start": child.start,
            "call": child,
            "now": now,
            "random": random,
            "uuid4": uuid4,
            "write_stream": lambda: write_stream("own", 1),
            "close_stream": lambda: close_stream("own"),
            "read_stream": read,
            "patch": patched,
            "deprecate_patch": deprecated,
        }
        self.sync_calls: dict[str, Callable[[], Any]] = {
            "step": lambda: note_sync("last"),
            "run_step": lambda: sync.run_step(lambda: 1, name="inline"),
            "transaction": lambda: sync.run_step(count),
            "sleep": lambda: sync.sleep(SHORT),
            "recv": lambda: sync.recv("none", timeout=SHORT),
            "get_event": lambda: sync.get_event("source", "none", timeout=SHORT),
            "result": waited_sync,
            "set_event": lambda: sync.set_event("e", 1),
            "send": lambda: sync.send("source", 1, "other"),
            "publish": lambda: sync.publish(topic, "said"),
            "start": child.start_sync,
            "now": sync.now,
            "random": sync.random,
            "uuid4": sync.uuid4,
            "write_stream": lambda: sync.write_stream("own", 1),
            "close_stream": lambda: sync.close_stream("own"),
            "read_stream": lambda: list(sync.read_stream("source", "s")),
            "patch": lambda: patch("p"),
            "deprecate_patch": lambda: deprecate_patch("p"),
        }

        @app.workflow()
        async def ends(call: str, seconds: float) -> str:
            try:
                await sleep(timedelta(seconds=seconds))
                return await note("between")
            finally:
                await self.calls[call]()

        @app.workflow()
        async def swallows(call: str, seconds: float) -> str:
            try:
                await sleep(timedelta(seconds=seconds))
                return await note("between")
            finally:
                with suppress(BaseException):
                    await self.calls[call]()
                await self.calls[call]()

        @app.workflow()
        def ends_sync(call: str, seconds: float) -> str:
            try:
                sync.sleep(timedelta(seconds=seconds))
                return note_sync("between")
            finally:
                self.sync_calls[call]()

        self.source = source
        self.workflows = {"async": ends, "swallows": swallows, "sync": ends_sync}


@pytest.mark.parametrize("kind", ["async", "swallows", "sync"])
async def test_what_is_called_in_a_finally_at_a_rest_leaves_no_place(database: str, kind: str) -> None:
    """I4: at rest there is the wait alone; the workflow ends with the history of one that has not rested."""
    ends = Ends()
    calls = list(ends.sync_calls if kind == "sync" else ends.calls)
    if kind == "swallows":
        calls.remove("close_stream")  # twice: an error of its own
    workflow = ends.workflows[kind]
    async with Bench(ends.app, database) as bench:
        await ends.source.start(id="source")
        straight = {call: await workflow.start(call, 0, id=f"straight-{call}") for call in calls}
        for handle in straight.values():
            assert await handle.result() == "between"
        rested = {call: await workflow.start(call, DAY.total_seconds(), id=f"rested-{call}") for call in calls}
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all(
                "SELECT FROM dbos.workflow_status WHERE workflow_uuid LIKE 'rested-%%'"
                " AND NOT (kafka_asleep AND owner_xid IS NULL)"
            ):
                await asyncio.sleep(0.02)
        for call, handle in rested.items():
            assert [step.name for step in await handle.steps()] == ["DBOS.sleep"], call
        await bench.advance(DAY)

        for call, handle in rested.items():
            assert await handle.result() == "between", call
            names = [step.name for step in await handle.steps()]
            assert names == [step.name for step in await straight[call].steps()], call
