"""A TCP proxy before Postgres that loses the reply of a COMMIT on demand (P23, P24).

    worker ──▶ proxy ──▶ Postgres         COMMIT is passed on
    worker  ✂  proxy ◀── Postgres         its reply is read, dropped, and both ends are cut

What was committed stays committed; the worker cannot know.
"""

import asyncio
import contextlib
from typing import Self

_CHUNK = 65_536
_REPLY_S = 5.0
"""How long the server has for the reply that is dropped."""


class LossyProxy:
    """Listens on a port of its own.

    Args:
        host, port: Of Postgres.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.lost = 0
        """Replies dropped so far."""
        self.lose = 0
        """How many of the next COMMITs lose their reply."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            back = asyncio.ensure_future(_pump(server_reader, writer))
            try:
                await self._forward(reader, server_reader, server_writer, back)
            finally:
                back.cancel()
                for each in (server_writer, writer):
                    each.close()
        except OSError:
            writer.close()
        finally:
            self._tasks.discard(task)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        back: "asyncio.Future[None]",
    ) -> None:
        while data := await reader.read(_CHUNK):
            if self.lose and b"COMMIT" in data:
                self.lose -= 1
                # Nothing more goes back: the reply is for nobody.
                back.cancel()
                await asyncio.wait({back})
                server_writer.write(data)
                await server_writer.drain()
                async with asyncio.timeout(_REPLY_S):
                    while b"COMMIT" not in await server_reader.read(_CHUNK):
                        pass
                self.lost += 1
                return
            server_writer.write(data)
            await server_writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
