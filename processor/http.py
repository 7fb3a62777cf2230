"""The server of a process: `/metrics` for Prometheus, `/livez` and `/readyz` for Kubernetes.

    /livez    503 when the process cannot help itself: the poll loop is stuck or the lease thread dead. Restart it.
    /readyz   503 until everything has started, and once it stops. Not about assignments: an idle consumer is healthy.
              Not about Postgres or Kafka either: an outage of theirs would take every pod out of its Service.

Standard library, one thread a request: it is asked a few times a minute, and must answer when the event loop hangs.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Protocol, Self

from engine.errors import ConfigurationError

REQUEST_MAX_S = 10
"""Longest a client may take to send its request."""

Routes = dict[str, Callable[[str], tuple[HTTPStatus, str, bytes]]]
"""The value of the Accept header to status, content type and body, by path."""


class Exposes(Protocol):
    """What `/metrics` shows."""

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body, in the format that the scraper accepts."""
        ...


Check = Callable[[], Sequence[str]]
"""What is wrong now, in words; nothing when all is well. Called in a thread; it must only read."""


class StatusServer:
    """Serves until closed.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for a free one, then in `port`.
        metrics: What `/metrics` shows.
        live: Problems for `/livez`.
        ready: Problems for `/readyz`.

    Raises:
        ConfigurationError: The port cannot be had.
    """

    def __init__(self, *, host: str, port: int, metrics: Exposes, live: Check, ready: Check) -> None:
        routes: Routes = {
            "/metrics": lambda accept: (HTTPStatus.OK, *metrics.exposition(accept)),
            "/livez": lambda _: _answer(live()),
            "/readyz": lambda _: _answer(ready()),
        }
        try:
            self._server = ThreadingHTTPServer((host, port), partial(_Handler, routes))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"http: cannot listen on {host}:{port}: {error}.\n"
                f"  Another process has it? http.port: 0 takes a free one, http.enabled: false none."
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, name="status server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """GET of a known path; everything else is 404."""

    timeout = REQUEST_MAX_S
    protocol_version = "HTTP/1.1"

    def __init__(self, routes: Routes, *args: Any) -> None:
        self._routes = routes
        super().__init__(*args)  # which serves the request

    def do_GET(self) -> None:
        """Answer."""
        route = self._routes.get(self.path.partition("?")[0])
        if route is None:
            status, content_type, body = HTTPStatus.NOT_FOUND, "text/plain", b"/metrics, /livez or /readyz\n"
        else:
            status, content_type, body = route(self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's signature
        """A probe every few seconds is no decision."""


def _answer(problems: Sequence[str]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    body = json.dumps({"status": "failing" if problems else "ok", "problems": list(problems)})
    return status, "application/json", body.encode() + b"\n"
