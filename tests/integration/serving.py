"""An app served over HTTP by a process of its own: what the tests of the server share."""

import http.client
import json
from typing import Any, NamedTuple

from tests.integration.commands import Running

WAIT_S = 60
TOKENS = {name: name.ljust(40, "-") for name in ("shop", "looker", "on-call", "boss")}

APP = """
import asyncio
from datetime import timedelta

from pydantic import BaseModel

from processor import App, current_workflow


class Order(BaseModel):
    item: str
    naps_s: float = 0


app = App("shop")


@app.step()
async def nap(seconds: float) -> None:
    print("it naps", flush=True)
    await asyncio.sleep(seconds)


@app.post("/orders/{order_id}", roles=["customer"])
async def place(order_id: str, order: Order) -> str:
    identity = current_workflow().identity
    if order.naps_s:
        await nap(order.naps_s)
    return f"{order_id} by {identity.user}"


@app.get("/slow", roles=["customer"], wait=timedelta(minutes=5))
async def slow() -> int:
    await nap(3600)
    return 1


@app.put("/open", public=True)
async def anybody(order: Order) -> None:
    pass
"""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(port: int, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | sent
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def env_of(database: str, **more: str) -> dict[str, str]:
    return {
        "PROCESSOR_POSTGRES_DSN": database,
        "PROCESSOR_HTTP_ENABLED": "false",
        "PROCESSOR_OUTBOX_RELAY": "false",
        "PROCESSOR_EXECUTOR_NAME": "one",
        "PROCESSOR_WEB_ENABLED": "true",
        "PROCESSOR_WEB_HOST": "127.0.0.1",
        "PROCESSOR_WEB_PORT": "0",
        "PROCESSOR_WEB_TOKENS": json.dumps(TOKENS),
        "PROCESSOR_WEB_ACCESS": json.dumps({"looker": "viewer", "on-call": "operator", "boss": "admin"}),
        "PROCESSOR_WEB_ROLES": json.dumps({"shop": ["customer"]}),
    } | more


def listens(program: Running) -> int:
    return int(json.loads(program.until('"web server listens"').string)["port"])
