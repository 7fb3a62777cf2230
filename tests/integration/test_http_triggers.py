"""HTTP triggers on a real Postgres: bound, durable before the answer, one workflow for each key, and whose it is."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from processor import (
    App,
    ConfigurationError,
    Http,
    Identity,
    IncomingRequest,
    NotAuthorizedError,
    TerminalError,
    Topic,
    acting_as,
    current_workflow,
)
from processor.config_web import WebSettings
from processor.testing import Bench, CrashPoint

ALICE = Identity("alice", ("customer",))
BOB = Identity("bob", ("customer", "clerk"))


class Order(BaseModel):
    item: str
    amount: int = 1


class Shop:
    """An app with triggers of every kind."""

    def __init__(self) -> None:
        self.app = app = App("shop")
        self.calls: Counter[str] = Counter()
        self.seen: list[tuple[Any, ...]] = []
        self.gates: dict[str, asyncio.Event] = {}

        @app.step()
        async def charge(order_id: str) -> str:
            self.calls[order_id] += 1
            if (gate := self.gates.get(order_id)) is not None:
                await gate.wait()
            return f"receipt-{order_id}"

        @app.post("/orders/{order_id}", roles=["customer"], headers=["X-Trace"])
        async def place(order_id: str, order: Order, *, express: bool = False) -> str:
            """Places an order."""
            if order.amount < 0:
                raise TerminalError(f"order {order_id}: nothing to charge")
            workflow = current_workflow()
            self.seen.append((workflow.identity, workflow.request, express))
            return await charge(order_id)

        @app.get("/prices/{item}", wait=timedelta(seconds=20), roles=["customer", "clerk"])
        async def price(item: str, currency: str = "EUR") -> dict[str, str]:
            if item == "none":
                raise TerminalError("no such item")
            return {"item": item, "currency": currency}

        @app.http("PUT", "/hooks", public=True)
        def hook(events: list[Order]) -> int:
            return len(events)

        @app.workflow(on=Http("DELETE", "/orders/{order_id}"), roles=["clerk"])
        async def drop(order_id: str) -> str:
            return await inner(order_id)

        @app.workflow(roles=["clerk"])
        async def inner(order_id: str) -> str:
            identity = current_workflow().identity
            assert identity is not None
            return f"{order_id} by {identity.user} as {identity.role}"

        self.charge, self.place, self.price, self.drop, self.inner = charge, place, price, drop, inner


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def count(bench: Bench) -> int:
    return (await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status"))[0][0]


async def test_a_request_is_durable_before_it_is_answered_and_says_whose_it_is(database: str, shop: Shop) -> None:
    """P29: the row stands, with arguments, identity and the request as far as it is stored."""
    async with Bench(shop.app, database) as bench:
        shop.gates["o 1"] = asyncio.Event()
        client = bench.http(identity=ALICE).with_headers(x_trace="t-1", x_other="secret")

        answer = await client.post(
            "/orders/o%201?express=true", json={"item": "book"}, headers={"Idempotency-Key": "k"}
        )
        rows = await bench.fetch_all(
            "SELECT workflow_uuid, status, name, inputs, authenticated_user, assumed_role, authenticated_roles, request::json"
            "  FROM dbos.workflow_status"
        )
        shop.gates["o 1"].set()
        await bench.settle()

        assert (answer.status, answer.json()) == (202, {"workflow_id": "k", "status": "PENDING"})
        assert answer.headers["Location".lower()] == "/workflows/k"
        request = {
            "method": "POST",
            "route": "/orders/{order_id}",
            "path": "/orders/o 1",
            "query": "express=true",
            "headers": {"x-trace": "t-1"},
            "client": "127.0.0.1",
        }
        inputs = '{"args": ["o 1", {"item":"book","amount":1}], "kwargs": {"express": true}}'
        assert rows == [("k", "PENDING", "place", inputs, "alice", "customer", '["customer"]', request)]
        [(identity, seen, express)] = shop.seen
        assert (identity, express) == (Identity("alice", ("customer",), "customer"), True)
        assert (seen.method, seen.path, seen.headers) == ("POST", "/orders/o 1", {"x-trace": "t-1"})
        own = await client.get("/workflows/k")
        assert own.json() == {
            "workflow_id": "k",
            "name": "place",
            "status": "SUCCESS",
            "result": "receipt-o 1",
            "error": None,
        }


async def test_the_same_key_is_the_same_workflow(database: str, shop: Shop) -> None:
    """I2 for requests: sent again, beside each other and later, by either header, it runs once."""
    async with Bench(shop.app, database) as bench:
        client = bench.http(identity=ALICE)
        keys = [{"Idempotency-Key": "k-1"}, {"dbos-workflow-id": "k-1"}, {"Idempotency-Key": '"k-1"'}] * 5

        answers = await asyncio.gather(*(client.post("/orders/o-1", json={"item": "a"}, headers=key) for key in keys))
        await bench.settle()
        again = await client.post("/orders/o-1", json={"item": "a"}, headers=keys[0])

        assert {(each.status, each.json()["workflow_id"]) for each in [*answers, again]} == {(202, "k-1")}
        assert again.json()["status"] == "SUCCESS"
        assert shop.calls == {"o-1": 1}
        assert await count(bench) == 1


async def test_another_body_another_route_or_another_user_under_a_key_is_refused(database: str, shop: Shop) -> None:
    """Nobody gets somebody else's result by guessing a key, and nothing is started."""
    async with Bench(shop.app, database) as bench:
        client, other = bench.http(identity=ALICE), bench.http(identity=BOB)
        key = {"Idempotency-Key": "k"}
        first = await client.post("/orders/o-1", json={"item": "a"}, headers=key)

        body = await client.post("/orders/o-1", json={"item": "b"}, headers=key)
        route = await client.get("/prices/a", headers=key)
        user = await other.post("/orders/o-1", json={"item": "a"}, headers=key)
        own = await other.get("/workflows/k")
        both = await client.post("/orders/o-1", json={"item": "a"}, headers=key | {"dbos-workflow-id": "l"})
        await bench.settle()

        assert [each.status for each in (first, body, route, user, own, both)] == [202, 409, 409, 409, 404, 422]
        assert "somebody else's" in user.json()["detail"]
        assert "other inputs" in body.json()["detail"]
        assert await count(bench) == 1


async def test_a_key_that_is_the_engines_own_to_give_is_refused(database: str) -> None:
    """I1: whoever could take a record's ID would keep the record from running."""
    app = App("shop")
    orders = Topic("orders", Order)

    @app.workflow(on=orders)
    async def fulfil(order: Order) -> None:
        pass

    @app.post("/orders")
    async def place(order: Order) -> None:
        await fulfil.start(order)

    async with Bench(app, database) as bench:
        await bench.deliver(orders, Order(item="a"))
        client = bench.http(identity=ALICE)

        async def status(key: str) -> int:
            return (await client.post("/orders", json={"item": "a"}, headers={"Idempotency-Key": key})).status

        assert await status("parent") == 202
        refused = [await status(key) for key in ("orders-0-7", "shop|orders~2-0-7", "sched-x", "parent-3")]
        assert refused == [422, 422, 422, 422]
        assert [await status(key) for key in ("order-17", "nobody-3")] == [202, 202]
        assert [await status(key) for key in ("", "x" * 513, "a\tb", "é")] == [422, 422, 422, 422]


async def test_a_trigger_that_waits_answers_with_the_result_or_with_the_error(database: str, shop: Shop) -> None:
    async with Bench(shop.app, database) as bench:
        client = bench.http(identity=ALICE)

        found = await client.get("/prices/book?currency=USD")
        none = await client.get("/prices/none")
        public = await bench.http().put("/hooks", json=[{"item": "a"}, {"item": "b"}])
        await bench.settle()

        assert (found.status, found.json()) == (200, {"item": "book", "currency": "USD"})
        assert none.status == 500
        assert none.headers["content-type"] == "application/problem+json"
        assert none.json()["error"] == {"type": "TerminalError", "message": "no such item"}
        assert public.status == 202
        assert "location" not in public.headers
        rows = await bench.fetch_all(
            "SELECT output FROM dbos.workflow_status WHERE name = 'hook' AND authenticated_user IS NULL"
        )
        assert rows == [("2",)]


async def test_what_does_not_fit_is_named_and_nothing_is_written(database: str, shop: Shop) -> None:
    async with Bench(shop.app, database) as bench:
        client = bench.http(identity=ALICE)

        wrong = await client.post("/orders/o-1?express=maybe", json={"amount": "much"})
        none = await client.post("/orders/o-1")
        text = await client.post("/orders/o-1", body=b"{", headers={"content-type": "application/json"})

        assert wrong.status == none.status == text.status == 422
        fields = [each["field"] for each in wrong.json()["errors"]]
        assert fields == ["query.express", "body.item", "body.amount"]
        assert "much" not in wrong.body.decode()
        assert (await client.get("/orders/o-1")).status == 405
        assert (await client.get("/nothing")).status == 404
        assert await count(bench) == 0


MATRIX = [
    ("POST", "/orders/o-1", {"item": "a"}, {"": 401, "nobody": 403, "customer": 202, "clerk": 403}),
    ("GET", "/prices/a", None, {"": 401, "nobody": 403, "customer": 200, "clerk": 200}),
    ("DELETE", "/orders/o-1", None, {"": 401, "nobody": 403, "customer": 403, "clerk": 202}),
    ("PUT", "/hooks", [{"item": "a"}], {"": 202, "nobody": 202, "customer": 202, "clerk": 202}),
]


@pytest.mark.parametrize("method, path, body, expected", MATRIX)
async def test_roles_decide_who_may_start_what_before_anything_is_written(
    database: str, shop: Shop, *, method: str, path: str, body: Any, expected: Mapping[str, int]
) -> None:
    """With and without a token, with each role: refused calls leave no row, and their bodies are not looked at."""
    tokens = {role: role.ljust(32, "x") for role in expected if role}
    settings = WebSettings.model_validate(
        {"tokens": tokens, "roles": {"customer": ["customer"], "clerk": ["other", "clerk"]}}
    )
    async with Bench(shop.app, database) as bench:
        client = bench.http(settings=settings)
        for role, status in expected.items():
            before = await count(bench)
            headers = {"Authorization": f"Bearer {tokens[role]}"} if role else {}

            answer = await client.request(method, path, json=body, headers=headers)
            broken = await client.request(
                method, path, body=b"{", headers=headers | {"content-type": "application/json"}
            )
            await bench.settle()

            assert answer.status == status, (role, answer.body)
            if status in (401, 403):
                assert broken.status == status
                assert await count(bench) == before
                assert ("www-authenticate" in answer.headers) == (status == 401)
            else:
                assert await count(bench) > before


async def test_children_have_their_parents_identity_and_need_their_own_roles(database: str, shop: Shop) -> None:
    async with Bench(shop.app, database) as bench:
        await bench.http(identity=BOB).delete("/orders/o-1")
        await bench.settle()

        rows = await bench.fetch_all(
            "SELECT name, authenticated_user, assumed_role, authenticated_roles, output"
            "  FROM dbos.workflow_status ORDER BY name"
        )
        result, roles = '"o-1 by bob as clerk"', '["customer", "clerk"]'
        assert rows == [("drop", "bob", "clerk", roles, result), ("inner", "bob", "clerk", roles, result)]


async def test_a_program_starts_as_somebody_and_needs_the_roles_as_well(database: str, shop: Shop) -> None:
    """`acting_as`, and the roles of the app for what says none of its own."""
    app = App("office", required_roles=["clerk"])

    @app.workflow()
    async def file(paper: str) -> str:
        identity = current_workflow().identity
        return f"{paper} by {identity.user if identity else None}"

    @app.workflow(roles=())
    async def look() -> None:
        pass

    async with Bench(app, database) as bench:
        with pytest.raises(NotAuthorizedError, match="nobody in particular"):
            await file.start("a")
        with acting_as(ALICE), pytest.raises(NotAuthorizedError, match=r"'alice' has none of the roles .* clerk"):
            await file("a")
        with acting_as(BOB):
            assert await file("a") == "a by bob"
        await look()

        assert await count(bench) == 2


async def test_a_refused_child_stays_refused_whatever_roles_are_required_later(database: str) -> None:
    """I4: the refusal is remembered; a replay goes the way the first run went."""
    app = App("office")
    told: list[str] = []

    @app.step()
    async def tell(what: str) -> None:
        told.append(what)

    @app.workflow(roles=["clerk"])
    async def secret() -> str:
        return "secret"

    @app.workflow()
    async def try_it() -> str:
        try:
            found = await secret()
        except NotAuthorizedError as error:
            found = str(error)
        await tell(found)
        return found

    async with Bench(app, database) as bench:
        bench.crash(after=tell)
        with acting_as(ALICE):
            handle = await try_it.start(id="w")
        await bench.settle()

        assert "requires: clerk" in await handle.result()
        assert len(told) == 2
        steps = await handle.steps()
        assert [(step.name, step.error is not None) for step in steps] == [("secret", True), ("tell", False)]
        assert await count(bench) == 1


async def test_identity_and_request_survive_recovery(database: str, shop: Shop) -> None:
    async with Bench(shop.app, database) as bench:
        bench.crash(after=shop.charge)
        await bench.http(identity=ALICE).post("/orders/o-1", json={"item": "a"})
        await bench.settle()

        assert bench.crashes == 1
        first, second = shop.seen
        assert first == second
        assert second[0] == Identity("alice", ("customer",), "customer")
        assert second[1].route == "/orders/{order_id}"


@pytest.mark.parametrize("point", [CrashPoint.STARTING, CrashPoint.STARTED])
async def test_a_request_cut_off_by_a_crash_is_one_workflow_when_it_is_sent_again(
    database: str, shop: Shop, point: CrashPoint
) -> None:
    """Before or behind its row: the client, who heard nothing, sends it again with its key."""
    async with Bench(shop.app, database) as bench:
        bench.crash(at=point)
        call = {"json": {"item": "a"}, "headers": {"Idempotency-Key": "k"}}
        cut = asyncio.ensure_future(bench.http(identity=ALICE).post("/orders/o-1", **call))
        await asyncio.wait({cut}, timeout=5)
        await bench.settle()

        again = await bench.http(identity=ALICE).post("/orders/o-1", **call)
        await bench.settle()

        cut.cancel()
        assert bench.crashes == 1
        assert again.status == 202
        assert await bench.fetch_all("SELECT workflow_uuid, status FROM dbos.workflow_status") == [("k", "SUCCESS")]


async def test_the_apps_own_function_says_who_calls_and_lets_nobody_in_by_an_error(database: str, shop: Shop) -> None:
    """From headers, or from a signature over the body; sync or async."""

    @shop.app.authenticate
    async def who(request: IncomingRequest) -> Identity | None:
        if request.headers.get("x-user") == "broken":
            raise RuntimeError("no answer")
        body = await request.body()
        return Identity(request.headers["x-user"], ("customer",)) if body.endswith(b"}") else None

    async with Bench(shop.app, database) as bench:
        client = bench.http(settings=WebSettings.model_validate({"tokens": {"ops": "x" * 32}}))

        known = await client.post("/orders/o-1", json={"item": "a"}, headers={"X-User": "carol"})
        unknown = await client.post("/orders/o-1", body=b"nothing", headers={"X-User": "carol"})
        broken = await client.post("/orders/o-1", json={"item": "a"}, headers={"X-User": "broken"})
        token = await client.get("/prices/a", headers={"Authorization": f"Bearer {'x' * 32}"})
        await bench.settle()

        assert [each.status for each in (known, unknown, broken, token)] == [202, 401, 500, 401]
        assert await bench.fetch_all("SELECT authenticated_user FROM dbos.workflow_status") == [("carol",)]


async def test_a_trigger_at_any_path_takes_none_of_the_servers_own(database: str) -> None:
    """Health stays open, operators keep their paths, and of what is closed nothing starts a workflow."""
    app = App("shop")

    @app.get("/{one}", public=True)
    async def one(one: str) -> None:
        pass

    @app.get("/{one}/{two}", public=True)
    async def two(one: str, two: str) -> None:
        pass

    async with Bench(app, database) as bench:
        client = bench.http()
        own = ("/dbos-perf", "/openapi.json", "/workflows/w", "/admin/workflows", "/admin/audit")

        health = await client.get("/dbos-healthz")
        closed = [(await client.get(path)).status for path in own]
        triggers = [(await client.get(path)).status for path in ("/a", "/a/b")]

        assert health.body == b"healthy"
        assert closed == [401] * len(own)
        assert triggers == [202, 202]
        assert await count(bench) == 2


async def test_a_public_key_is_nobody_elses(database: str, shop: Shop) -> None:
    """A call without an identity never gets the workflow of somebody who has one."""
    async with Bench(shop.app, database) as bench:
        client = bench.http()
        first = await client.put("/hooks", json=[], headers={"Idempotency-Key": "p"})
        await bench.settle()
        await bench.execute("UPDATE dbos.workflow_status SET authenticated_user = 'alice' WHERE workflow_uuid = 'p'")

        again = await client.put("/hooks", json=[], headers={"Idempotency-Key": "p"})

        assert [first.status, again.status] == [202, 409]


WRONG: list[tuple[Callable[[Any], Any], str]] = [
    (lambda app: app.http("PATCH", "/x"), "the method is one of"),
    (lambda app: app.get("x"), "begins with '/'"),
    (lambda app: app.get("/a b"), "punctuation of URLs"),
    (lambda app: app.get("/a/"), "punctuation of URLs"),
    (lambda app: app.get("/{a}/{a}"), "stands there twice"),
    (lambda app: app.get("/admin/x"), "server's own"),
    (lambda app: app.get("/dbos-x"), "server's own"),
    (lambda app: app.get("/x/{b}"), r"\{b\}, which is no argument"),
    (lambda app: app.get("/x", headers="a"), "a tuple of names"),
    (lambda app: app.get("/x", headers=["Authorization"]), "stored readable"),
    (lambda app: app.get("/x", wait=timedelta(hours=1)), "a timedelta of up to"),
    (lambda app: app.get("/x", roles="clerk"), "a tuple of names"),
    (lambda app: app.get("/x", roles=["clerk"], public=True), "is public"),
    (lambda app: app.get("/taken/{other}"), "starts two workflows"),
    (lambda app: app.authenticate(3), "no function"),
]


@pytest.mark.parametrize("register, message", WRONG, ids=[message for _, message in WRONG])
def test_what_could_not_be_served_is_refused_at_registration(register: Any, message: str) -> None:
    app = App("shop")

    @app.get("/taken/{a}")
    async def taken(a: str) -> None:
        pass

    async def wanted(a: str = "", other: str = "") -> None:
        pass

    with pytest.raises(ConfigurationError, match=message):
        register(app)(wanted)
