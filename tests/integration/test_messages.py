"""Messages: sent in the commit of the sender's checkpoint, received once, oldest first, whatever crashes (I4; P17, P31)."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from engine.handlers import UndecodableError
from engine.messages import NULL_TOPIC
from engine.transactional import NotInWorkflowError
from processor import (
    App,
    ConfigurationError,
    Transaction,
    WorkflowNotFoundError,
    recv,
    send,
    sleep,
    sync,
)
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import FLUSHES, STARTS, STEPS
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, PATIENCE_S
from tests.integration.talking import DAY, Approval, Office, Order, at_rest, deaf, history, left, orders, started
from tests.integration.test_rest import until_status


@pytest.fixture
def office() -> Office:
    return Office()


# -- what is sent is received


@pytest.mark.parametrize("rests", [False, True], ids=["in memory", "at rest"])
@pytest.mark.parametrize("kind", ["call", "record"])
async def test_messages_from_outside_are_received_in_order(
    database: str, office: Office, kind: str, *, rests: bool
) -> None:
    """Consumed in one commit with its checkpoint; nothing but a row waits meanwhile."""
    async with Bench(office.app, database) as bench:
        if kind == "call":
            await office.clerk.start(3, id="w")
        else:
            await bench.deliver(orders, Order(order_id="o"))
            await until_status(bench, "PENDING")
        workflow_id = "w" if kind == "call" else "orders-0-0"
        if rests:
            await at_rest(bench)
            assert not bench.engine.in_flight
        for text in ("a", "b", "c"):
            await office.app.send(workflow_id, text, "in")
        await until_status(bench, "SUCCESS")

        assert await bench.fetch_all("SELECT output FROM dbos.workflow_status") == [('["a","b","c"]',)]
        assert await left(bench) == []
        received = [row[1:] for row in await history(bench, workflow_id) if row[1] == "DBOS.recv"]
        assert received == [("DBOS.recv", '"a"'), ("DBOS.recv", '"b"'), ("DBOS.recv", '"c"')]


async def test_a_workflow_sends_in_the_order_of_its_calls(database: str, office: Office) -> None:
    """Also many in one commit, of one millisecond; the workflow does not wait between them."""
    async with Bench(office.app, database) as bench:
        handle = await office.clerk.start(200)
        await office.sender.start(handle.id, 200, id="s")

        assert await handle.result() == [f"{n}" for n in range(200)]
        sent = await history(bench, "s")
        assert sent == [(n + 1, "DBOS.send", "null") for n in range(200)]


async def test_topics_are_queues_of_their_own_and_none_is_one(database: str) -> None:
    """A message without a topic is written as the seed's clients do."""
    app = App("office")

    @app.workflow()
    async def clerk() -> list[str]:
        return [await recv("b"), await recv(), await recv("a")]

    async with Bench(app, database) as bench:
        handle = await clerk.start(id="w")
        await handle.send("for a", "a")
        await handle.send("for none")
        assert ("w", NULL_TOPIC, '"for none"') in await left(bench)
        await handle.send("for b", "b")

        assert await handle.result() == ["for b", "for none", "for a"]


async def test_messages_are_read_as_their_model(database: str) -> None:
    """What is none of it fails the call that received it, in every replay, and is in the history."""
    app = App("office")

    @app.workflow()
    async def clerk() -> str:
        approval = await recv(model=Approval)
        try:
            await recv(model=Approval)
        except UndecodableError as error:
            await sleep(DAY)
            return f"{approval.by}: {error}"
        return "?"

    async with Bench(app, database) as bench:
        handle = await clerk.start(id="w")
        await handle.send(Approval(by="ada"))
        await handle.send({"level": 2})
        await at_rest(bench)
        await bench.advance(DAY)

        assert await handle.result() == "ada: message of topic None: not Approval: by: Field required"
        assert (await history(bench, "w"))[1][1:] == ("DBOS.recv", '{"level":2}')


async def test_a_time_out_receives_nothing_and_is_the_same_in_every_replay(database: str) -> None:
    """It counts from the first call, in the place behind it (DBOS.sleep); a later message is the next call's."""
    app = App("office")

    @app.workflow()
    async def clerk() -> list[str | None]:
        first = await recv(model=str, timeout=DAY)
        return [first, await recv(model=str, timeout=timedelta(0)), await recv(model=str)]

    async with Bench(app, database) as bench:
        handle = await clerk.start(id="w")
        await at_rest(bench)
        await bench.crash_now()
        await bench.advance(DAY)
        async with asyncio.timeout(PATIENCE_S):
            while len(await history(bench, "w")) < 4:
                await asyncio.sleep(0.02)
        await handle.send("late")

        assert await handle.result() == [None, None, "late"]
        names = [(function_id, name) for function_id, name, _ in await history(bench, "w")]
        assert names == [(1, "DBOS.recv"), (2, "DBOS.sleep"), (3, "DBOS.recv"), (4, "DBOS.sleep"), (5, "DBOS.recv")]


async def test_gathered_calls_of_one_topic_receive_one_message_each(database: str) -> None:
    app = App("office")

    @app.workflow()
    async def clerk() -> list[int]:
        return list(await asyncio.gather(*(recv(model=int) for _ in range(5))))

    async with Bench(app, database) as bench:
        handle = await clerk.start()
        for n in range(6):
            await handle.send(n)

        assert await handle.result() == [0, 1, 2, 3, 4]
        assert [row[2] for row in await left(bench)] == ["5"]


async def test_sync_workflows_send_and_receive_and_have_no_thread_while_they_wait(database: str) -> None:
    app = App("office")

    @app.workflow()
    def clerk() -> str:
        to = sync.recv(model=str)
        sync.send(to, "answered")
        return to

    @app.workflow()
    async def asker(clerk_id: str, own_id: str) -> str:
        await send(clerk_id, own_id)
        return await recv(model=str)

    async with Bench(app, database) as bench:
        handle = await clerk.start(id="c")
        await at_rest(bench)
        asked = await asker.start("c", "a", id="a")

        assert await asked.result() == "answered"
        assert await handle.result() == "a"


# -- whatever crashes


@pytest.mark.crash_points(*STARTS, *STEPS, CrashPoint.TAKEN)
async def test_a_crash_anywhere_delivers_every_message_once(
    database: str, office: Office, crash_point: CrashPoint | None
) -> None:
    """I4, P31: from workflows, with a source and without; each message is received once, in the sender's order."""
    async with Bench(office.app, database) as bench:
        for n in range(3):
            await office.clerk.start(4, id=f"c-{n}")
        await bench.deliver(orders, Order(order_id="o", count=4))
        receivers = ["c-0", "c-1", "c-2", "orders-0-0"]
        await at_rest(bench, 4)
        bench.crash(at=crash_point)

        for n, receiver in enumerate(receivers):
            await started(bench, lambda n=n, to=receiver: office.sender.start(to, 4, id=f"s-{n}"))
        await bench.settle()
        await until_status(bench, "SUCCESS", 8)

        outputs = await bench.fetch_all("SELECT output FROM dbos.workflow_status WHERE output <> 'null'")
        assert outputs == [('["0","1","2","3"]',)] * 4
        assert await left(bench) == []


@pytest.mark.crash_points(*FLUSHES, *STEPS)
async def test_a_crash_anywhere_loses_no_message_from_outside(
    database: str, office: Office, crash_point: CrashPoint | None
) -> None:
    """I4: a caller that repeats what it sent, under its key, has sent it once, whether or not it was received before."""
    async with Bench(office.app, database) as bench:
        await office.clerk.start(6, id="w")
        bench.crash(at=crash_point)
        for n in range(6):
            for _ in range(2):
                await started(bench, lambda n=n: office.app.send("w", n, "in", idempotency_key=f"k-{n}"))
        await bench.settle()
        await until_status(bench, "SUCCESS")

        assert await office.clerk.retrieve("w").result() == [f"{n}" for n in range(6)]
        assert await left(bench) == []


async def test_a_run_that_is_fenced_out_takes_no_message(database: str, office: Office) -> None:
    """P7, I6: its checkpoint does not count, and neither does the deletion that comes with it."""
    async with Bench(office.app, database) as bench:
        handle = await office.clerk.start(1, id="w")
        async with asyncio.timeout(PATIENCE_S):
            while not len(bench.engine.waits):
                await asyncio.sleep(0.01)
        await bench.execute("UPDATE dbos.workflow_status SET owner_xid = 'another'")
        await office.app.send("w", "a", "in")
        async with asyncio.timeout(PATIENCE_S):
            while bench.engine.commons.runs:
                await asyncio.sleep(0.01)

        assert [row[2] for row in await left(bench)] == ['"a"']
        assert await history(bench, "w") == []
        await bench.execute("UPDATE dbos.workflow_status SET owner_xid = NULL")
        bench.engine.scan.hint()
        assert await handle.result() == ["a"]


@pytest.mark.parametrize("side", ["reply", "request"])
@pytest.mark.parametrize("key", [None, "k"], ids=["without a key", "with a key"])
async def test_a_lost_commit_sends_a_message_once(database: str, office: Office, side: str, key: str | None) -> None:
    """P24: what became of it is asked for, also where it was received before anybody could ask."""
    async with losing_proxy(database) as (proxy, dsn), Bench(office.app, dsn) as bench:
        await office.clerk.start(8, id="w")
        proxy.marker = b"message_key"
        for n in range(8):
            proxy.lose_commits += side == "reply" and n % 3 == 0
            proxy.lose_requests += side == "request" and n % 3 == 0
            await office.app.send("w", n, "in", idempotency_key=key and f"{key}-{n}")
        await bench.settle()

        assert proxy.lost == 3
        assert await office.clerk.retrieve("w").result() == [f"{n}" for n in range(8)]
        assert await left(bench) == []


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_of_a_flush_neither_loses_nor_repeats_a_message(
    database: str, office: Office, side: str
) -> None:
    """P24, P31: what comes with checkpoints is there if and only if they are, sent and received."""
    async with losing_proxy(database) as (proxy, dsn), Bench(office.app, dsn) as bench:
        proxy.marker = b"fence_group"
        await office.clerk.start(30, id="w")
        for n in range(10):
            proxy.lose_commits += side == "reply" and n % 3 == 0
            proxy.lose_requests += side == "request" and n % 3 == 0
            await office.sender.start("w", 3, id=f"s-{n}")
        await bench.settle()

        assert proxy.lost == 4
        received = await office.clerk.retrieve("w").result()
        assert Counter(received) == {"0": 10, "1": 10, "2": 10}
        assert await left(bench) == []


@pytest.mark.parametrize("hears", [True, False], ids=["with NOTIFY", "without"])
@pytest.mark.parametrize("rests", [False, True], ids=["in memory", "at rest"])
async def test_a_message_arrives_in_another_process(database: str, *, hears: bool, rests: bool) -> None:
    """A hint in milliseconds; without, a poll and a look find it."""
    here, there = Office(), Office()
    async with (
        Bench(here.app, database, executor="one", settings=FAST) as one,
        Bench(there.app, database, executor="two", settings=FAST) as two,
    ):
        if not hears:
            deaf(one)
            deaf(two)
        await here.clerk.start(2, id="w")
        if rests:
            await at_rest(one)
        await there.app.send("w", "a", "in")
        await there.sender.start("w", 1)
        async with asyncio.timeout(PATIENCE_S):
            assert await there.clerk.retrieve("w").result() == ["a", "0"]

        assert (here.calls + there.calls)["a"] == 1


async def test_a_receiver_at_rest_is_woken_wherever_there_is_room(database: str, office: Office) -> None:
    """P29: the process it went to rest in need not live any more."""
    async with Bench(office.app, database, executor="one", settings=FAST) as one:
        await office.clerk.start(1, id="w")
        await at_rest(one)
    other = Office()
    async with Bench(other.app, database, executor="two", settings=FAST) as two:
        await two.settle()
        assert other.calls == {}
        await other.app.send("w", "a", "in")

        assert await other.clerk.retrieve("w").result() == ["a"]


async def test_another_programs_insert_wakes_a_receiver_at_rest(database: str, office: Office) -> None:
    """As clients of the seed's write it: the trigger wakes it in the same commit, and notifies for those who listen."""
    async with Bench(office.app, database) as bench:
        handle = await office.clerk.start(1, id="w")
        await at_rest(bench)
        assert await bench.fetch_all("SELECT kind, target, name FROM dbos.waiting") == [("message", "w", "in")]
        await bench.execute(
            "INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES ('w', 'in', '\"a\"')"
        )

        assert await handle.result() == ["a"]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.waiting") == [(0,)]


# -- refused


@pytest.mark.parametrize("kind", ["outside", "in a workflow", "in a step"])
async def test_a_message_to_nobody_is_an_error_that_names_it(database: str, kind: str) -> None:
    """In a workflow it is remembered, and may be caught."""
    app = App("office")

    @app.step()
    async def ask() -> None:
        await send("nobody", "hello")

    @app.workflow()
    async def sender(*, in_step: bool) -> str:
        try:
            await (ask() if in_step else send("nobody", "hello"))
        except WorkflowNotFoundError as error:
            await sleep(DAY)
            return f"{error}"
        return "?"

    async with Bench(app, database) as bench:
        if kind == "outside":
            with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
                await app.send("nobody", "hello")
        else:
            handle = await sender.start(in_step=kind == "in a step")
            await at_rest(bench)
            await bench.advance(DAY)
            assert await handle.result() == "there is no workflow 'nobody'"
        assert await left(bench) == []


async def test_what_cannot_be_sent_is_refused_at_the_call(database: str, office: Office) -> None:
    async with Bench(office.app, database):
        await office.clerk.start(1, id="w")

        with pytest.raises(TypeError, match="message to w: a object that cannot be written as JSON"):
            await office.app.send("w", object())
        with pytest.raises(ValueError, match="topic ''"):
            await office.app.send("w", 1, "")
        with pytest.raises(ValueError, match="idempotency key"):
            await office.app.send("w", 1, idempotency_key="k" * 256)
        with pytest.raises(ValueError, match="16777216 can be"):
            await office.app.send("w", "x" * (16 << 20))


async def test_who_may_not_send_or_receive_is_told_what_to_do(database: str) -> None:
    app = App("office")

    @app.step()
    async def receives() -> None:
        await recv()

    @app.transaction()
    async def sends(tx: Transaction) -> None:
        await tx.execute("SELECT 1")
        await send("w", 1)

    @app.workflow()
    async def clerk() -> list[str]:
        said: list[str] = []
        for call in (receives, sends):
            try:
                await call()
            except NotInWorkflowError as error:
                said.append(str(error))
        return said

    async with Bench(app, database):
        in_step, in_transaction = await clerk()

        assert in_step.startswith("recv() was called outside of a workflow's own code")
        assert in_transaction.startswith("transaction 'sends': send() would not be part of it; send(..., tx=tx) is.")
        with pytest.raises(ConfigurationError, match=r"app\.send"):
            await send("w", 1)
        with pytest.raises(NotInWorkflowError, match="recv"):
            await recv()


async def test_a_step_sends_as_often_as_it_runs_and_once_under_a_key(database: str) -> None:
    """A step is at least once; the key is what makes its message one."""
    app = App("office")

    @app.step()
    async def tell(to: str) -> None:
        await send(to, "again")
        await send(to, "once", idempotency_key="k")

    @app.workflow()
    async def clerk() -> list[str | None]:
        return [await recv(model=str) for _ in range(4)] + [await recv(model=str, timeout=timedelta(0))]

    @app.workflow()
    async def sender(to: str) -> None:
        await tell(to)
        await send(to, "once", idempotency_key="k")
        await send(to, "last")

    async with Bench(app, database) as bench:
        handle = await clerk.start()
        bench.crash(after=tell)
        await sender.start(handle.id)
        await bench.settle()

        assert await clerk.retrieve(handle.id).result() == ["again", "once", "again", "last", None]


async def test_messages_of_a_child_that_has_just_been_started_wait_for_it(database: str, office: Office) -> None:
    """P31: the child's row comes in a flush; what is sent to it comes behind."""

    @office.app.workflow()
    async def parent() -> list[str]:
        child = await office.clerk.start(2)
        await child.send("a", "in")
        await send(child.id, "b", "in")
        return await child.result()

    async with Bench(office.app, database):
        assert await parent() == ["a", "b"]
