"""A way to a server of this machine that takes longer: answers arrive so much later than they were sent.

    client ──────────▶ port ──────────▶ server
       ◀── held back ── │ ◀──────────────┘

Only answers are held back, so a round trip costs what was asked for once, however much is sent in it. What arrives
meanwhile is held back as long, not longer: it is a longer way, not a narrower one. Threads that wait in `recv` and
`sleep`: an event loop would round half a millisecond up to one or two.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Generator
from queue import SimpleQueue

CHUNK_BYTES = 1 << 18
CLOSE_S = 10.0
"""Longest to wait for each of the threads; their sockets are shut down, so they return at once."""


@contextlib.contextmanager
def delayed(host: str, port: int, added_s: float) -> Generator[int]:
    """A port of loopback that leads to another one, for the length of the block.

    Args:
        host, port: Of the server.
        added_s: What a round trip takes longer.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    way = _Way(listener, (host, port), added_s)
    way.begin(way.accept)
    try:
        yield listener.getsockname()[1]
    finally:
        way.close()


class _Way:
    def __init__(self, listener: socket.socket, server: tuple[str, int], added_s: float) -> None:
        self._listener = listener
        self._server = server
        self._added_s = added_s
        self._lock = threading.Lock()
        self._is_closed = False
        self._sockets: list[socket.socket] = [listener]
        self._threads: list[threading.Thread] = []

    def begin(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="delay", daemon=True)  # pyright: ignore[reportArgumentType]
        self._threads.append(thread)
        thread.start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            with self._lock:
                if self._is_closed:
                    client.close()
                    return
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()  # as if nobody listened here either
                    continue
                self._sockets += [client, server]
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                self.begin(self._forward, client, server)
                self.begin(self._hold, server, held)
                self.begin(self._let_go, held, client)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                server.sendall(chunk)
        _end_of(server)

    def _hold(self, server: socket.socket, held: SimpleQueue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                held.put((time.monotonic() + self._added_s, chunk))
        held.put((0.0, b""))

    def _let_go(self, held: SimpleQueue[tuple[float, bytes]], client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, chunk = held.get()
                if not chunk:
                    break
                if (left_s := due - time.monotonic()) > 0:
                    time.sleep(left_s)
                client.sendall(chunk)
        _end_of(client)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(CLOSE_S)
        for each in self._sockets:
            each.close()


def _end_of(receiver: socket.socket) -> None:
    """Nothing more is sent to it; it may have gone before."""
    with contextlib.suppress(OSError):
        receiver.shutdown(socket.SHUT_WR)
