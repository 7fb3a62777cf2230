"""Sealed payloads of workflows without a source, of children and of who awaits them (decision 0012, P29, P31)."""

import asyncio
from dataclasses import replace

import pytest

from engine import unreadable
from engine.payloads import PayloadKeys, UnreadablePayloadError
from engine.settings import EngineSettings
from engine.telemetry import PayloadUnreadable
from processor import App, DeadLetter, StepInfo, TerminalError, Topic, WorkflowConflictError, WorkflowStatus, publish
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, until_row
from tests.integration.test_sealed_payloads import CANARY, NEW, OLD, readable, rekey, sealed


class Family:
    """Workflows that start and await each other; everything that goes between them has the canary."""

    def __init__(self) -> None:
        self.app = app = App("family")
        self.gate = asyncio.Event()
        self.gate.set()
        self.began: list[str] = []
        self.orders = orders = Topic("orders", Order, key=lambda order: order.key)

        @app.step()
        async def work(text: str) -> str:
            self.began.append(text)
            await self.gate.wait()
            if "fail" in text:
                raise TerminalError(text)
            return text

        @app.workflow(version="1")
        async def child(text: str) -> str:
            return await work(text)

        @app.workflow(version="1")
        async def parent(text: str) -> list[str]:
            handle = await child.start(f"{text} one")
            named = await child.start(f"{text} two", id=f"named {text[-1]}")
            said = ""
            try:
                await child(f"{text} fail")
            except TerminalError as error:
                said = str(error)
            return [await handle.result(), await named.result(), said]

        @app.workflow(version="1")
        async def asks(workflow_id: str) -> str:
            return await child.retrieve(workflow_id).result()

        @app.workflow(version="1")
        async def looks(workflow_id: str) -> list[StepInfo]:
            return await child.retrieve(workflow_id).steps()

        @app.workflow(on=orders)
        async def handle(order: Order) -> list[str]:
            return await parent(f"{CANARY} {order.n}")

        self.child, self.parent, self.asks, self.looks = child, parent, asks, looks


async def until_unreadable(bench: Bench, count: int = 1) -> list[PayloadUnreadable]:
    """Wait until workflows were put off."""
    while len(found := [event for event in bench.events if isinstance(event, PayloadUnreadable)]) < count:
        await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("settings", [sealed(), sealed(replace(FAST, inputs_inline_max=10))], ids=["inline", "apart"])
async def test_nothing_of_starts_children_and_results_is_readable(database: str, settings: EngineSettings) -> None:
    """Inputs, checkpoints with results and errors of children, outcomes; and who has a handle reads all of it."""
    family = Family()
    async with Bench(family.app, database, settings=settings) as bench:
        handle = await family.parent.start(f"{CANARY} 1", id="p")
        await bench.deliver(family.orders, Order(key="a", n=2))
        await bench.settle()

        assert await readable(bench) == []
        assert await bench.fetch_all(
            "SELECT count(*), count(*) FILTER (WHERE status = 'ERROR') FROM dbos.workflow_status"
        ) == [(9, 2)]
        assert await handle.result() == [f"{CANARY} 1 one", f"{CANARY} 1 two", f"{CANARY} 1 fail"]
        info, steps = await handle.status(), await handle.steps()
        assert (info.status, CANARY in (info.inputs or ""), CANARY in (info.output or "")) == (
            WorkflowStatus.SUCCESS,
            True,
            True,
        )
        assert [step.name for step in steps if CANARY in f"{step.output} {step.error}"] == ["DBOS.getResult"] * 3


async def test_the_same_start_again_is_recognised_over_its_sealed_inputs(database: str) -> None:
    """Two seals of one value differ; it is what they seal that is compared. Children with IDs of their own as well."""
    family = Family()
    async with Bench(family.app, database, settings=sealed(current="old")) as bench:
        await family.child.start(CANARY, id="c")
        rekey(bench)
        await bench.restart()

        assert await (await family.child.start(CANARY, id="c")).result() == CANARY
        with pytest.raises(WorkflowConflictError, match="other inputs"):
            await family.child.start("something else", id="c")
        rekey(bench, new=NEW)
        await bench.restart()
        with pytest.raises(UnreadablePayloadError, match="workflow c: inputs is sealed with key 'old'"):
            await family.child.start(CANARY, id="c")


async def test_a_workflow_is_recovered_from_its_sealed_inputs_and_history(database: str) -> None:
    """I4: a crash behind the first child; what is recorded is not run again, under whatever key that is known."""
    family = Family()
    family.gate.clear()
    async with Bench(family.app, database, settings=sealed(current="old")) as bench:
        await family.parent.start(f"{CANARY} 1", id="p")
        await until_row(bench, "name = 'child' AND status = 'PENDING'")
        rekey(bench)
        await bench.crash_now()
        family.gate.set()
        await bench.settle()

        assert await family.parent.retrieve("p").result() == [f"{CANARY} 1 {which}" for which in ("one", "two", "fail")]
        assert await readable(bench) == []


async def test_a_row_whose_key_is_missing_rests_for_whoever_has_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: it fails nobody, is said, and goes on when a process with its key takes it; no attempt or death is counted."""
    monkeypatch.setattr(unreadable, "AGAIN_MS", 300)
    family = Family()
    family.gate.clear()
    async with Bench(family.app, database, settings=sealed(current="old")) as bench:
        await family.child.start(CANARY, id="c")
        await until_row(bench, "status = 'PENDING' AND owner_xid IS NOT NULL")
        rekey(bench, new=NEW)
        await bench.restart()

        event, _ = await until_unreadable(bench, 2)
        assert event.workflow_id == "c"
        assert event.reason.startswith(
            "workflow c: inputs is sealed with key 'old', which is not among those configured"
        )
        assert await bench.fetch_all("SELECT status, error, output FROM dbos.workflow_status") == [
            ("PENDING", None, None)
        ]

        rekey(bench)
        await bench.restart()
        family.gate.set()
        await bench.settle()
        assert await family.child.retrieve("c").result() == CANARY
        assert await bench.fetch_all("SELECT recovery_attempts FROM dbos.workflow_status") == [(0,)]


@pytest.mark.parametrize("question", ["asks", "looks"])
async def test_who_awaits_a_result_that_cannot_be_opened_waits_for_its_key(
    database: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting is nobody's failure: not of the workflow that asks either, and nothing of it is remembered as an error."""
    monkeypatch.setattr(unreadable, "AGAIN_MS", 300)
    family = Family()
    async with Bench(family.app, database, settings=sealed(current="old")) as bench:
        await family.child.start(CANARY, id="c")
        await bench.settle()
        rekey(bench, new=NEW)
        await bench.restart()

        await getattr(family, question).start("c", id="q")
        event, _ = await until_unreadable(bench, 2)
        assert event.workflow_id == "q"
        assert "sealed with key 'old'" in event.reason
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs WHERE workflow_uuid = 'q'") == [(0,)]
        with pytest.raises(UnreadablePayloadError, match="workflow c: output is sealed with key 'old'"):
            await family.child.retrieve("c").result()
        with pytest.raises(UnreadablePayloadError, match="workflow c: "):
            await family.child.retrieve("c").status()

        rekey(bench)
        await bench.restart()
        await bench.settle()
        assert CANARY in str(await getattr(family, question).retrieve("q").result())


async def test_events_are_for_readers_without_a_key(database: str) -> None:
    """What is published is the users' business: a dead letter's own bytes, an event as its topic encodes it (decision 0008)."""
    app = App("shop")
    orders, shipments = Topic("orders", Order, key=lambda order: order.key), Topic("shipments", Order)

    @app.workflow(on=orders, on_failure=DeadLetter(topic="orders.dead"))
    async def ship(order: Order) -> None:
        await publish(shipments, order)
        raise TerminalError(CANARY)

    async with Bench(app, database, settings=sealed()) as bench:
        await bench.deliver(orders, Order(key=CANARY, n=1))
        await bench.settle()

        assert set(await readable(bench)) == {f"outbox.record_{part}" for part in ("key", "value", "headers")}
        assert await bench.published(shipments) == [Order(key=CANARY, n=1)]
        assert await bench.fetch_all("SELECT topic FROM dbos.outbox ORDER BY 1") == [("orders.dead",), ("shipments",)]


async def test_without_a_current_key_sealed_rows_are_gone_on_with_and_new_values_are_readable(database: str) -> None:
    """Switching it off: reading wants keys, none of which has to be the current one."""
    family = Family()
    family.gate.clear()
    async with Bench(family.app, database, settings=sealed()) as bench:
        await family.child.start(CANARY, id="c")
        await until_row(bench, "status = 'PENDING' AND owner_xid IS NOT NULL")
        bench.settings = replace(bench.settings, payload_keys=PayloadKeys({"new": NEW, "old": OLD}))
        await bench.restart()
        family.gate.set()
        await bench.settle()

        assert await family.child.retrieve("c").result() == CANARY
        assert sorted(await readable(bench)) == ["operation_outputs.output", "workflow_status.output"]
