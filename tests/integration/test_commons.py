"""The commons with two executors: who may run a workflow without a source, and who may write for it (P7, P29)."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from engine.clock import now_ms
from engine.crashpoints import CrashPoint, armed
from engine.ids import WorkflowId, new_token
from engine.inspection import list_stranded
from engine.migrations import migrate
from engine.pool import connect
from engine.runner import Standing
from engine.settings import EngineSettings
from engine.starts import Start
from engine.store.starts import start
from engine.store.statement import send
from processor import (
    App,
    RecoveryExceededError,
    WorkflowCancelledError,
    WorkflowStatus,
    sleep,
)
from processor.testing import Bench
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, PATIENCE_S
from tests.integration.test_rest import Order, Reminders, orders, until_status

DAY = timedelta(days=1)


class Steps:
    """A workflow of two steps with a gate before the second; each process has its own, in the same code."""

    def __init__(self) -> None:
        self.app = app = App("steps")
        self.calls: Counter[str] = Counter()
        self.gate = asyncio.Event()

        @app.step()
        async def first(n: int) -> int:
            self.calls[f"first {n}"] += 1
            return n

        @app.step()
        async def second(n: int) -> int:
            self.calls[f"second {n}"] += 1
            await self.gate.wait()
            return n * 10

        @app.workflow(version="1")
        async def both(n: int) -> int:
            return await second(await first(n))

        @app.workflow(version="1")
        async def naps(n: int) -> int:
            await sleep(DAY)
            return await first(n)

        self.both, self.naps = both, naps


async def until(condition: object) -> None:
    """Wait until something is so."""
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_dead_executors_workflows_go_on_elsewhere_behind_their_last_step(database: str) -> None:
    """I4, I8, P29: taken in the order they were created, under a new owner, with a row of history for each."""
    one, two = Steps(), Steps()
    two.gate.set()
    async with Bench(two.app, database, executor="two", settings=FAST) as living:
        async with Bench(one.app, database, executor="one", settings=FAST) as dying:
            handles = [await one.both.start(n, id=f"w-{n}") for n in range(5)]
            await until(lambda: one.calls["second 4"])
            dead = dying.engine.executor_id
            owners = await dying.fetch_all("SELECT DISTINCT owner_xid FROM dbos.workflow_status")
            dying.cut()
            await dying.engine.abort()

            await until_status(living, "SUCCESS", 5)

        assert [await two.both.retrieve(handle.id).result() for handle in handles] == [n * 10 for n in range(5)]
        assert two.calls == {f"second {n}": 1 for n in range(5)}
        history = await living.fetch_all(
            "SELECT workflow_uuid, worker_id, reason, previous_status, previous_worker_id FROM dbos.recovery ORDER BY 1"
        )
        assert history == [(f"w-{n}", living.engine.executor_id, "executor dead", "PENDING", dead) for n in range(5)]
        assert owners


async def test_a_zombies_writes_match_no_row(database: str) -> None:
    """I6, P7: declared dead while its step runs, what it records and how it ends is refused; the other's result stands."""
    one, two = Steps(), Steps()
    two.gate.set()
    async with Bench(two.app, database, executor="two", settings=FAST) as living:
        async with Bench(one.app, database, executor="one", settings=FAST) as zombie:
            await one.both.start(1, id="w")
            await until(lambda: one.calls["second 1"])
            zombie.engine.lease.is_held_back = True

            await until_status(living, "SUCCESS")
            one.gate.set()
            await until(lambda: not zombie.engine.commons.runs)
            zombie.engine.lease.is_held_back = False

        assert await two.both.retrieve("w").result() == 10
        steps = await two.both.retrieve("w").steps()
        assert [(step.name, step.output) for step in steps] == [("first", "1"), ("second", "10")]


async def test_a_stop_hands_over_at_once(database: str) -> None:
    """P11, P12: what rests or runs is ownerless when its process has gone; nobody waits for a lease, or blames it."""
    one, two = Steps(), Steps()
    two.gate.set()
    slow = replace(FAST, lease=timedelta(seconds=60), heartbeat=timedelta(seconds=1))
    async with Bench(two.app, database, executor="two", settings=slow) as other:
        async with Bench(one.app, database, executor="one", settings=slow):
            for n in range(3):
                await one.both.start(n, id=f"w-{n}")
            await until(lambda: one.calls["second 2"])
            asyncio.get_running_loop().call_later(0.2, one.gate.set)

        await until_status(other, "SUCCESS", 3)
        attempts = await other.fetch_all("SELECT DISTINCT recovery_attempts FROM dbos.workflow_status")
        assert attempts == [(0,)]
        assert await other.fetch_all("SELECT count(*) FROM dbos.recovery") == [(0,)]
        ran_twice = [name for name in one.calls if two.calls[name]]
        assert not ran_twice


async def test_a_sleeper_is_woken_by_whoever_has_room(database: str) -> None:
    """P29: the process it went to sleep in need not live any more; its sleep is as long as it was."""
    one, two = Steps(), Steps()
    async with Bench(one.app, database, executor="one", settings=FAST) as first:
        await one.naps.start(7, id="w")
        await first.settle()
        await until(lambda: not first.engine.commons.runs)
    async with Bench(two.app, database, executor="two", settings=FAST) as second:
        await second.settle()
        assert two.calls == {}
        await second.advance(DAY)

        assert await two.naps.retrieve("w").result() == 7


async def test_two_executors_never_take_the_same_row(database: str) -> None:
    """P29: SKIP LOCKED batches and a token for each; every sleeper runs in exactly one process."""
    one, two = Steps(), Steps()
    settings = replace(FAST, in_flight_max=20)
    async with (
        Bench(one.app, database, executor="one", settings=settings) as first,
        Bench(two.app, database, executor="two", settings=settings) as second,
    ):
        ids = [f"w-{n}" for n in range(300)]
        rows = [
            Start(id=WorkflowId(i), name="naps", version="1", inputs=f'{{"args": [{n}]}}', wake_at=now_ms() + 500)
            for n, i in enumerate(ids)
        ]
        async with await connect(first.settings, "test") as connection:
            await send(
                connection,
                "dbos",
                start(rows, executor_id=first.engine.executor_id, inputs_inline_max=1_000),
            )
        await until_status(first, "PENDING", 300)
        async with asyncio.timeout(PATIENCE_S):
            while (await first.fetch_all("SELECT count(*) FROM dbos.workflow_status WHERE kafka_asleep")) != [(300,)]:
                await asyncio.sleep(0.05)
        await first.advance(DAY)
        second.engine.scan.hint()

        await until_status(first, "SUCCESS", 300)
        assert one.calls + two.calls == Counter({f"first {n}": 1 for n in range(300)})
        recorded = await first.fetch_all("SELECT count(*) FROM dbos.operation_outputs")
        assert recorded == [(600,)]


async def test_a_cancelled_workflow_begins_no_further_step(database: str) -> None:
    """P7: the row is CANCELLED in one commit; its process hears of it, and what its running step returns is dropped."""
    one, two = Steps(), Steps()
    async with (
        Bench(one.app, database, executor="one", settings=FAST) as first,
        Bench(two.app, database, executor="two", settings=FAST) as second,
    ):
        handle = await one.both.start(1, id="w")
        await until(lambda: one.calls["second 1"])

        assert await second.engine.cancels.cancel(["w"]) == ["w"]
        await until(lambda: all(run.standing is Standing.REFUSED for run in first.engine.commons.runs.values()))
        one.gate.set()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await until(lambda: not first.engine.commons.runs)

        assert [step.name for step in await handle.steps()] == ["first"]
        assert not await handle.cancel()


async def test_a_cancel_may_interrupt_the_step_that_runs(database: str) -> None:
    """On request: the async step is cancelled where it waits."""
    app = App("interrupted")
    ends: list[str] = []
    began = asyncio.Event()

    @app.step()
    async def waits() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("cleaned up")

    @app.workflow()
    async def stuck() -> None:
        await waits()

    async with Bench(app, database) as bench:
        handle = await stuck.start()
        await began.wait()

        assert await handle.cancel(interrupt=True)
        await until(lambda: not bench.engine.commons.runs)
        assert ends == ["cleaned up"]
        assert (await handle.status()).status is WorkflowStatus.CANCELLED


async def test_cancelling_one_at_rest_ends_it_at_once_and_frees_its_key(database: str) -> None:
    """One commit, no owner to be asked; a record behind it goes on."""
    reminders = Reminders()
    async with Bench(reminders.app, database) as bench:
        await bench.deliver(orders, Order(order_id="a"))
        await bench.settle()
        await bench.deliver(orders, Order(order_id="a", days=0))
        await bench.settle()
        assert reminders.calls == ["first a"]

        assert await reminders.app.retrieve("orders-0-0").cancel()
        await until_status(bench, "SUCCESS")

        assert reminders.calls == ["first a", "first a", "second a"]
        statuses = await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY 1")
        assert statuses == [("orders-0-0", "CANCELLED"), ("orders-0-1", "SUCCESS")]


async def test_a_workflow_that_dies_with_its_executor_too_often_is_given_up(database: str) -> None:
    """P22, P29: deaths without a new checkpoint are counted; a checkpoint forgives them; the last is the end."""
    steps = Steps()
    settings = EngineSettings(
        conninfo="", deaths_max=4, alone_max=timedelta(milliseconds=100), scan=timedelta(milliseconds=50)
    )
    async with Bench(steps.app, database, settings=settings) as bench:
        await steps.both.start(1, id="w")
        await until(lambda: steps.calls["second 1"])
        for death in range(1, 4):
            await bench.crash_now()
            await until(lambda death=death: steps.calls["second 1"] == death + 1)
        assert await bench.fetch_all("SELECT recovery_attempts, status FROM dbos.workflow_status") == [(3, "PENDING")]
        await bench.crash_now()

        with pytest.raises(RecoveryExceededError, match=r"workflow w was running at 4 deaths"):
            await steps.both.retrieve("w").result()
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("MAX_RECOVERY_ATTEMPTS_EXCEEDED",)]
        assert steps.calls["first 1"] == 1


async def test_a_workflow_whose_code_is_gone_waits_and_says_so(database: str) -> None:
    """I8: nobody runs other code over its history; it is listed with the reason, and goes on when its code is back."""
    old, new = Steps(), Steps()
    async with Bench(old.app, database, executor="one", settings=FAST) as bench:
        await old.naps.start(1, id="w")
        await bench.settle()
        await until(lambda: not bench.engine.commons.runs)
    changed = App("steps")

    @changed.workflow(version="2", name="naps")
    async def naps(n: int) -> int:
        return n

    async with Bench(changed, database, executor="two", settings=FAST) as bench:
        await bench.advance(DAY)
        await bench.settle()
        async with await connect(bench.settings, "test") as connection:
            stranded = await list_stranded(connection, "dbos")

        assert [(row.workflow_id, row.name, row.version) for row in stranded] == [("w", "naps", "1")]
        assert stranded[0].reason == "version '1' of 'naps' runs nowhere; '2' does"
        assert (await naps.retrieve("w").status()).status is WorkflowStatus.PENDING
    async with Bench(new.app, database, executor="three", settings=FAST) as bench:
        await bench.advance(DAY)
        assert await new.naps.retrieve("w").result() == 1


async def test_a_connection_that_breaks_around_a_group_flush_costs_nothing(database: str) -> None:
    """P24, P25: before anything was sent, or with everything sent; what stands is done, the rest is sent again."""
    steps = Steps()
    steps.gate.set()
    async with Bench(steps.app, database) as bench:
        for lost in ("sent", "before"):
            broken = 0

            def cut(point: CrashPoint) -> None:
                nonlocal broken
                connection = bench.engine.commons.committer.connection
                if connection is not None and broken < 3:
                    broken += 1
                    connection.pgconn.finish()
                    raise psycopg.OperationalError(f"cut at {point}")

            armed[CrashPoint.FLUSH_SENT if lost == "sent" else CrashPoint.FLUSH_BUILT] = cut
            handles = [await steps.both.start(n, id=f"{lost}-{n}") for n in range(10)]
            results = [await handle.result() for handle in handles]
            armed.clear()

            assert results == [n * 10 for n in range(10)]
            assert broken == 3
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(40,)]


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_of_a_group_is_settled_by_locking_its_rows(database: str, side: str) -> None:
    """P24: whether the server committed or not, every workflow has its rows, checkpoints and outcome once."""
    steps = Steps()
    steps.gate.set()
    async with losing_proxy(database) as (proxy, dsn), Bench(steps.app, dsn) as bench:
        proxy.marker = b"fence_group"
        for n in range(30):
            if n in (10, 20):
                proxy.lose_commits += side == "reply"
                proxy.lose_requests += side == "request"
            await steps.both.start(n, id=f"w-{n}")
        await bench.settle()

        assert proxy.lost == 2
        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1") == [
            ("SUCCESS", 30)
        ]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(60,)]
        assert set(steps.calls.values()) == {1}


async def test_a_start_whose_database_is_away_returns_when_it_is_back(private_postgres: PostgresServer) -> None:
    """P25: weather is nobody's failure; starts, steps and results wait for it."""
    dsn = private_postgres.dsn()
    await migrate(dsn)
    steps = Steps()
    async with Bench(steps.app, dsn, settings=FAST) as bench:
        first = await steps.both.start(1)
        await until(lambda: steps.calls["second 1"])
        await asyncio.to_thread(private_postgres.stop, "immediate")
        starting = asyncio.create_task(steps.both.start(2))
        waiting = asyncio.create_task(first.result())
        steps.gate.set()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(private_postgres.start)

        assert await waiting == 10
        assert await (await starting).result() == 20
        await bench.settle()


async def test_large_inputs_stand_apart_and_are_found_when_the_row_is_taken(database: str) -> None:
    """I4: whoever takes a row over gets the arguments it was started with; so does who compares them."""
    app = App("large")
    text = "ä" * 200_000

    @app.workflow()
    async def length(text: str) -> int:
        await sleep(DAY)
        return len(text)

    async with Bench(app, database) as bench:
        handle = await length.start(text, id="w")
        await length.start(text, id="w")
        await bench.settle()
        await until(lambda: not bench.engine.commons.runs)
        stored = await bench.fetch_all(
            "SELECT length(w.inputs) < 1000, length(i.inputs) > 200000 FROM dbos.workflow_status AS w "
            "JOIN dbos.workflow_inputs AS i USING (workflow_uuid)"
        )
        await bench.advance(DAY)

        assert stored == [(True, True)]
        assert await handle.result() == 200_000


async def test_what_cannot_be_written_fails_alone(database: str) -> None:
    """P27: halved until it stands alone; it ends as its workflow's error, the others of its flush succeed."""
    app = App("bad")

    @app.step()
    async def raw(n: int) -> str:
        return str(n)

    @app.workflow()
    async def writes(n: int) -> str:
        return await raw(n)

    async with Bench(app, database) as bench:
        # A checkpoint that no client of ours writes: text that Postgres refuses.
        def refused(value: str) -> tuple[str, str]:
            return "\x00" if value == "3" else f'"{value}"', value

        raw.step = replace(raw.step, record=refused)
        handles = [await writes.start(n) for n in range(6)]
        outcomes = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)

        assert [outcome for n, outcome in enumerate(outcomes) if n != 3] == ["0", "1", "2", "4", "5"]
        assert isinstance(outcomes[3], Exception)
        assert await bench.fetch_all("SELECT status, count(*) FROM dbos.workflow_status GROUP BY 1 ORDER BY 1") == [
            ("ERROR", 1),
            ("SUCCESS", 5),
        ]


async def test_a_database_that_lost_a_checkpoint_is_noticed_at_the_next_one(database: str) -> None:
    """P4, P7: the newest checkpoint known to be durable has to be there; else everything in memory is abandoned."""
    steps = Steps()
    async with Bench(steps.app, database, settings=FAST) as bench:
        await steps.both.start(1, id="w")
        await until(lambda: steps.calls["second 1"])
        async with asyncio.timeout(PATIENCE_S):
            while not await bench.fetch_all("SELECT 1 FROM dbos.operation_outputs"):
                await asyncio.sleep(0.01)
        before = bench.engine.executor_id
        await bench.execute("DELETE FROM dbos.operation_outputs")
        steps.gate.set()

        await until(lambda: bench.engine.executor_id != before)
        await until_status(bench, "SUCCESS")
        assert steps.calls == {"first 1": 2, "second 1": 2}


async def test_rows_that_name_us_and_have_no_run_here_are_handed_over(database: str) -> None:
    """P12: the reply to their taking was lost; within a lease they go on."""
    steps = Steps()
    steps.gate.set()
    async with Bench(steps.app, database, settings=FAST) as bench:
        row = Start(id=WorkflowId("w"), name="both", version="1", inputs='{"args": [4]}', owner=new_token())
        async with await connect(bench.settings, "test") as connection:
            await send(connection, "dbos", start([row], executor_id=bench.engine.executor_id, inputs_inline_max=1_000))

        await until_status(bench, "SUCCESS")
        assert await steps.both.retrieve("w").result() == 40
