"""What a handler may ask about itself, in every attempt and replay."""

import logging
from datetime import timedelta

import pytest
from pydantic import BaseModel

from processor import App, Record, Retry, Topic, current_step, current_workflow
from processor.testing import Bench


class Order(BaseModel):
    order_id: str


orders = Topic("orders", Order, headers=("trace",))


async def test_a_line_of_a_workflow_is_written_once_although_its_code_is_replayed(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop")
    keys: list[str] = []

    @app.step()
    async def reserve() -> None:
        keys.append(current_step().idempotency_key)

    @app.step()
    async def charge() -> None:
        keys.append(current_step().idempotency_key)

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        log = current_workflow().logger
        log.info("reserving")
        await reserve()
        log.info("charging")
        await charge()
        log.info("done")

    caplog.set_level(logging.INFO, "processor.workflow")
    async with Bench(app, database) as bench:
        bench.crash(after=charge)
        await bench.deliver(orders, Order(order_id="o-1"))
        await bench.settle()

    lines = [
        (record.message, vars(record)["workflow"]) for record in caplog.records if record.name == "processor.workflow"
    ]
    assert lines.count(("reserving", "orders-0-0")) == 1
    assert lines[-1] == ("done", "orders-0-0")
    assert keys == ["orders-0-0:1", "orders-0-0:2", "orders-0-0:2"], "the same for every attempt of a step"


async def test_attempts_are_counted_and_the_record_is_there_in_each(database: str) -> None:
    app = App("shop")
    seen: list[tuple[int, str, bytes | None]] = []

    @app.workflow(on=orders, retry=Retry(attempts=3, first_delay=timedelta(milliseconds=1)))
    def fulfil(order: Record[Order]) -> None:
        workflow = current_workflow()
        seen.append((workflow.attempt, str(workflow.record), workflow.record.header("trace")))
        assert workflow.record.event == order.event
        if workflow.attempt < 3:
            raise TimeoutError

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(order_id="o-1"), headers=[("trace", b"t"), ("secret", b"s")])
        await bench.advance(timedelta(minutes=1))
        await bench.settle()
        await bench.advance(timedelta(minutes=1))
        await bench.settle()

    assert seen == [(1, "orders-0-0", b"t"), (2, "orders-0-0", b"t"), (3, "orders-0-0", b"t")]
