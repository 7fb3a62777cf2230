"""What a site does before it asks the engine anything: labels that callers cannot choose, and how often one may ask."""

import itertools

import pytest

from processor import App, Identity, IncomingRequest
from processor.config_web import WebSettings
from processor.web.telemetry import HttpAnswered

pytest.importorskip("fastapi", reason="wants the extra web")

from processor.testing.http import HttpClient
from processor.web.application import Site


def no_engine() -> None:
    raise AssertionError("nothing here is for the engine")


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
