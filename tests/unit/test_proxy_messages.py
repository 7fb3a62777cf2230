"""How the proxy of the tests reads the protocol of Postgres: whole messages, however their bytes arrive."""

import pytest

from tests.fixtures.proxy import Message, Messages, Statements


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (4 + len(body)).to_bytes(4) + body


SSL_REQUEST = message(b"", (80_877_103).to_bytes(4))
GSS_REQUEST = message(b"", (80_877_104).to_bytes(4))
STARTUP = message(b"", (196_608).to_bytes(4) + b"user\0postgres\0\0")
BEGIN = message(b"P", b"\0BEGIN\0\0\0") + message(b"B", b"\0\0\0\0\0\0\0\0") + message(b"E", b"\0\0\0\0\0")
COMMIT = message(b"P", b"\0COMMIT\0\0\0")
SYNC = message(b"S", b"")


def read(data: bytes, *, of_client: bool, at_once: int | None = None) -> list[Message]:
    messages = Messages(of_client=of_client)
    at_once = at_once or max(1, len(data))
    return [each for at in range(0, len(data), at_once) for each in messages.feed(data[at : at + at_once])]


@pytest.mark.parametrize("at_once", [None, 1, 2, 3, 7])
def test_messages_are_the_same_however_their_bytes_arrive(at_once: int | None) -> None:
    whole = [SSL_REQUEST, GSS_REQUEST, STARTUP, COMMIT, SYNC]

    read_back = read(b"".join(whole), of_client=True, at_once=at_once)

    assert [each.whole for each in read_back] == whole
    assert [each.kind for each in read_back] == [b"", b"", b"", b"P", b"S"]
    assert [each.asks_for_encryption for each in read_back] == [True, True, False, False, False]


def test_what_is_not_whole_waits() -> None:
    messages = Messages(of_client=False)

    assert list(messages.feed(message(b"C", b"COMMIT\0")[:-3])) == []
    [committed] = messages.feed(message(b"C", b"COMMIT\0")[-3:] + b"Z\0\0")

    assert committed.is_committed


@pytest.mark.parametrize(
    "sent,commits",
    [
        (message(b"Q", b"COMMIT\0"), True),
        (message(b"Q", b"commit;\0"), True),
        (COMMIT, True),
        (message(b"P", b"name\0COMMIT\0\0\0"), True),
        (message(b"Q", b"SELECT 'COMMIT'\0"), False),
        (message(b"P", b"COMMIT\0SELECT 1\0\0\0"), False),
        (message(b"B", b"\0\0COMMIT"), False),
        (message(b"Q", b"ROLLBACK\0"), False),
    ],
)
def test_only_a_commit_asks_to_commit(sent: bytes, commits: bool) -> None:
    [_, asked] = read(STARTUP + sent, of_client=True)

    assert asked.asks_to_commit is commits


@pytest.mark.parametrize(
    "sent,committed",
    [
        (message(b"C", b"COMMIT\0"), True),
        (message(b"C", b"ROLLBACK\0"), False),
        (message(b"D", b"\0\x01\0\0\0\x0cC\0\0\0\x0bCOMMIT\0"), False),
    ],
    ids=["committed", "rolled back", "a value"],
)
def test_only_the_end_of_a_commit_says_committed(sent: bytes, committed: bool) -> None:
    [told] = read(sent, of_client=False)

    assert told.is_committed is committed


def test_a_marker_is_about_the_transaction_under_way_also_when_its_statement_was_prepared_before() -> None:
    prepares = message(b"P", b"_pg3_0\0SELECT fence()\0\0\0")
    runs = message(b"B", b"\0_pg3_0\0\0\0\0\0\0\0")
    seen: list[bool] = []
    statements = Statements()
    for sent in (BEGIN + prepares + runs + COMMIT, BEGIN + COMMIT, BEGIN + runs + COMMIT):
        for each in read(STARTUP + sent, of_client=True):
            statements.see(each)
        seen.append(statements.have(b"fence"))

    assert seen == [True, False, True]
    assert statements.have(b"")
