"""SQL functions as steps: called and recorded in one commit, and in one round trip (I4, I5, P20, P24)."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pydantic import BaseModel

from engine.payloads import PayloadKeys
from processor import App, ConfigurationError
from processor.testing import Bench, CrashPoint
from tests.fixtures.proxy import losing_proxy
from tests.integration.protocol import FAST, until

FUNCTIONS = (
    """
    CREATE SCHEMA shop
    """,
    """
    CREATE TABLE shop.stock (item text PRIMARY KEY, left_over integer NOT NULL CHECK (left_over >= 0))
    """,
    """
    INSERT INTO shop.stock VALUES ('nut', 10), ('bolt', 5)
    """,
    """
    CREATE TABLE shop.taken (item text, quantity integer)
    """,
    """
    CREATE TYPE shop.reservation AS (item text, left_over integer, at timestamptz)
    """,
    """
    CREATE FUNCTION shop.reserve(item text, quantity integer, by jsonb DEFAULT NULL) RETURNS shop.reservation
    LANGUAGE plpgsql AS $$
    DECLARE
        made shop.reservation;
    BEGIN
        UPDATE shop.stock AS s SET left_over = s.left_over - quantity WHERE s.item = reserve.item
        RETURNING s.item, s.left_over, '2026-01-31T12:00:00Z'::timestamptz INTO made;
        INSERT INTO shop.taken VALUES (reserve.item, quantity);
        RETURN made;
    END;
    $$
    """,
    """
    CREATE FUNCTION shop.items(at_least integer) RETURNS SETOF shop.stock LANGUAGE sql AS
    $$ SELECT * FROM shop.stock WHERE left_over >= at_least ORDER BY item $$
    """,
    """
    CREATE FUNCTION shop.tidy() RETURNS void LANGUAGE sql AS $$ DELETE FROM shop.stock WHERE left_over = 0 $$
    """,
    """
    CREATE FUNCTION shop."Total"(prices numeric[], rate numeric) RETURNS numeric LANGUAGE sql AS
    $$ SELECT sum(p) * rate FROM unnest(prices) AS p $$
    """,
    """
    CREATE FUNCTION shop.nobody() RETURNS text LANGUAGE sql AS $$ SELECT NULL $$
    """,
    """
    CREATE FUNCTION shop.describe("by" jsonb) RETURNS text LANGUAGE sql AS $$ SELECT "by" ->> 'name' $$
    """,
)


class Reservation(BaseModel):
    item: str
    left_over: int
    at: datetime


class Stock(BaseModel):
    item: str
    left_over: int


class Person(BaseModel):
    name: str
    since: datetime


class Shop:
    """An app of procedures."""

    def __init__(self) -> None:  # noqa: C901  # many small functions
        self.app = app = App("shop")

        @app.procedure("shop.reserve")
        async def reserve(item: str, quantity: int) -> Reservation: ...

        @app.procedure("shop.reserve", name="reserve_sync")
        def reserve_sync(item: str, quantity: int) -> Reservation: ...

        @app.procedure("shop.items", rows=True)
        async def items(at_least: int) -> list[Stock]: ...

        @app.procedure("shop.tidy")
        async def tidy() -> None: ...

        @app.procedure("shop.Total")
        async def total(prices: list[Decimal], rate: Decimal) -> Decimal: ...

        @app.procedure("shop.nobody")
        async def nobody() -> str | None: ...

        @app.procedure("shop.describe")
        async def describe(by: Person) -> str: ...

        @app.workflow()
        async def order(item: str, quantity: int) -> Reservation:
            return await reserve(item, quantity=quantity)

        @app.workflow()
        def order_sync(item: str, quantity: int) -> Reservation:
            return reserve_sync(item, quantity)

        @app.workflow()
        async def every() -> list[str]:
            await tidy()
            ada = Person(name="ada", since=datetime(2026, 1, 1, tzinfo=UTC))
            return [
                ", ".join(each.item for each in await items(6)),
                str(await total([Decimal("0.10"), Decimal(2)], rate=Decimal("1.5"))),
                str(await nobody()),
                await describe(by=ada),
                str(await items(1_000)),
                str((await app.run_step(reserve_sync, "bolt", 1)).left_over),
            ]

        self.reserve, self.order, self.order_sync, self.every = reserve, order, order_sync, every


async def made(bench: Bench) -> None:
    for function in FUNCTIONS:
        await bench.execute(function)


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_procedure_is_called_and_recorded_in_one_commit(database: str, *, sealed: bool) -> None:
    """I5: arguments by their annotations, results read back by theirs; models, sets, nothing; also where payloads are sealed."""
    shop = Shop()
    settings = replace(FAST, payload_keys=PayloadKeys({"k": b"k" * 32}, "k")) if sealed else FAST
    async with Bench(shop.app, database, settings=settings) as bench:
        await made(bench)
        expected = Reservation(item="nut", left_over=7, at=datetime(2026, 1, 31, 12, tzinfo=UTC))

        assert await shop.order("nut", 3) == expected
        assert (await asyncio.to_thread(shop.order_sync, "nut", 1)).left_over == 6
        assert await shop.every() == ["nut", "3.15", "None", "ada", "[]", "4"]
        handle = await shop.every.start(id="w")
        await handle.result()
        names = [step.name for step in await handle.steps()]
        assert names == ["tidy", "items", "total", "nobody", "describe", "items", "reserve_sync"]


@pytest.mark.parametrize(
    "point", [CrashPoint.TRANSACTION_OPEN, CrashPoint.TRANSACTION_WRITTEN, CrashPoint.TRANSACTION_DURABLE]
)
async def test_a_crash_around_it_takes_it_once(database: str, point: CrashPoint) -> None:
    """I4, I5: before the commit nothing of it stands, after it nothing of it is done again."""
    shop = Shop()
    async with Bench(shop.app, database) as bench:
        await made(bench)
        bench.crash(at=point)
        handle = await shop.order.start("nut", 3)
        await until(lambda: bench.crashes)
        await bench.settle()

        assert (await handle.result()).left_over == 7
        assert await bench.fetch_all("SELECT * FROM shop.taken") == [("nut", 3)]


@pytest.mark.parametrize("side", ["reply", "request"])
async def test_a_lost_commit_is_settled_by_the_record(database: str, side: str) -> None:
    """P24: there, and its result is read; or not, and it is called again."""
    shop = Shop()
    async with losing_proxy(database) as (proxy, dsn), Bench(shop.app, dsn) as bench:
        await made(bench)
        proxy.marker = b"fence_row"
        proxy.lose_commits += side == "reply"
        proxy.lose_requests += side == "request"

        assert (await shop.order("nut", 3)).left_over == 7
        assert proxy.lost == 1
        assert await bench.fetch_all("SELECT * FROM shop.taken") == [("nut", 3)]


async def test_what_it_raises_is_the_workflows_error(database: str) -> None:
    """P26: recorded, and nothing of it stands; one that is not there as well."""
    shop = Shop()

    @shop.app.procedure("shop.gone")
    async def gone() -> None: ...

    @shop.app.workflow()
    async def misses() -> None:
        await gone()

    async with Bench(shop.app, database) as bench:
        await made(bench)
        with pytest.raises(Exception, match="stock_left_over_check"):
            await shop.order("nut", 30)
        with pytest.raises(Exception, match=r"function shop.gone\(\) does not exist"):
            await misses()
        assert await bench.fetch_all("SELECT * FROM shop.taken") == []
        with pytest.raises(ConfigurationError, match="procedure 'reserve': called outside of a workflow"):
            await shop.reserve("nut", 1)


def test_a_declaration_that_could_not_be_called_is_refused() -> None:
    """At registration, by name."""
    app = App("refused")
    with pytest.raises(ConfigurationError, match=r"procedure 'a.b.c': it takes 'function' or 'schema.function'"):
        app.procedure("a.b.c")
    with pytest.raises(ConfigurationError, match=r"rows=True returns a list"):

        @app.procedure("f", rows=True)
        async def one() -> int: ...

    with pytest.raises(ConfigurationError, match="annotate x"):

        async def two(x: int) -> int: ...

        del two.__annotations__["x"]
        app.procedure("f")(two)

    with pytest.raises(ConfigurationError, match="argument x cannot be written as JSON"):

        @app.procedure("f")
        async def three(x: asyncio.Event) -> int: ...

    with pytest.raises(ConfigurationError, match="name its arguments one by one"):

        @app.procedure("f")
        async def four(*x: int) -> int: ...
