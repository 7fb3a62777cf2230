"""Moving a partition by hand: `processor partitions seek`, on a real database (I1, I3, I4, P30)."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel

from consumers.cluster import Cluster, TopicState
from consumers.mock import MockCluster
from engine.partitions import Place
from engine.seeks import seek
from processor import App, Topic
from processor.cli import DONE, MISTAKE
from processor.testing import Bench
from tests.conformance.members import produce
from tests.integration.conftest import Command


class Order(BaseModel):
    order_id: str


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


class Seen:
    """An app that passes over what it was told to pass over, and notes what it ran."""

    def __init__(self) -> None:
        self.passes_over = b""
        self.ran: list[str] = []
        self.orders = Topic(
            "orders", Order, key=lambda order: order.order_id, where=lambda record: record.key != self.passes_over
        )
        self.app = App("shop")

        @self.app.workflow(on=self.orders)
        async def fulfil(order: Order) -> None:
            self.ran.append(order.order_id)


@pytest.fixture
def log(mock_cluster: MockCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Gives the brokers a log as long as the bench's, for commands to ask about."""
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", mock_cluster.bootstrap_servers)
    mock_cluster.create_topic("orders", 1)

    def append(count: int) -> None:
        produce(mock_cluster.bootstrap_servers, "orders", ["{}"] * count)

    return append


SEEK = ("partitions", "seek", "orders-0", "--group", "shop", "--note", "asked for", "--actor", "ann", "--to")


async def progress_of(bench: Bench) -> tuple[int, dict[str, Any]]:
    ((epoch, value),) = await bench.fetch_all("SELECT update_seq::bigint, value FROM dbos.event_dispatch_kv")
    return epoch, json.loads(value)


async def taken_up(bench: Bench, seen: Seen) -> None:
    """Wait until the fenced owner has claimed anew, and everything is done again."""
    sought, _ = await progress_of(bench)
    ref = bench.ref(seen.orders)
    await until(lambda: any(source.ref == ref and source.epoch > sought for source in bench.engine.sources.attached()))
    await bench.claim(ref)
    await bench.settle()


async def test_a_seek_is_shown_and_not_made_unless_yes_is_said(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    seen = Seen()
    log(3)
    async with Bench(seen.app, database) as bench:
        for order_id in ("a", "b", "c"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        before = await progress_of(bench)

        code, shown, told = await command(*SEEK, "1")
        after = await progress_of(bench)
        acts = await bench.fetch_all("SELECT FROM dbos.audit")

    assert code == MISTAKE
    assert "next 3 becomes 1" in shown
    assert "offsets 1 to 2 are delivered again" in shown
    assert "is fenced" in shown
    assert "nothing was changed; with --yes" in told
    assert (after, acts) == (before, [])


async def test_a_seek_back_runs_what_has_no_row_and_nothing_twice(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """I3, I4, P30, case 34: the live owner is fenced and goes on from there; what was filtered is decided anew."""
    seen = Seen()
    seen.passes_over = b"b"
    log(3)
    async with Bench(seen.app, database) as bench:
        for order_id in ("a", "b", "c"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        await bench.release(bench.ref(seen.orders))
        await bench.execute(
            "UPDATE dbos.event_dispatch_kv SET value = replace(value, '\"leader_epoch\":null', '\"leader_epoch\":7')"
        )
        await bench.claim(bench.ref(seen.orders))
        epoch, stale = await progress_of(bench)
        seen.passes_over = b""

        code, _, errors = await command(*SEEK, "earliest", "--yes")
        sought, _ = await progress_of(bench)
        await until(lambda: "b" in seen.ran)
        await bench.settle()
        _, progress = await progress_of(bench)
        acts = await bench.fetch_all("SELECT actor, action, subject, detail ->> 'detail' FROM dbos.audit")

    assert (code, errors) == (DONE, "")
    assert seen.ran == ["a", "c", "b"]
    assert sought > epoch
    assert stale["leader_epoch"] == 7
    assert (progress["next"], progress["high"], progress["leader_epoch"]) == (3, 3, None)
    ((actor, action, subject, detail),) = acts
    assert (actor, action, subject) == ("ann", "seek", "shop|orders-0")
    assert detail.startswith("3 to 0, epoch ")
    assert detail.endswith("; asked for")


async def test_a_seek_forward_is_a_recorded_gap(database: str, command: Command, log: Callable[[int], None]) -> None:
    """I1: what is passed over is the operator's decision, and stands in `gap`."""
    seen = Seen()
    log(4)
    async with Bench(seen.app, database) as bench:
        await bench.deliver(seen.orders, Order(order_id="a"))
        await bench.settle()
        source = bench.source(seen.orders)
        await command("partitions", "pause", "orders-0", "--group", "shop", "--note", "to skip some")
        await until(lambda: source.is_gone)
        for order_id in ("b", "c", "d"):
            await bench.deliver(seen.orders, Order(order_id=order_id))

        code, shown, _ = await command(*SEEK, "3", "--yes")
        await command("partitions", "resume", "orders-0", "--group", "shop")
        await until(lambda: "d" in seen.ran)
        await bench.settle()
        gaps = await bench.fetch_all("SELECT kafka_source, from_offset, to_offset, reason, decided_by FROM dbos.gap")

    assert code == DONE
    assert "offsets 1 to 2 are passed over" in shown
    assert "does not go on before it is released: pause: to skip some" in shown
    assert seen.ran == ["a", "d"]
    assert gaps == [("shop|orders-0", 1, 3, "seek: asked for", "ann")]


async def test_a_seek_below_deleted_rows_has_to_be_forced(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """P30: what retention deleted would run again."""
    seen = Seen()
    log(2)
    async with Bench(seen.app, database) as bench:
        for order_id in ("a", "b"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        await bench.execute("DELETE FROM dbos.workflow_status WHERE kafka_offset = 0")
        await bench.execute("INSERT INTO dbos.horizon VALUES ('shop|orders-0', 1)")

        refused = await command(*SEEK, "0", "--yes")
        ran_before = list(seen.ran)
        forced = await command(*SEEK, "0", "--yes", "--force")
        await until(lambda: len(seen.ran) == 3)
        await bench.settle()

    assert (refused[0], "rows below offset 1 were deleted" in refused[2]) == (MISTAKE, True)
    assert ran_before == ["a", "b"]
    assert forced[0] == DONE
    assert seen.ran == ["a", "b", "a"]


async def test_what_brokers_tell_of_a_topic_that_was_there_before_decides_nothing_unless_forced(
    database: str, command: Command, log: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P30: a broker that lags tells a former topic's ID, and where that log begins and ends."""

    async def describe(cluster: Cluster, topic: str) -> TopicState:
        del cluster, topic  # the mock cluster's topics have no IDs
        return TopicState("former", (0,), time.monotonic())

    monkeypatch.setattr(Cluster, "_describe", describe)
    seen = Seen()
    log(2)
    async with Bench(seen.app, database) as bench:
        for order_id in ("a", "b"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        await bench.engine.abort()
        known = """UPDATE dbos.event_dispatch_kv SET value = (value::jsonb || '{"former": ["former"]}')::text"""
        await bench.execute(known)

        refused = await command(*SEEK, "1", "--yes")
        _, stands = await progress_of(bench)
        forced = await command(*SEEK, "1", "--yes", "--force")
        _, moved = await progress_of(bench)

    assert (refused[0], "brokers tell the topic's former ID former: one that lags" in refused[2]) == (MISTAKE, True)
    assert (stands["next"], stands["former"]) == (2, ["former"])
    assert (forced[0], moved["next"]) == (DONE, 1), forced[2]


@pytest.mark.parametrize(
    "where, message",
    [
        ("9", "has offsets 0 to 2 (the next one), not 9"),
        ("soon", "is no offset, 'earliest', 'latest' or time"),
        ("2026-01-31T08:00:00", "a time needs its zone"),
    ],
)
async def test_a_seek_to_nowhere_is_refused(
    database: str, command: Command, log: Callable[[int], None], where: str, message: str
) -> None:
    seen = Seen()
    log(2)
    async with Bench(seen.app, database) as bench:
        await bench.deliver(seen.orders, Order(order_id="a"))
        await bench.settle()

        code, _, errors = await command(*SEEK, where, "--yes")

    assert code == MISTAKE
    assert message in errors


async def test_a_claim_of_a_dead_owner_stays_a_cautious_one_over_a_seek(database: str) -> None:
    """P21: a seek does not make the owner's death a release."""
    seen = Seen()
    async with Bench(seen.app, database) as bench:
        await bench.deliver(seen.orders, Order(order_id="a"))
        await bench.settle()
        await bench.engine.abort()

        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
            place = Place("shop", "orders-0")
            alive = await seek(connection, "dbos", place, to=0, note="", actor="ann", dry_run=True)
            await connection.execute("UPDATE dbos.executor SET died_at = 1, lease_until = 0")
            dead = await seek(connection, "dbos", place, to=0, note="", actor="ann")

    assert (alive.owner_alive, alive.after.released) == (True, True)
    assert (dead.owner_alive, dead.after.released) == (False, False)


# -- what was decided before, and what was passed over


async def test_what_is_filtered_again_after_a_seek_back_is_counted_once(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """I3: `filtered` and `skipped` count records below `next`, not decisions; over a crash on the way, too."""
    seen = Seen()
    seen.passes_over = b"no"
    log(6)
    async with Bench(seen.app, database) as bench:
        for order_id in ("a", "no", "no", "b", "no", "c"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()

        await command(*SEEK, "1", "--yes")
        await taken_up(bench, seen)
        await command(*SEEK, "earliest", "--yes")
        _, stored = await progress_of(bench)
        await bench.crash_now()
        await bench.settle()
        for order_id in ("no", "d"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        _, progress = await progress_of(bench)

    assert stored["counted"] == [[0, 6]]
    assert (progress["next"], progress["filtered"]) == (8, 4)
    assert "counted" not in progress
    assert seen.ran == ["a", "b", "c", "d"]


async def test_a_gap_that_a_seek_back_opens_again_is_taken_back_and_its_records_are_counted(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """I1, I3: what is delivered after all is no gap; nobody had decided it before."""
    seen = Seen()
    seen.passes_over = b"no"
    log(6)
    async with Bench(seen.app, database) as bench:
        ref = bench.ref(seen.orders)
        await bench.deliver(seen.orders, Order(order_id="no"))
        await bench.settle()
        await bench.release(ref)
        for order_id in ("a", "no", "b", "no", "c"):
            first = bench.log[ref][0]
            value = Order(order_id=order_id).model_dump_json().encode()
            bench.log[ref].append(replace(first, offset=len(bench.log[ref]), key=order_id.encode(), value=value))
        await command(*SEEK, "3", "--yes")
        await bench.claim(ref)
        await bench.settle()
        gaps = await bench.fetch_all("SELECT from_offset, to_offset FROM dbos.gap")
        _, before = await progress_of(bench)

        _, shown, _ = await command(*SEEK, "2", "--yes")
        await taken_up(bench, seen)
        shortened = await bench.fetch_all("SELECT from_offset, to_offset FROM dbos.gap")
        _, after = await progress_of(bench)
        await command(*SEEK, "earliest", "--yes")
        await taken_up(bench, seen)
        none = await bench.fetch_all("SELECT from_offset, to_offset FROM dbos.gap")
        _, last = await progress_of(bench)

    assert (gaps, before["filtered"]) == ([(1, 3)], 2)
    assert "offsets 2 to 2 were a gap, which is taken back" in shown
    assert (shortened, after["filtered"]) == ([(1, 2)], 3)
    assert (none, last["filtered"], last["next"]) == ([], 3, 6)
    assert seen.ran == ["b", "c", "a"]


async def test_what_a_seek_forward_passes_over_for_the_second_time_is_no_gap_where_it_was_decided(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """I1: back and forward again: every record in between has a row, or was counted."""
    seen = Seen()
    seen.passes_over = b"no"
    log(4)
    async with Bench(seen.app, database) as bench:
        ref = bench.ref(seen.orders)
        for order_id in ("a", "no", "b"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        await bench.release(ref)

        await command(*SEEK, "earliest", "--yes")
        _, shown, _ = await command(*SEEK, "4", "--yes")
        gaps = await bench.fetch_all("SELECT from_offset, to_offset FROM dbos.gap")
        _, progress = await progress_of(bench)

    assert "offsets 3 to 3 are passed over: a recorded gap" in shown
    assert gaps == [(3, 4)]
    assert (progress["next"], progress["filtered"]) == (4, 1)


# -- a log that is another one


CUT = (*SEEK[:-1], "--new-incarnation", "--to")


async def test_a_log_that_was_cut_goes_on_under_ids_of_its_own(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """P30, case 20: `next` and `high` from there on, and what comes is not taken for what had those offsets before."""
    seen = Seen()
    seen.passes_over = b"no"
    log(3)
    async with Bench(seen.app, database) as bench:
        ref = bench.ref(seen.orders)
        for order_id in ("a", "no", "b", "c", "d"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()
        await bench.release(ref)
        before = await progress_of(bench)

        refused = await command(*SEEK, "2", "--yes")
        unchanged = await progress_of(bench)
        _, shown, _ = await command(*CUT, "latest")
        code, _, errors = await command(*CUT, "latest", "--yes")
        bench.log[ref] = bench.log[ref][:3]
        for order_id in ("C", "D"):
            first = bench.log[ref][0]
            value = Order(order_id=order_id).model_dump_json().encode()
            bench.log[ref].append(replace(first, offset=len(bench.log[ref]), key=order_id.encode(), value=value))
        await bench.claim(ref)
        await bench.settle()
        epoch, progress = await progress_of(bench)
        ids = await bench.fetch_all("SELECT workflow_uuid FROM dbos.workflow_status ORDER BY 1")
        gaps = await bench.fetch_all("SELECT kafka_source, from_offset, to_offset FROM dbos.gap")
        acts = await bench.fetch_all("SELECT actor, action, detail ->> 'detail' FROM dbos.audit")

    assert refused[0] == MISTAKE
    assert "the log of orders-0 ends at 3, and records up to 5 were processed" in refused[2]
    assert "--new-incarnation" in refused[2]
    assert unchanged == before
    assert "incarnation 2 begins at 3: workflows from there on are orders~2-0-…" in shown
    assert "what the log holds from 0 to 2 counts as the former incarnation's: a recorded gap" in shown
    assert (code, errors) == (DONE, "")
    assert seen.ran == ["a", "b", "c", "d", "C", "D"]
    assert (progress["next"], progress["high"], progress["incarnation"], progress["filtered"]) == (5, 5, 2, 0)
    assert epoch > before[0]
    assert ids == [(f"orders-0-{n}",) for n in (0, 2, 3, 4)] + [(f"orders~2-0-{n}",) for n in (3, 4)]
    assert gaps == [("shop|orders~2-0", 0, 3)]
    ((actor, action, detail),) = acts
    assert (actor, action) == ("ann", "seek")
    assert detail.startswith("5 to 3, incarnation 2, epoch ")
    assert detail.endswith("; asked for")


async def test_a_live_owner_is_fenced_by_a_new_incarnation(
    database: str, command: Command, log: Callable[[int], None]
) -> None:
    """P6, P30: as by any seek; what it had under way goes on at its next claim, before what comes."""
    seen = Seen()
    log(2)
    async with Bench(seen.app, database) as bench:
        for order_id in ("a", "b"):
            await bench.deliver(seen.orders, Order(order_id=order_id))
        await bench.settle()

        _, shown, _ = await command(*CUT, "earliest", "--yes")
        await taken_up(bench, seen)

        assert "is fenced" in shown
        assert seen.ran == ["a", "b", "a", "b"]
        assert bench.source(seen.orders).progress.incarnation == 2
