"""A thread that waits for a connection hears the bell."""

import socket
import threading

from engine.bell import Bell

LONG_S = 60.0


def test_a_wait_ends_when_it_rings_and_when_the_connection_has_something() -> None:
    bell = Bell()
    ours, theirs = socket.socketpair()
    for end in (bell.ring, lambda: theirs.send(b"hint")):
        thread = threading.Thread(target=bell.wait, args=(ours.fileno(), LONG_S), daemon=True)
        thread.start()
        end()
        thread.join(LONG_S / 2)
        assert not thread.is_alive()
        ours.setblocking(False)
    ours.close()
    theirs.close()
    bell.close()


def test_who_rings_first_is_heard_and_may_ring_often_and_after_the_end() -> None:
    bell = Bell()
    ours, theirs = socket.socketpair()
    for _ in range(100_000):  # more than a pipe holds
        bell.ring()
    bell.wait(ours.fileno(), LONG_S)
    bell.close()
    bell.close()
    bell.ring()
    ours.close()
    theirs.close()
