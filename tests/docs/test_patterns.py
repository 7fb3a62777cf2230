"""What docs/guides/testing.md, changing-code.md and publishing.md show, as it stands there."""

from datetime import timedelta

import pytest
from pydantic import BaseModel

from examples import publishing
from processor import App, NondeterminismError, Retry, TerminalError, Topic, Transaction
from processor.testing import Bench, CrashPoint
from tests.fixtures.crash_points import RECORDS, STEPS, TRANSACTIONS


class Order(BaseModel):
    order_id: str
    cents: int


app = App("shop")
orders = Topic("orders", Order, key=lambda order: order.order_id)
tries: list[str] = []


@app.step()
async def charge(order: Order) -> str:
    tries.append(order.order_id)
    if order.order_id == "late" and tries.count("late") == 1:
        raise ConnectionError("the gateway is away")
    return f"receipt of {order.order_id}"


@app.transaction()
async def record(tx: Transaction, order: Order, receipt: str) -> None:
    await tx.execute("INSERT INTO sale (order_id, receipt) VALUES (%s, %s)", (order.order_id, receipt))


@app.workflow(on=orders, retry=Retry(attempts=2, first_delay=timedelta(hours=1)))
async def fulfil(order: Order) -> None:
    if order.cents <= 0:
        raise TerminalError(f"order {order.order_id}: nothing to charge")
    await record(order, await charge(order))


@pytest.fixture
def dsn(database: str) -> str:
    """In a user's project a fixture of the starter."""
    return database


@pytest.fixture(autouse=True)
async def _table(dsn: str) -> None:
    tries.clear()
    async with Bench(app, dsn) as bench:
        await bench.execute("CREATE TABLE sale (order_id text, receipt text)")


# -- docs/guides/testing.md


async def test_what_a_step_does_is_tested_as_a_function() -> None:
    assert await charge.fn(Order(order_id="o-1", cents=100)) == "receipt of o-1"


async def test_a_sale_asks_for_its_shipment(dsn: str) -> None:
    async with Bench(publishing.app, dsn) as bench:
        await bench.deliver(publishing.orders, publishing.OrderPlaced(order_id="o-1", cents=100))
        await bench.settle()

        assert await bench.published(publishing.shipments) == [publishing.ShipmentRequested(order_id="o-1")]


async def test_a_record_that_is_delivered_again_does_nothing(dsn: str) -> None:
    async with Bench(app, dsn) as bench:
        await bench.deliver(orders, Order(order_id="o-1", cents=100), offset=7)
        await bench.deliver(orders, Order(order_id="o-1", cents=100), offset=7)
        await bench.settle()

        assert await bench.fetch_all("SELECT order_id FROM sale") == [("o-1",)]


@pytest.mark.crash_points(*RECORDS, *STEPS, *TRANSACTIONS)
async def test_every_sale_stands_once_wherever_the_process_dies(dsn: str, crash_point: CrashPoint | None) -> None:
    async with Bench(app, dsn) as bench:
        bench.crash(at=crash_point)
        for number in range(10):
            await bench.deliver(orders, Order(order_id=f"o-{number}", cents=100))
        await bench.settle()

        sold = await bench.fetch_all("SELECT order_id FROM sale ORDER BY order_id")
        assert sold == [(f"o-{number}",) for number in range(10)]


async def test_a_bad_payload_and_a_bad_order_are_dead_letters(dsn: str) -> None:
    async with Bench(app, dsn) as bench:
        await bench.deliver(orders, b"{not json", key=b"o-1")
        await bench.deliver(orders, Order(order_id="o-2", cents=0))
        await bench.settle()

        letters = await bench.fetch_all("SELECT reason FROM dbos.dead_letter ORDER BY kafka_offset")
        assert letters == [("undecodable",), ("failed",)]


async def test_a_retry_waits_for_its_time(dsn: str) -> None:
    async with Bench(app, dsn) as bench:
        await bench.deliver(orders, Order(order_id="late", cents=100))
        await bench.settle()
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("PENDING",)]

        await bench.advance(timedelta(hours=1, minutes=1))
        await bench.settle()

        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status") == [("SUCCESS",)]


async def test_two_processes_share_one_partition_one_after_the_other(dsn: str) -> None:
    async with Bench(app, dsn, executor="one") as one, Bench(app, dsn, executor="two", beside=one) as two:
        await one.deliver(orders, Order(order_id="o-1", cents=100))
        await one.settle()
        await one.release(one.ref(orders))

        await two.deliver(orders, Order(order_id="o-2", cents=100))
        await two.settle()

        assert await two.fetch_all("SELECT order_id FROM sale ORDER BY 1") == [("o-1",), ("o-2",)]


# -- docs/guides/changing-code.md


class Placed(BaseModel):
    order_id: str


placed = Topic("placed", Placed, key=lambda order: order.order_id)


async def ship_slowly() -> str:
    if not tries:
        tries.append("ship")
        raise ConnectionError("no car")
    return "shipped"


def release_1() -> App:
    old = App("shop")

    @old.step(name="charge")
    async def charge(order: Placed) -> str:
        return f"receipt of {order.order_id}"

    @old.workflow(on=placed, retry=Retry(attempts=3, first_delay=timedelta(hours=1)))
    async def deliver(order: Placed) -> str:
        receipt = await charge(order)
        return f"{receipt} {await old.run_step(ship_slowly)}"

    return old


def release_2(*, step_keeps_its_name: bool) -> App:
    """The function got another name; with `name=` the history still knows it."""
    new = App("shop")

    @new.step(name="charge" if step_keeps_its_name else "take_money")
    async def take_money(order: Placed) -> str:
        raise AssertionError("it is recorded: nobody calls it again")

    @new.workflow(on=placed, retry=Retry(attempts=3, first_delay=timedelta(hours=1)))
    async def deliver(order: Placed) -> str:
        receipt = await take_money(order)
        return f"{receipt} {await new.run_step(ship_slowly)}"

    return new


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_workflow_under_way_goes_on_with_new_code_if_its_history_fits(dsn: str, keeps: bool) -> None:
    async with Bench(release_1(), dsn) as bench:
        await bench.deliver(placed, Placed(order_id="o-1"))
        await bench.settle()
    async with Bench(release_2(step_keeps_its_name=keeps), dsn) as bench:
        await bench.claim(bench.ref(placed))
        await bench.advance(timedelta(hours=2))
        await bench.settle()

        ((status, output, error),) = await bench.fetch_all("SELECT status, output, error FROM dbos.workflow_status")
        if keeps:
            assert (status, output) == ("SUCCESS", '"receipt of o-1 shipped"')
        else:
            assert status == "ERROR"
            assert NondeterminismError.__name__ in str(error)
            assert "the history has step 'charge' here, the code called 'take_money'" in str(error)


def test_a_version_is_of_the_code(dsn: str) -> None:
    def version(app: App) -> str:
        return app.workflows["deliver"].code_version

    assert version(release_1()) == version(release_1())
    assert version(release_1()) != version(release_2(step_keeps_its_name=True))
