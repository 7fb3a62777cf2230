"""Streams of workflows: values at offsets without gaps, each once, whatever crashes (I4; P17, P31)."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from engine.streams import CHUNK_BYTES_MAX, CHUNK_MAX, CLOSED
from engine.transactional import NotInWorkflowError
from processor import (
    App,
    Retry,
    StreamClosedError,
    Topic,
    WorkflowNotFoundError,
    close_stream,
    read_stream,
    recv,
    sleep,
    sync,
    write_stream,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import STARTS, STEPS
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, PATIENCE_S
from tests.integration.talking import at_rest, deaf, history, started
from tests.integration.test_rest import until_status

DAY = timedelta(days=1)


class Line(BaseModel):
    n: int


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, key=lambda order: order.order_id)


class Press:
    """Workflows that write lines, before and behind a message, and others that read them."""

    def __init__(self) -> None:
        self.app = app = App("press")
        self.calls: Counter[int] = Counter()

        @app.step()
        async def proof(n: int) -> None:
            self.calls[n] += 1

        async def lines(count: int) -> None:
            for n in range(count):
                if n == count // 2:
                    await recv("go")
                await write_stream("lines", Line(n=n))
                await write_stream("others", n)
                await proof(n)

        @app.workflow(version="1")
        async def writer(count: int, end: str) -> None:
            await lines(count)
            if end == "closed":
                await close_stream("lines")
                await recv("end")

        @app.workflow(on=orders, version="1")
        async def by_order(order: Order) -> None:
            del order
            await lines(4)

        @app.workflow(version="1")
        async def reader(workflow_id: str) -> list[int]:
            return [line.n async for line in read_stream(workflow_id, "lines", model=Line)]

        self.writer, self.reader = writer, reader


@pytest.fixture
def press() -> Press:
    return Press()


async def stored(bench: Bench, workflow_id: str, key: str = "lines") -> list[tuple[Any, ...]]:
    return await bench.fetch_all(
        'SELECT "offset", value, function_id FROM dbos.streams WHERE workflow_uuid = %s AND key = %s ORDER BY 1',
        (workflow_id, key),
    )


async def read_all(app: App, workflow_id: str) -> list[int]:
    return [line.n async for line in app.read_stream(workflow_id, "lines", model=Line)]


@pytest.mark.parametrize("end", ["closed", "ended"])
async def test_a_stream_is_read_while_it_is_written_and_ends(database: str, press: Press, end: str) -> None:
    """Closed, or left open by a workflow that has ended; the tables and names are the seed's."""
    async with Bench(press.app, database) as bench:
        handle = await press.writer.start(4, end, id="w")
        reader = handle.read_stream("lines", model=Line)
        assert [(await anext(reader)).n, (await anext(reader)).n] == [0, 1]
        following = await press.reader.start("w", id="r")
        await handle.send(None, "go")

        assert [line.n async for line in reader] == [2, 3]
        assert reader.offset == 4
        assert await following.result() == [0, 1, 2, 3]
        assert await read_all(press.app, "w") == [0, 1, 2, 3]
        assert [value async for value in press.app.read_stream("w", "lines", offset=3)] == [{"n": 3}]
        last = [(4, f'"{CLOSED}"', 14)] if end == "closed" else []
        assert await stored(bench, "w") == [
            (0, '{"n":0}', 1),
            (1, '{"n":1}', 4),
            (2, '{"n":2}', 8),
            (3, '{"n":3}', 11),
            *last,
        ]
        names = [row[1] for row in await history(bench, "w")]
        assert names[:3] == ["DBOS.writeStream", "DBOS.writeStream", "proof"]
        assert ("DBOS.closeStream" in names) is (end == "closed")


@pytest.mark.parametrize("hears", [True, False], ids=["with NOTIFY", "without"])
@pytest.mark.parametrize("rests", [False, True], ids=["in memory", "at rest"])
async def test_a_stream_is_read_in_another_process(database: str, *, hears: bool, rests: bool) -> None:
    """By a workflow that rests while nothing comes, and outside."""
    here, there = Press(), Press()
    async with (
        Bench(here.app, database, executor="one", settings=FAST) as one,
        Bench(there.app, database, executor="two", settings=FAST) as two,
    ):
        if not hears:
            deaf(one)
            deaf(two)
        await here.writer.start(4, "closed", id="w")
        handle = await there.reader.start("w")
        outside = asyncio.ensure_future(read_all(there.app, "w"))
        if rests:
            await at_rest(one, 2)
            places = await one.fetch_all("SELECT kind, place FROM dbos.waiting WHERE target = 'w' ORDER BY 1")
            assert places == [("message", 0), ("result", 0), ("stream", 2)]
        await here.app.send("w", None, "go")
        async with asyncio.timeout(PATIENCE_S):
            assert await handle.result() == [0, 1, 2, 3]
            assert await outside == [0, 1, 2, 3]


@pytest.mark.crash_points(*STARTS, *STEPS)
async def test_a_crash_anywhere_writes_and_reads_every_value_once(
    database: str, press: Press, crash_point: CrashPoint | None
) -> None:
    """I4, P31: offsets without gaps, with a source and without; a reader gets what its first run got, and what follows."""
    async with Bench(press.app, database) as bench:
        await bench.deliver(orders, Order(order_id="o"))
        writers = ["w-0", "w-1", "orders-0-0"]
        for writer in writers[:2]:
            await press.writer.start(4, "ended", id=writer)
        await until_status(bench, "PENDING", 3)
        bench.crash(at=crash_point)
        for n, writer in enumerate(writers):
            await started(bench, lambda n=n, of=writer: press.reader.start(of, id=f"r-{n}"))
            await started(bench, lambda of=writer: press.app.send(of, None, "go", idempotency_key="k"))
        await bench.settle()
        await until_status(bench, "SUCCESS", 6)

        for writer in writers:
            for key, text in (("lines", '{{"n":{}}}'), ("others", "{}")):
                values = [row[:2] for row in await stored(bench, writer, key)]
                assert values == [(n, text.format(n)) for n in range(4)]
        read = await bench.fetch_all("SELECT output FROM dbos.workflow_status WHERE name = 'reader'")
        assert read == [("[0,1,2,3]",)] * 3


async def test_a_replay_reads_the_chunks_of_the_first_run(database: str) -> None:
    """What was read is remembered: the code behind it takes the same way, whatever was written since."""
    app = App("press")

    @app.workflow()
    async def writer() -> None:
        for n in range(250):
            await write_stream("lines", n)
            if n == 1:
                await recv()

    @app.workflow()
    async def reader(workflow_id: str) -> list[int]:
        lines = read_stream(workflow_id, "lines", model=int)
        first = [await anext(lines), await anext(lines)]
        await sleep(DAY)
        return first + [line async for line in lines]

    async with Bench(app, database) as bench:
        await writer.start(id="w")
        await at_rest(bench)
        handle = await reader.start("w", id="r")
        await at_rest(bench, 2)
        await app.send("w", None)
        await until_status(bench, "SUCCESS")
        await bench.advance(DAY)

        assert await handle.result() == list(range(250))
        read = [output for _, name, output in await history(bench, "r") if name == "DBOS.readStream"]
        assert read[0] == '{"values": [0, 1], "is_last": false}'
        assert [len(output.split(", ")) - 1 for output in read[1:]] == [CHUNK_MAX, CHUNK_MAX, 48, 1]


async def test_large_values_are_read_a_few_at_a_time(database: str) -> None:
    """I10: a chunk is bounded in bytes; one value may be larger."""
    app = App("press")

    @app.workflow()
    async def writer() -> None:
        for size in (10, CHUNK_BYTES_MAX + 10, 10, 10):
            await write_stream("lines", "x" * size)

    @app.workflow()
    async def reader(workflow_id: str) -> list[int]:
        return [len(line) async for line in read_stream(workflow_id, "lines", model=str)]

    async with Bench(app, database) as bench:
        await (await writer.start(id="w")).result()
        handle = await reader.start("w", id="r")

        assert await handle.result() == [10, CHUNK_BYTES_MAX + 10, 10, 10]
        assert len(await history(bench, "r")) == 3


async def test_steps_write_in_commits_of_their_own_and_again_when_they_run_again(database: str) -> None:
    """Seen while the step runs; beside the workflow's own, no offset is given twice."""
    app = App("press")
    tries: list[int] = []

    @app.step(retry=Retry(attempts=2, first_delay=timedelta(0)))
    async def build(name: str) -> None:
        await write_stream("lines", f"{name} begun")
        if name == "a" and not tries:
            tries.append(1)
            raise ConnectionError
        await write_stream("lines", f"{name} built")

    @app.workflow()
    async def writer() -> None:
        await write_stream("lines", "begun")
        await asyncio.gather(build("a"), write_stream("lines", "between"), build("b"))
        await write_stream("lines", "done")

    async with Bench(app, database) as bench:
        await (await writer.start(id="w")).result()

        rows = await stored(bench, "w")
        assert [row[0] for row in rows] == list(range(8))
        assert Counter(row[1] for row in rows) == Counter(
            f'"{line}"' for line in ("begun", "between", "done", "a begun", "a begun", "a built", "b begun", "b built")
        )
        assert (rows[0][1], rows[-1][1]) == ('"begun"', '"done"')
        by_place = Counter(row[2] for row in rows)
        assert by_place == {1: 1, 2: 3, 3: 1, 4: 2, 5: 1}


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_leaves_no_gap_and_no_second_value(database: str, side: str) -> None:
    """P24, P31."""
    app = App("press")

    @app.workflow()
    async def writer(count: int) -> None:
        for n in range(count):
            await write_stream("lines", n)
            if n % 10 == 0:
                await sleep(timedelta(milliseconds=1))

    async with losing_proxy(database) as (proxy, dsn), Bench(app, dsn) as bench:
        proxy.marker = b"row_number"
        for n in range(6):
            proxy.lose_commits += side == "reply" and n % 2 == 0
            proxy.lose_requests += side == "request" and n % 2 == 0
            await (await writer.start(30, id=f"w-{n}")).result()

        assert proxy.lost == 3
        for n in range(6):
            assert [row[:2] for row in await stored(bench, f"w-{n}")] == [(k, f"{k}") for k in range(30)]


async def test_what_is_written_behind_the_end_is_refused_in_every_replay(database: str) -> None:
    app = App("press")

    @app.step()
    async def tell() -> None:
        await write_stream("lines", 2)

    @app.workflow()
    async def writer() -> list[str]:
        await write_stream("lines", 1)
        await close_stream("lines")
        said: list[str] = []
        for call in (lambda: write_stream("lines", 2), lambda: close_stream("lines"), tell):
            try:
                await call()
            except StreamClosedError as error:
                said.append(f"{error}")
        await write_stream("others", 1)
        await sleep(DAY)
        return said

    async with Bench(app, database) as bench:
        handle = await writer.start(id="w")
        await at_rest(bench)
        await bench.advance(DAY)

        assert await handle.result() == ["workflow w: it has closed its stream 'lines'"] * 3
        assert [row[1] for row in await stored(bench, "w")] == ["1", f'"{CLOSED}"']


async def test_sync_workflows_write_and_read(database: str) -> None:
    app = App("press")

    @app.step()
    def build() -> None:
        sync.write_stream("lines", 2)

    @app.workflow()
    def writer() -> None:
        sync.write_stream("lines", 1)
        build()
        sync.close_stream("lines")

    @app.workflow()
    def reader(workflow_id: str) -> list[int]:
        return list(sync.read_stream(workflow_id, "lines", model=int))

    async with Bench(app, database):
        handle = await writer.start()

        assert await (await reader.start(handle.id)).result() == [1, 2]
        waiting = writer.start_sync
        threads = await asyncio.to_thread(lambda: list(waiting(id="w").read_stream("lines")))  # type: ignore[call-arg]
        assert threads == [1, 2]


async def test_a_stream_of_nobody_and_of_nothing(database: str, press: Press) -> None:
    async with Bench(press.app, database):
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await read_all(press.app, "nobody")
        reading = await press.reader.start("nobody", id="r")
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await reading.result()
        assert await read_all(press.app, "r") == []
        with pytest.raises(NotInWorkflowError, match="write_stream"):
            await write_stream("lines", 1)
        with pytest.raises(ValueError, match="offset -1"):
            press.app.read_stream("r", "lines", offset=-1)
