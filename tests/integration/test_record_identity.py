"""Whose a record is, on a real Postgres: by its headers, in its row, for its children; refused without a look into it."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from engine.identity import Identity
from processor import App, ConfigurationError, FromHeaders, SyncTransaction, Topic, Transaction, current_workflow
from processor.testing import Bench


class Order(BaseModel):
    order_id: str


BY_HEADERS = FromHeaders("user", roles="roles")
ADA = (("user", b"ada"), ("roles", b"customer, clerk"), ("secret", b"s"))
EVE = (("user", b"eve"), ("roles", b"guest"))


class Shop:
    """Handlers of each kind; what they saw."""

    def __init__(self, *, required: Sequence[str] = ("clerk",)) -> None:
        self.app = app = App("shop", required_roles=required)
        self.orders = Topic("orders", Order, identity=BY_HEADERS)
        self.bookings = Topic("bookings", Order, identity=BY_HEADERS)
        self.clicks = Topic("clicks", Order, identity=BY_HEADERS)
        self.open = Topic("open", Order, identity=BY_HEADERS)
        self.seen: list[Identity | None] = []

        @app.step()
        async def ship(order_id: str) -> str:
            return order_id

        @app.workflow()
        async def pack(order_id: str) -> str:
            identity = current_workflow().identity
            return f"{order_id} for {identity.user if identity else None}"

        @app.workflow(on=self.orders)
        async def fulfil(order: Order) -> str:
            self.seen.append(current_workflow().identity)
            await ship(order.order_id)
            return await pack(order.order_id)

        @app.transaction(on=self.bookings)
        async def book(tx: Transaction, order: Order) -> None:
            pass

        @app.batch(on=self.clicks, size=10)
        def load(tx: SyncTransaction, clicks: Sequence[Order]) -> None:
            pass

        @app.workflow(on=self.open, roles=())
        async def note(order: Order) -> str | None:
            identity = current_workflow().identity
            return identity.user if identity else None

        self.ship = ship


async def owners(bench: Bench, name: str) -> list[tuple[Any, ...]]:
    return await bench.fetch_all(
        "SELECT workflow_uuid, status, authenticated_user, assumed_role, authenticated_roles FROM dbos.workflow_status"
        " WHERE name = %s ORDER BY 1",
        (name,),
    )


async def letters(bench: Bench) -> list[tuple[Any, ...]]:
    return await bench.fetch_all(
        "SELECT workflow_uuid, reason, convert_from(record_value, 'UTF8') FROM dbos.dead_letter ORDER BY 1"
    )


async def test_a_records_identity_is_in_its_row_in_every_attempt_and_in_its_children(database: str) -> None:
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        bench.crash(after=shop.ship)
        await bench.deliver(shop.orders, Order(order_id="o-1"), headers=ADA)
        await bench.settle()

        assert bench.crashes == 1
        assert set(shop.seen) == {Identity("ada", ("customer", "clerk"), "clerk")}
        roles = '["customer", "clerk"]'
        assert await owners(bench, "fulfil") == [("orders-0-0", "SUCCESS", "ada", "clerk", roles)]
        [(_, status, user, role, _)] = await owners(bench, "pack")
        assert (status, user, role) == ("SUCCESS", "ada", "clerk")
        assert await bench.fetch_all("SELECT output FROM dbos.workflow_status WHERE name = 'fulfil'") == [
            ('"o-1 for ada"',)
        ]
        stored = await bench.fetch_all(
            "SELECT request::json -> 'headers' FROM dbos.workflow_status WHERE name = 'fulfil'"
        )
        assert [name for name, _ in stored[0][0]] == ["user", "roles"]


@pytest.mark.parametrize("topic, name", [("orders", "fulfil"), ("bookings", "book"), ("clicks", "load")])
async def test_records_of_nobody_and_of_the_wrong_role_are_dead_letters_of_every_kind_of_handler(
    database: str, topic: str, name: str
) -> None:
    """I1: a row and a dead letter with that reason and the raw bytes, in order; the others go on."""
    shop = Shop()
    on: Topic[Order] = getattr(shop, topic)
    async with Bench(shop.app, database) as bench:
        for headers in (ADA, EVE, (), (("user", b"\xff"),), ADA):
            await bench.deliver(on, Order(order_id="o-1"), headers=headers)
        await bench.settle()

        statuses = {row[0]: (row[1], row[2]) for row in await owners(bench, name)}
        assert statuses == {
            f"{topic}-0-0": ("SUCCESS", "ada"),
            f"{topic}-0-1": ("ERROR", "eve"),
            f"{topic}-0-2": ("ERROR", None),
            f"{topic}-0-3": ("ERROR", None),
            f"{topic}-0-4": ("SUCCESS", "ada"),
        }
        value = '{"order_id":"o-1"}'
        assert await letters(bench) == [(f"{topic}-0-{offset}", "unauthorized", value) for offset in (1, 2, 3)]
        errors = await bench.fetch_all("SELECT error FROM dbos.dead_letter ORDER BY dead_letter_id")
        assert "user 'eve' has none of the roles it requires: clerk" in errors[0][0]


async def test_a_refused_record_that_is_retried_is_judged_again(database: str) -> None:
    """By the roles that are required then: its headers are stored."""
    async with Bench(Shop().app, database) as first:
        shop = first.app.workflows["fulfil"].topic
        assert shop is not None
        await first.deliver(shop, Order(order_id="o-1"), headers=EVE)
        await first.settle()
        log = first.log
    later = Shop(required=["guest"])
    async with Bench(later.app, database) as bench:
        bench.log = log
        await bench.execute(
            "UPDATE dbos.workflow_status SET status = 'PENDING', error = NULL, owner_xid = NULL WHERE name = 'fulfil'"
        )
        await bench.claim(bench.ref(later.orders))
        await bench.settle()

        assert await bench.fetch_all("SELECT status, output FROM dbos.workflow_status WHERE name = 'fulfil'") == [
            ("SUCCESS", '"o-1 for eve"')
        ]


async def test_where_no_role_is_required_records_say_whose_they_are_or_not(database: str) -> None:
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await bench.deliver(shop.open, Order(order_id="o-1"), headers=EVE)
        await bench.deliver(shop.open, Order(order_id="o-2"))
        await bench.settle()

        found = await bench.fetch_all(
            "SELECT output FROM dbos.workflow_status WHERE name = 'note' ORDER BY workflow_uuid"
        )
        assert found == [('"eve"',), ("null",)]


def test_roles_of_records_that_nobody_could_have_are_refused_at_registration() -> None:
    app = App("shop", required_roles=["clerk"])
    nobodys = Topic("orders", Order)

    with pytest.raises(ConfigurationError, match=r"no record of Topic\('orders', Order\)\n  says whose it is"):

        @app.workflow(on=nobodys)
        async def fulfil(order: Order) -> None:
            pass

    with pytest.raises(ConfigurationError, match="it takes FromHeaders"):
        Topic("orders", Order, identity="user")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="names of headers"):
        FromHeaders("")
