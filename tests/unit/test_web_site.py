"""What a site does before it asks the engine anything: labels that callers cannot choose, and how often one may ask."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from processor import App, Identity, IncomingRequest
from processor.config_web import WebSettings
from processor.web.telemetry import HttpAnswered

pytest.importorskip("fastapi", reason="wants the extra web")

from processor.testing.http import HttpClient
from processor.web.application import Site


def no_engine() -> None:
    raise AssertionError("nothing here is for the engine")


OPERATOR = "boss".ljust(32, "-")


def bodies_of(described: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every object that a request's body may have, those within it too."""
    if "$ref" in schema:
        yield from bodies_of(described, described["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return
    if schema.get("type") == "object":
        yield schema
    within: list[dict[str, Any]] = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    if "items" in schema:
        within.append(schema["items"])
    for each in within:
        yield from bodies_of(described, each)


def site_of(app: App, settings: WebSettings) -> tuple[HttpClient, list[HttpAnswered]]:
    told: list[HttpAnswered] = []
    return HttpClient(Site(app, no_engine, settings, tell=told.append).asgi), told  # type: ignore[arg-type]


async def test_who_calls_chooses_no_label_of_a_metric() -> None:
    """I10: a path that is none and a method that is none are counted as 'other', on routes of ours as well."""
    client, told = site_of(App("shop"), WebSettings())

    for method, path in (("GET", "/nothing"), ("BREW", "/nothing"), ("BREW", "/dbos-healthz"), ("PATCH", "/x")):
        await client.request(method, path)

    assert [(each.route, each.method, each.status) for each in told] == [
        ("other", "GET", 404),
        ("other", "other", 404),
        ("/dbos-healthz", "other", 405),
        ("other", "PATCH", 404),
    ]


async def test_the_rate_is_the_users_whatever_roles_the_apps_function_says() -> None:
    app = App("shop")
    roles = itertools.count()

    @app.authenticate
    async def who(request: IncomingRequest) -> Identity:
        return Identity(request.headers["x-user"], (f"session-{next(roles)}",))

    @app.get("/orders", roles=["none"])
    async def orders() -> None:
        pass

    client, _ = site_of(app, WebSettings(rate_max=2))

    statuses = [(await client.get("/orders", headers={"X-User": user})).status for user in "aaab"]

    assert statuses == [403, 403, 429, 403]


async def test_operators_are_told_every_name_that_is_not_known() -> None:
    """A misspelt filter would widen an act to everybody, and a misspelt dry run do it (I2)."""
    settings = WebSettings.model_validate({"tokens": {"boss": OPERATOR}, "access": {"boss": "admin"}})
    client = site_of(App("shop"), settings)[0].with_headers(authorization=f"Bearer {OPERATOR}")
    described = (await client.get("/openapi.json")).json()
    operations = [
        (method.upper(), path, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if path != "/dbos-healthz"
    ]

    assert len(operations) > 50
    for method, path, operation in operations:
        answer = await client.request(method, f"{path}?bogus=1")
        assert (answer.status, answer.json()["errors"][0]["field"]) == (422, "query.bogus"), path
        for content in operation.get("requestBody", {}).get("content", {}).values():
            for body in bodies_of(described, content["schema"]):
                assert body.get("additionalProperties") is False, (path, body["title"])
