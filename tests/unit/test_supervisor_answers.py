"""What a supervisor makes of a worker's answer."""

import socket
import threading

import pytest

from processor.supervisor import Worker


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 33\r\n\r\nnot",
        b"not HTTP\r\n\r\n",
    ],
)
def test_a_worker_that_is_killed_while_it_answers_has_not_answered(said: bytes) -> None:
    """Its supervisor ended with a traceback, and every other worker with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def dies() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        dying = threading.Thread(target=dies)
        dying.start()
        worker = Worker(0, [], {})
        worker.port = server.getsockname()[1]

        assert worker.ask("/readyz") is None
        dying.join()


@pytest.mark.parametrize("status, body", [(200, "ready"), (503, "not ready")])
def test_an_answer_is_its_status_and_its_body(status: int, body: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answers() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

        answering = threading.Thread(target=answers)
        answering.start()
        worker = Worker(0, [], {})
        worker.port = server.getsockname()[1]

        assert worker.ask("/readyz") == (status, body)
        answering.join()
