"""One async step where something is not as it should be: what is kept of the throughput of the plain case.

    keys-100      100 keys: each record waits for the one before it of its key
    key-hot       one key has half of the records
    network       every round trip to Postgres takes a millisecond longer (benchmarks/delay.py)
    slow-commit   every commit takes two milliseconds longer
    history       millions of finished workflows in the tables (benchmarks/past.py)
    retention     workflows that have outlived their policy are deleted while records arrive

The plain case takes part in the same rounds (`journaled-1`): the same records, 50,000 keys, empty tables.
"""

import contextlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta

import psycopg
from psycopg import conninfo

from benchmarks import measure, past
from benchmarks.delay import delayed
from benchmarks.measure import Measured
from benchmarks.orders import FEW_CUSTOMERS, Keys
from benchmarks.servers import Servers
from benchmarks.workloads import ONE_STEP, Participant, topic_of, worked_off, worker_environment
from tests.fixtures.postgres import address_of

FEW_KEYS = "keys-100"
HOT_KEY = "key-hot"
NETWORK = "network"
ROUND_TRIP_MS = 1
SLOW_COMMIT = "slow-commit"
COMMIT_MS = 2
HISTORY = "history"
FINISHED = 10_000_000
RETENTION = "retention"
DUE_A_RECORD = 5
"""Enough that deleting does not run out of rows before the records do."""

Around = Callable[[str], AbstractContextManager[str]]
"""What is done to a database for the length of a measurement; returns the address that the worker is given."""


def few_keys(servers: Servers, records: int) -> Participant:
    """100 keys in turns."""
    return _kept(servers, FEW_KEYS, f"one step, {FEW_CUSTOMERS} keys only", records, keys=Keys.FEW)


def hot_key(servers: Servers, records: int) -> Participant:
    """Every second record has the same key, and runs when the one before it is durable."""
    return _kept(servers, HOT_KEY, "one step, half of the records of one key", records, keys=Keys.HOT)


def network(servers: Servers, records: int) -> Participant:
    """Through a proxy, whose own processor time is in the ratio."""
    title = f"one step, Postgres {ROUND_TRIP_MS} ms away"
    return _kept(servers, NETWORK, title, records, around=_far_away)


def slow_commit(servers: Servers, records: int) -> Participant:
    """`commit_delay`, without its condition that other transactions are open: there would never be enough of them."""
    title = f"one step, commits {COMMIT_MS} ms slower"
    return _kept(servers, SLOW_COMMIT, title, records, around=_committing_slowly)


def _kept(
    servers: Servers,
    name: str,
    title: str,
    records: int,
    *,
    keys: Keys = Keys.MANY,
    around: Around = contextlib.nullcontext,
) -> Participant:
    def run() -> Measured:
        topic = topic_of(servers, records, keys)
        with servers.database() as address, around(address) as shown:
            environment = worker_environment(servers, shown, topic)
            return worked_off(replace(ONE_STEP, records=records), address, environment)

    return Participant(name, title, run, plain=ONE_STEP.name)


@contextlib.contextmanager
def _far_away(address: str) -> Generator[str]:
    place = conninfo.conninfo_to_dict(address)
    with delayed(str(place["host"]), int(str(place["port"])), ROUND_TRIP_MS / 1000) as port:
        yield address_of(address, str(place["dbname"]), port=str(port))


@contextlib.contextmanager
def _committing_slowly(address: str) -> Generator[str]:
    _set_for_database(address, "commit_delay", str(COMMIT_MS * 1000))
    _set_for_database(address, "commit_siblings", "0")
    yield address


def history(servers: Servers, records: int, finished: int, say: Callable[[str], None]) -> Participant:
    """The same tables in every round: they are made once, and what a round adds to them is nothing beside them."""

    def make(address: str) -> None:
        say(f"{HISTORY}: {finished:,} finished workflows are made, once")
        past.fill(
            address,
            finished,
            oldest=timedelta(days=6),  # within what the default retention keeps
            newest=timedelta(days=1),
            progress=lambda made: say(f"{HISTORY}: {made:,} of {finished:,}"),
        )

    def run() -> Measured:
        topic = topic_of(servers, records)
        address = servers.lasting_database(f"{HISTORY}-{finished}", make)
        since_ms = measure.now_ms(address)
        environment = worker_environment(servers, address, topic)
        return worked_off(replace(ONE_STEP, records=records), address, environment, since_ms=since_ms)

    return Participant(HISTORY, f"one step, {finished:,} finished before", run, plain=ONE_STEP.name)


def retention(servers: Servers, records: int) -> Participant:
    """Five workflows for each record are old enough to go, by the default policy, when the worker starts."""

    def run() -> Measured:
        topic = topic_of(servers, records)
        with servers.database() as address:
            due = records * DUE_A_RECORD
            past.fill(address, due, oldest=timedelta(days=9), newest=timedelta(days=8), progress=lambda _: None)
            since_ms = measure.now_ms(address)
            with psycopg.connect(address, autocommit=True) as connection:
                seen: list[tuple[int, int]] = []
                measured = worked_off(
                    replace(ONE_STEP, records=records),
                    address,
                    worker_environment(servers, address, topic),
                    since_ms=since_ms,
                    observe=lambda done: seen.append((done, measure.one(connection, past.DELETED))),
                )
            return replace(measured, deleted_ratio=deleted_a_record(seen))

    return Participant(RETENTION, "one step, retention deletes beside it", run, plain=ONE_STEP.name)


def deleted_a_record(seen: list[tuple[int, int]]) -> float | None:
    """How many were deleted for each record that was worked off, between the first look behind a tenth and the last.

    Args:
        seen: At each look: records worked off, workflows deleted so far.
    """
    last_done, last_deleted = seen[-1]
    first_done, first_deleted = next(each for each in seen if each[0] >= last_done / 10)
    if last_done == first_done:
        return None
    return (last_deleted - first_deleted) / (last_done - first_done)


def _set_for_database(address: str, name: str, value: str) -> None:
    database = conninfo.conninfo_to_dict(address)["dbname"]
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{database}" SET {name} = {value}'.encode())
