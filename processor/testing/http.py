"""An HTTP client of an ASGI application in this process, without a port: one request is one call of it.

client = bench.http(identity=Identity("alice", ("customer",)))
answer = await client.post("/orders/o-1", json={"amount": 1})
assert answer.status == 202
"""

import json as json_format
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json_format.loads(self.body)


class HttpClient:
    """Calls an application.

    Args:
        application: What is called.
        headers: Sent with every request.
    """

    def __init__(self, application: ASGIApp, headers: Mapping[str, str] | None = None) -> None:
        self._application = application
        self._headers = dict(headers or {})

    def with_headers(self, **headers: str) -> "HttpClient":
        """A client that sends these too; `_` in a name is '-'."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HttpClient(self._application, self._headers | named)

    async def get(self, path: str, **options: Any) -> Answer:
        """`request("GET", …)`."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        """`request("POST", …)`."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> Answer:
        """`request("PUT", …)`."""
        return await self.request("PUT", path, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        """`request("DELETE", …)`."""
        return await self.request("DELETE", path, **options)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request.

        Args:
            method: As `POST`.
            path: With its query.
            json: The body, as JSON.
            body: The body, as it stands.
            headers: Beside the client's.
        """
        sent = {"host": "testserver"} | self._headers | dict(headers or {})
        if json is not None:
            body = json_format.dumps(json).encode()
            sent = {"content-type": "application/json"} | sent
        if body is not None:
            sent |= {"content-length": str(len(body))}
        raw, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw),
            "raw_path": quote(raw, safe="/%:@!$&'()*+,;=~").encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("127.0.0.1", 50_000),
            "server": ("testserver", 80),
            "state": {},
        }
        received: list[Message] = []
        requests = iter([{"type": "http.request", "body": body or b"", "more_body": False}])

        async def receive() -> Message:
            return next(requests, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            received.append(message)

        await self._application(scope, receive, send)
        start = next(each for each in received if each["type"] == "http.response.start")
        parts = [each.get("body", b"") for each in received if each["type"] == "http.response.body"]
        answered = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], answered, b"".join(parts))
