"""A topic made anew under its name: what of the former one is still open goes on, before anything of the new one (P30, I7, I8)."""

import asyncio
import json
from datetime import timedelta

import pytest

from engine.dead_letters import retry
from engine.ids import SourceRef
from engine.pool import connect
from processor import App, BlockKey, Retry, Topic, sleep
from processor.cli import DONE, MISTAKE
from processor.testing import Bench
from tests.integration.conftest import Command
from tests.integration.protocol import FAST, Order, Shop, until, until_row

HOUR = timedelta(hours=1)


async def made_anew(bench: Bench, ref: SourceRef, *, topic_id: str = "another") -> None:
    """Delete the topic and create it again: an empty log, and a new incarnation by policy."""
    judged = bench.engine.sources.current[ref]
    await bench.release(ref)
    bench.log[ref] = []
    assert await bench.engine.sources.new_incarnation(judged, topic_id=topic_id, start=0, by="policy")
    await bench.claim(ref)


async def rows(bench: Bench) -> list[tuple[object, ...]]:
    return await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status ORDER BY 1")


async def test_open_workflows_of_a_former_topic_run_out_before_the_new_ones_of_their_keys(database: str) -> None:
    """I7, I8, P30: one waits for its next attempt, one waits behind it; both go on at the claim of the new incarnation."""
    shop = Shop(retry=Retry(attempts=2, first_delay=HOUR))
    shop.fails["first 0"] = 1
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        for n in (0, 1):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await until_row(bench, "kafka_offset = 1")
        await bench.settle()

        await made_anew(bench, ref)
        await bench.deliver(shop.topic, Order(key="a", n=10))
        await bench.deliver(shop.topic, Order(key="b", n=11))
        await bench.settle()
        assert shop.begun("first") == [0, 11]
        await bench.advance(2 * HOUR)
        await bench.settle()

        assert shop.begun("first") == [0, 11, 0, 1, 10]
        assert await rows(bench) == [
            (name, "SUCCESS") for name in ("orders-0-0", "orders-0-1", "orders~2-0-0", "orders~2-0-1")
        ]


async def test_a_sleeper_of_a_former_topic_keeps_its_key(database: str) -> None:
    """I7, P15, P30: it is no run in memory, but the new topic's record of its key waits until it has slept and ended."""
    app, topic = App("shop"), Topic("orders", Order, key=lambda order: order.key)
    calls: list[int] = []

    @app.step()
    async def note(order: Order) -> None:
        calls.append(order.n)

    @app.workflow(on=topic)
    async def fulfil(order: Order) -> None:
        await note(order)
        if order.n == 0:
            await sleep(HOUR)
            await note(order)

    async with Bench(app, database, settings=FAST) as bench:
        ref = bench.ref(topic)
        await bench.deliver(topic, Order(key="a", n=0))
        await until_row(bench, "kafka_asleep AND owner_xid IS NULL")
        await bench.settle()

        await made_anew(bench, ref)
        assert [each.workflow_id for each in bench.source(topic).inbox.keys.asleep.values()] == ["orders-0-0"]
        await bench.deliver(topic, Order(key="a", n=10))
        await bench.deliver(topic, Order(key="b", n=11))
        await until_row(bench, "workflow_uuid = 'orders~2-0-1' AND status = 'SUCCESS'")
        assert calls == [0, 11]
        await bench.advance(2 * HOUR)
        await until_row(bench, "workflow_uuid = 'orders~2-0-0' AND status = 'SUCCESS'")

        assert calls == [0, 11, 0, 10]
        assert {status for _, status in await rows(bench)} == {"SUCCESS"}


async def test_former_topics_go_on_in_the_order_of_their_making(database: str) -> None:
    """I7, P18: offset 0 of the second topic of that name comes behind offset 5 of the first."""
    shop = Shop(retry=Retry(attempts=2, first_delay=HOUR))
    shop.fails["first 5"] = 1
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        await bench.deliver(shop.topic, Order(key="a", n=5), offset=5)
        await bench.settle()
        await made_anew(bench, ref)
        await bench.deliver(shop.topic, Order(key="a", n=20))
        await until_row(bench, "workflow_uuid = 'orders~2-0-0'")
        await made_anew(bench, ref, topic_id="a third")
        await bench.deliver(shop.topic, Order(key="a", n=30))
        await bench.settle()
        assert shop.begun("first") == [5]

        await bench.advance(2 * HOUR)
        await bench.settle()

        assert shop.begun("first") == [5, 5, 20, 30]


@pytest.mark.parametrize("end", ["released", "fenced"])
async def test_a_step_of_the_former_topic_that_still_runs_holds_its_key(database: str, end: str) -> None:
    """P12, P13, I7: the new topic's record of the key waits for it, also where its result counts no more."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        shop.shut = {"first 0"}
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await until_row(bench, "kafka_offset = 0")
        if end == "fenced":
            bench.source(shop.topic).drop("as if fenced")
            await bench.claim(ref)
        await made_anew(bench, ref)
        await bench.deliver(shop.topic, Order(key="a", n=10))
        await bench.deliver(shop.topic, Order(key="b", n=11))
        await until(lambda: "second 11" in shop.ended)
        await asyncio.sleep(0.3)
        assert "first 10" not in shop.began
        shop.shut.clear()
        await bench.settle()

        assert shop.began.index("first 10") > shop.ended.index("first 0")
        assert {status for _, status in await rows(bench)} == {"SUCCESS"}


async def test_a_dead_letter_of_a_former_topic_that_is_retried_runs(database: str) -> None:
    """P18, I8: by the owner of its partition, whatever incarnation that is at, behind what was open of its key then."""
    shop = Shop()
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        shop.fails["first 7"] = 1
        await bench.deliver(shop.topic, Order(key="a", n=7), offset=7)
        await bench.settle()
        await made_anew(bench, ref)
        shop.shut = {"first 10"}
        await bench.deliver(shop.topic, Order(key="a", n=10))
        await bench.deliver(shop.topic, Order(key="a", n=11))
        await until_row(bench, "workflow_uuid = 'orders~2-0-1'")

        await retried(bench)
        await asyncio.sleep(0.3)  # several looks at rows at rest
        shop.shut.clear()
        await bench.settle()

        assert shop.begun("first") == [7, 10, 11, 7]
        assert {status for _, status in await rows(bench)} == {"SUCCESS"}


async def test_a_retry_from_the_time_of_the_former_topic_has_its_place_before_the_new_one(database: str) -> None:
    """P18, I8: its place is an offset of the former log, which the new one may not reach for long."""
    shop = Shop(retry=Retry(attempts=2, first_delay=HOUR))
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        shop.error = ValueError
        shop.fails["first 0"] = 3
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.deliver(shop.topic, Order(key="a", n=1), offset=1_000)
        await bench.settle()
        await bench.advance(2 * HOUR)
        await bench.settle()
        await retried(bench)
        await until(lambda: shop.begun("first") == [0, 0, 1, 0])
        await bench.settle()
        assert await bench.fetch_all("SELECT kafka_place FROM dbos.workflow_status WHERE status = 'PENDING'") == [
            (1_001,)
        ]

        await made_anew(bench, ref)
        await bench.deliver(shop.topic, Order(key="a", n=10))
        await bench.settle()
        await bench.advance(2 * HOUR)
        await bench.settle()

        assert shop.begun("first") == [0, 0, 1, 0, 0, 10]


async def test_a_key_that_the_former_topic_blocked_stays_blocked_and_goes_on_with_its_holder(database: str) -> None:
    """Design 7, P18: retried, the blocker keeps its place: nothing of the key ran since."""
    shop = Shop(policy=BlockKey())
    async with Bench(shop.app, database, settings=FAST) as bench:
        ref = bench.ref(shop.topic)
        shop.fails["first 0"] = 1
        for n in (0, 1):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await bench.settle()
        await made_anew(bench, ref)
        await bench.deliver(shop.topic, Order(key="a", n=10))
        await until_row(bench, "workflow_uuid = 'orders~2-0-0'")
        assert shop.begun("first") == [0]

        await retried(bench)
        await until(lambda: "second 10" in shop.ended)
        await bench.settle()

        assert shop.begun("first") == [0, 0, 1, 10]


# -- what operators see of it, and may do


async def test_open_workflows_are_listed_and_cancelled_by_an_operators_word(database: str, command: Command) -> None:
    """I8: nothing stays PENDING unseen; a key whose holder rests until another attempt goes on at once."""
    shop = Shop(retry=Retry(attempts=2, first_delay=HOUR))
    shop.fails["first 0"] = 1
    cancel = ("partitions", "cancel", "orders-0", "--group", "shop", "--note", "nobody wants them", "--actor", "ann")
    async with Bench(shop.app, database, settings=FAST) as bench:
        for n in (0, 1):
            await bench.deliver(shop.topic, Order(key="a", n=n))
        await until_row(bench, "kafka_offset = 1")
        await made_anew(bench, bench.ref(shop.topic))
        await bench.deliver(shop.topic, Order(key="a", n=10))
        await until_row(bench, "workflow_uuid = 'orders~2-0-0'")

        _, table, _ = await command("partitions", "list")
        _, lines, _ = await command("partitions", "list", "--json")
        shown = await command(*cancel, "--former")
        unchanged = {status for _, status in await rows(bench)}
        cancelled = await command(*cancel, "--former", "--yes")
        await until(lambda: "second 10" in shop.ended)
        again = await command(*cancel, "--former", "--yes")
        acts = await bench.fetch_all(
            "SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit WHERE actor = 'ann'"
        )
        await bench.settle()

        assert (json.loads(lines)["open"], json.loads(lines)["former"]) == (1, 2)
        assert "FORMER" in table
        assert shown[0] == MISTAKE
        assert "orders-0 of group shop: 2 open workflows of former topics of that name" in shown[1]
        assert "nothing was changed; with --yes" in shown[2]
        assert unchanged == {"PENDING"}
        assert cancelled[:2] == (
            DONE,
            "orders-0 of group shop: 2 open workflows of former topics of that name cancelled\n",
        )
        assert again[:2] == (DONE, "orders-0 of group shop: nothing is open there\n")
        assert acts == [
            ("ann", "cancel", "shop|orders-0", "2 open workflows of former topics of that name; nobody wants them")
        ]
        assert await rows(bench) == [
            ("orders-0-0", "CANCELLED"),
            ("orders-0-1", "CANCELLED"),
            ("orders~2-0-0", "SUCCESS"),
        ]


async def test_all_open_workflows_of_a_partition_that_nobody_runs_can_be_cancelled(
    database: str, command: Command
) -> None:
    """I8: a topic that was deleted for good is assigned to nobody; what is open of it is seen, and ended by a word."""
    shop = Shop(retry=Retry(attempts=2, first_delay=HOUR))
    shop.fails["first 0"] = 1
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(shop.topic, Order(key="a", n=0))
        await bench.settle()
        await bench.release(bench.ref(shop.topic))

        cancel = ("partitions", "cancel", "orders-0", "--group", "shop", "--note", "gone")
        former = await command(*cancel, "--former", "--yes")
        of_all = await command(*cancel, "--all", "--yes")
        neither = await command(*cancel, "--yes")
        unknown = await command("partitions", "cancel", "orders-9", "--group", "shop", "--note", "x", "--all")

        assert former[1] == "orders-0 of group shop: nothing is open there\n"
        assert of_all[1] == "orders-0 of group shop: 1 open workflows cancelled\n"
        assert (neither[0], "--former" in neither[2]) == (MISTAKE, True)
        assert (unknown[0], "no partition 'orders-9'" in unknown[2]) == (MISTAKE, True)
        assert await rows(bench) == [("orders-0-0", "CANCELLED")]


async def retried(bench: Bench) -> None:
    """Put the dead letter back to work, as `processor dead-letters retry` does."""
    async with await connect(bench.settings, "operator") as connection:
        assert await retry(connection, "dbos", [1]) == 1
