"""Whoever has taken the ID of a child that is to come gets an error on one side: nobody gets somebody else's result (P31)."""

import asyncio
import json
from datetime import timedelta

import psycopg
import pytest
from pydantic import BaseModel

from engine.crashpoints import CrashPoint
from engine.errors import WorkflowConflictError
from processor import App, Http, Identity, Topic, WorkflowHandle, sleep
from processor.testing import Bench
from tests.integration.protocol import FAST, PATIENCE_S, until
from tests.integration.test_sealed_payloads import sealed

DAY = timedelta(days=1)

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class Order(BaseModel):
    n: int


orders = Topic("orders", Order, key=lambda order: str(order.n))


class Shop:
    """Children whose IDs somebody has taken before them."""

    def __init__(self) -> None:  # noqa: C901  # a list of workflows
        self.app = app = App("shop")
        self.paid: list[int] = []
        self.got: list[str] = []

        @app.step()
        async def charge(n: int) -> str:
            self.paid.append(n)
            return f"receipt {n}"

        @app.step()
        async def note(text: str) -> None:
            self.got.append(text)

        @app.workflow(on=Http("POST", "/echo"), roles=["customer"])
        async def echo(text: str) -> str:
            return text

        @app.workflow()
        async def other(n: int) -> str:
            return f"other {n}"

        @app.workflow()
        async def pay(n: int) -> str:
            return await charge(n)

        @app.workflow(on=Http("POST", "/buy"), roles=["customer"])
        async def buy(n: int) -> str:
            return await pay(n)

        @app.workflow()
        async def asks(n: int) -> str:
            return await pay(n)

        @app.workflow()
        async def catches(n: int) -> str:
            try:
                return await pay(n)
            except WorkflowConflictError:
                await note("conflict")
                await sleep(DAY)
                return await pay(n + 1)

        @app.workflow()
        async def forgets(n: int) -> str:
            await pay.start(n)
            await pay.start(n + 1)
            return "done"

        @app.workflow(on=orders)
        async def receive(order: Order) -> None:
            try:
                await note(await pay(order.n))
            except WorkflowConflictError:
                await note(f"conflict {order.n}")

        @app.workflow()
        async def debounces(n: int) -> str:
            return (await pay.debounce("k", wait=DAY).start(n)).id

        self.other, self.pay, self.asks = other, pay, asks
        self.catches, self.forgets, self.debounces = catches, forgets, debounces


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_a_child_does_not_adopt_another_workflow_under_its_id(database: str, shop: Shop) -> None:
    """The parent is given the error, and the child's effect is nobody's."""
    async with Bench(shop.app, database, settings=FAST):
        await (await shop.other.start(3, id="a-1")).result()
        with pytest.raises(WorkflowConflictError):
            await (await shop.asks.start(7, id="a")).result()
    assert shop.paid == []


@pytest.mark.parametrize("n", [3, 7])
async def test_a_child_does_not_adopt_its_own_function_that_it_has_not_started(
    database: str, shop: Shop, n: int
) -> None:
    """With other inputs, and with the same: what stands says who started it."""
    async with Bench(shop.app, database, settings=FAST):
        await (await shop.pay.start(3, id="b-1")).result()
        with pytest.raises(WorkflowConflictError):
            await (await shop.asks.start(n, id="b")).result()
    assert shop.paid == [3]


async def test_the_conflict_is_remembered_and_the_parent_goes_on(database: str, shop: Shop) -> None:
    """It catches the error, and every replay gets it again, whatever became of the one that had the ID."""
    async with Bench(shop.app, database, settings=FAST) as bench:
        await (await shop.other.start(3, id="c-1")).result()
        handle = await shop.catches.start(7, id="c")
        await bench.settle()
        await bench.advance(DAY)
        assert await handle.result() == "receipt 8"
    assert (shop.paid, shop.got) == ([8], ["conflict"])


async def test_a_parent_that_has_returned_is_taken_back(database: str, shop: Shop) -> None:
    """It did not wait for its child: the end it had comes to nothing, and so does what it started behind it."""
    async with Bench(shop.app, database, settings=FAST) as bench:
        await (await shop.other.start(3, id="d-1")).result()
        with pytest.raises(WorkflowConflictError):
            await (await shop.forgets.start(7, id="d")).result()
        await bench.settle()
    assert shop.paid == []


async def test_a_request_does_not_get_the_answer_of_another_one(database: str, shop: Shop) -> None:
    """A client took the ID of what its own later request starts."""
    async with Bench(shop.app, database, settings=FAST) as bench:
        client = bench.http(identity=Identity("ada", ("customer",)))
        await client.post("/echo?text=receipt+7", headers={"Idempotency-Key": "my-1"})
        await bench.settle()
        await client.post("/buy?n=7", headers={"Idempotency-Key": "my"})
        await bench.settle()
        answer = (await client.get("/workflows/my")).json()
    assert answer["status"] == "ERROR"
    assert shop.paid == []


async def test_a_client_cannot_forge_the_child_of_a_record_that_is_to_come(database: str, shop: Shop) -> None:
    """Its partition goes on, and the record is told."""
    async with Bench(shop.app, database, settings=FAST) as bench:
        await bench.deliver(orders, Order(n=6), offset=6)
        await bench.settle()
        client = bench.http(identity=Identity("mallory", ("customer",)))
        await client.post("/echo?text=forged", headers={"Idempotency-Key": "orders-0-7-1"})
        for n in (7, 8):
            await bench.deliver(orders, Order(n=n), offset=n)
        await bench.settle()
    assert sorted(shop.got) == ["conflict 7", "receipt 6", "receipt 8"]
    assert sorted(shop.paid) == [6, 8]


async def test_what_a_workflow_debounces_to_does_not_meet_another_one(database: str, shop: Shop) -> None:
    """Its ID is its parent's and a number as well."""
    async with Bench(shop.app, database, settings=FAST):
        await (await shop.other.start(3, id="e-1")).result()
        with pytest.raises(WorkflowConflictError):
            await (await shop.debounces.start(7, id="e")).result()


class Sharing:
    """Parents whose children are given one ID."""

    def __init__(self) -> None:
        self.app = app = App("sharing")

        @app.workflow()
        async def child(n: int) -> int:
            return n

        @app.workflow()
        async def parent(n: int) -> int:
            return await (await child.start(n, id="shared")).result()

        @app.workflow()
        async def both(first: int, second: int) -> list[str]:
            calls = (child.start(first, id="shared"), child.start(second, id="shared"))
            found = await asyncio.gather(*calls, return_exceptions=True)
            return [each.id if isinstance(each, WorkflowHandle) else type(each).__name__ for each in found]

        self.child, self.parent, self.both = child, parent, both


async def test_parents_that_give_one_id_to_other_inputs_at_once_get_one_child_and_errors(database: str) -> None:
    """Each has looked before any of them had a row: the flush finds out."""
    sharing = Sharing()
    async with Bench(sharing.app, database, settings=FAST) as bench:
        handles = await asyncio.gather(*[sharing.parent.start(n, id=f"p{n}") for n in (1, 2, 1, 3)])
        direct = asyncio.gather(*[sharing.child.start(n, id="shared") for n in (1, 2)], return_exceptions=True)
        found = await asyncio.gather(*[each.result() for each in handles], return_exceptions=True)
        await direct
        [(inputs,)] = await bench.fetch_all("SELECT inputs FROM dbos.workflow_status WHERE workflow_uuid = 'shared'")
    won = json.loads(inputs)["args"][0]
    for n, each in zip((1, 2, 1, 3), found, strict=True):
        assert each == n if n == won else isinstance(each, WorkflowConflictError)


@pytest.mark.parametrize("second, found", [(1, ["shared", "shared"]), (2, ["shared", "WorkflowConflictError"])])
async def test_a_workflow_gives_one_id_twice_at_once(database: str, second: int, found: list[str]) -> None:
    """The same workflow with the same inputs is one child; with others it is the error of the call that came later.

    Which that is, is open: each looks first, and whose look ends first is the first.
    """
    sharing = Sharing()
    async with Bench(sharing.app, database, settings=FAST):
        assert sorted(await (await sharing.both.start(1, second)).result(), reverse=True) == found


async def test_a_conflict_is_found_where_payloads_are_sealed(database: str) -> None:
    """Equal inputs differ as they are stored; what is compared was opened."""
    sharing = Sharing()
    async with Bench(sharing.app, database, settings=sealed(current="new")) as bench:
        assert await (await sharing.both.start(1, 1)).result() == ["shared", "shared"]
        with pytest.raises(WorkflowConflictError):
            await (await sharing.parent.start(2)).result()
        await bench.settle()


@pytest.mark.crash_points(CrashPoint.FLUSH_BUILT, CrashPoint.FLUSH_SENT, CrashPoint.FLUSH_DURABLE)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_crash_around_a_conflict_gives_the_same_error_once(
    database: str, shop: Shop, crash_point: CrashPoint | None, times: int
) -> None:
    """I4: the flush that meets the ID, and the one that has the verdict, before and behind their commits."""
    async with Bench(shop.app, database) as bench:
        assert await (await shop.other.start(3, id="orders-0-0-1")).result() == "other 3"
        bench.crash(at=crash_point, times=times)
        await bench.deliver(orders, Order(n=7))
        await bench.settle()

        rows = await bench.fetch_all("SELECT status FROM dbos.workflow_status WHERE workflow_uuid = 'orders-0-0'")
        assert rows == [("SUCCESS",)]
        assert (set(shop.got), shop.paid) == ({"conflict 7"}, [])
        recorded = await bench.fetch_all(
            "SELECT function_id, error FROM dbos.operation_outputs WHERE error IS NOT NULL"
        )
        assert [place for place, _ in recorded] == [1]
        assert WorkflowConflictError.__name__ in str(recorded[0][1])


@pytest.mark.parametrize("charge_is_first", [True, False])
async def test_a_step_that_has_run_beside_a_conflict_is_not_run_again(database: str, charge_is_first: bool) -> None:
    """I4: it completes while the flush with the child waits for the ID, so that its record comes behind the child's.

    Of a higher place it has begun while it was looked whether the ID that the child was given is taken.
    """
    app, charged, gate = App("shop"), list[int](), asyncio.Event()

    @app.step()
    async def charge(n: int) -> str:
        charged.append(n)
        await gate.wait()
        return f"receipt {n}"

    @app.workflow()
    async def pay(n: int) -> None: ...

    @app.workflow()
    async def buy(n: int) -> str:
        calls = [charge(n), pay.start(n)] if charge_is_first else [pay.start(n, id="a-2"), charge(n)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return " ".join(each if isinstance(each, str) else type(each).__name__ for each in answers)

    async with Bench(app, database, settings=FAST) as bench, await psycopg.AsyncConnection.connect(database) as other:
        await other.execute(
            "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, inputs, created_at, updated_at) "
            "VALUES ('a-2', 'SUCCESS', 'somebody', '{}', 0, 0)"
        )  # not committed yet: the flush that has the child waits for it
        handle = await buy.start(7, id="a")
        async with asyncio.timeout(PATIENCE_S):
            while await bench.fetch_all(WAITING) != [(1,)]:
                await asyncio.sleep(0.01)
        gate.set()
        await until(lambda: any(run.unsent for run in bench.engine.commons.runs.values()))
        await other.commit()

        expected = ["receipt 7", "WorkflowConflictError"]
        assert await handle.result() == " ".join(expected if charge_is_first else reversed(expected))
    assert charged == [7]
