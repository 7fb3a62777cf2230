"""Serves a site on a port, on the engine's own event loop: what a request starts runs here at once.

    start   socket ─▶ serving        stop   no new connections ─▶ who waits for a result gets 202 ─▶ the rest has its time

uvicorn, without its signal handlers and its logging: both are the process's own.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Generator
from datetime import timedelta

import uvicorn

from engine.engine import Engine
from engine.errors import ConfigurationError
from processor.app import App
from processor.config import Settings
from processor.config_web import WebSettings
from processor.web.application import Site
from processor.web.telemetry import HttpAnswered

BACKLOG = 1_024
"""Connections that the system keeps until they are accepted."""

HEADERS_BYTES_MAX = 64 * 1024
"""Of a request's line and headers."""

KEEP_ALIVE_S = 20
"""How long a connection may say nothing between two requests. More than most proxies keep theirs unused."""

CONNECTIONS_PER_REQUEST = 4
"""Connections there may be for each request that may be answered at the same time; more are refused with 503."""

STOP_MAX = timedelta(seconds=5)
"""Longest a stop waits for requests under way: the rest of the drain is for steps."""

log = logging.getLogger("processor.web")


class WebServer:
    """The HTTP server of one process.

    Attributes:
        port: What it listens on, once it is started.
        failed: Fails if it ends by itself.

    Args:
        app: Whose triggers it serves.
        engine: Where they run.
        settings: Of the server.
        tell: Told of each answer.
        shares_port: Whether other processes of this program listen on the same port: the system spreads connections.
        of_process: By which servers are reached, for operators.
    """

    def __init__(
        self,
        app: App,
        engine: Engine,
        settings: WebSettings,
        tell: Callable[[HttpAnswered], None],
        *,
        shares_port: bool = False,
        of_process: Settings | None = None,
    ) -> None:
        self._settings = settings
        self._shares_port = shares_port
        self._site = Site(app, lambda: engine, settings, tell=tell, tracing=engine.tracing, of_process=of_process)
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = settings.port
        self.failed: asyncio.Future[BaseException] | None = None

    async def start(self) -> None:
        """Listen, and answer. Raises `ConfigurationError` if the port cannot be had."""
        settings = self._settings
        sock = _listening(settings.host, settings.port, shares_port=self._shares_port)
        self.port = sock.getsockname()[1]
        config = uvicorn.Config(
            self._site.asgi,
            interface="asgi3",
            http="h11",
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            limit_concurrency=CONNECTIONS_PER_REQUEST * settings.requests_max,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        )
        self._server = _Server(config)
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        self._task = loop.create_task(self._server.serve(sockets=[sock]), name="web server")
        self._task.add_done_callback(self._ended)
        listens = asyncio.ensure_future(self._server.listens.wait())
        await asyncio.wait({listens, self._task}, return_when=asyncio.FIRST_COMPLETED)
        listens.cancel()
        log.info("web server listens", extra={"host": settings.host, "port": self.port})

    async def stop(self, within: timedelta) -> None:
        """Take no more connections, and end when what is under way is answered, or the time is over."""
        if self._server is None or self._task is None:
            return
        self._site.closing.set()
        # Read when it shuts down, which is not before the next turn of its loop.
        self._server.config.timeout_graceful_shutdown = max(1, int(min(within, STOP_MAX).total_seconds()))
        self._server.should_exit = True
        await asyncio.wait({self._task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        assert self.failed is not None, "made before the task"
        if self._site.closing.is_set() or self.failed.done():
            return
        error = None if task.cancelled() else task.exception()
        self.failed.set_result(error or RuntimeError("the web server ended by itself"))


class _Server(uvicorn.Server):
    """uvicorn's, without its signal handlers, and with a sign that it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the process's own business."""
        yield


def _listening(host: str, port: int, *, shares_port: bool) -> socket.socket:
    """A socket that listens. Raises `ConfigurationError`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shares_port)
    except (OSError, OverflowError, ValueError) as error:
        raise ConfigurationError(
            f"web: cannot listen on {host}:{port}: {error}.\n"
            f"  Another process has it? web.port: 0 takes a free one, web.enabled: false none."
        ) from None
