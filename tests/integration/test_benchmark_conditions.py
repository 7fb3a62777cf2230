"""What the benchmarks put in the way of a worker: a longer way to Postgres, and finished workflows of earlier times."""

import contextlib
from collections import Counter
from collections.abc import Generator
from datetime import timedelta

import psycopg
import pytest
from psycopg import conninfo

from benchmarks import past
from benchmarks.delay import delayed
from engine.keeping import Keep
from tests.fixtures.postgres import address_of
from tests.integration.sweeping import DAY, sweep

FINISHED = 800


@contextlib.contextmanager
def longer_way(address: str) -> Generator[str]:
    place = conninfo.conninfo_to_dict(address)
    with delayed(str(place["host"]), int(str(place["port"])), 0.001) as port:
        yield address_of(address, str(place["dbname"]), host="127.0.0.1", port=str(port))


def test_what_goes_the_longer_way_arrives_whole_and_in_order(database: str) -> None:
    with longer_way(database) as address, psycopg.connect(address) as connection, connection.pipeline():
        sent = [connection.execute("SELECT %s::int, repeat('x', 100000)", (n,)) for n in range(50)]
        answers = [cursor.fetchone() for cursor in sent]

    assert answers == [(n, "x" * 100_000) for n in range(50)]


def test_what_is_cut_at_one_end_is_cut_at_the_other(database: str) -> None:
    """A server that restarts must look so to the worker; nothing of it stays open when the block ends."""
    with longer_way(database) as address, psycopg.connect(database, autocommit=True) as direct:
        with psycopg.connect(address, autocommit=True) as far:
            direct.execute("SELECT pg_terminate_backend(%s)", (far.info.backend_pid,))
            with pytest.raises(psycopg.OperationalError):
                far.execute("SELECT 1")
        stays = psycopg.connect(address, autocommit=True)

    with stays, pytest.raises(psycopg.OperationalError):
        stays.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address, connect_timeout=5)


async def test_finished_workflows_are_what_retention_deletes_when_they_are_old_enough(database: str) -> None:
    """P30: their progress is behind them; those that are kept stay. What was deleted can be read off the horizons."""
    made: list[int] = []
    past.fill(database, FINISHED, oldest=9 * DAY, newest=DAY, progress=made.append)

    none = await sweep(database, {"fulfil": Keep(success=10 * DAY)})
    half = await sweep(database, {"fulfil": Keep(success=5 * DAY)}, rows=500)

    assert made == [FINISHED]
    assert none == Counter()
    assert half[("fulfil", "SUCCESS")] == pytest.approx(FINISHED / 2, abs=2)
    with psycopg.connect(database) as connection:
        assert connection.execute(past.DELETED.encode()).fetchone() == (half[("fulfil", "SUCCESS")],)
        count = connection.execute("SELECT count(*), count(DISTINCT workflow_uuid) FROM dbos.operation_outputs")
        assert count.fetchone() == (FINISHED - half[("fulfil", "SUCCESS")],) * 2


def test_finished_workflows_end_when_they_are_said_to(database: str) -> None:
    past.fill(database, FINISHED, oldest=timedelta(hours=30), newest=timedelta(hours=10), progress=lambda _: None)

    with psycopg.connect(database) as connection:
        ends = connection.execute(
            "SELECT (dbos.now_ms() - max(updated_at)) / 3600000, (dbos.now_ms() - min(updated_at)) / 3600000"
            "  FROM dbos.workflow_status WHERE status = 'SUCCESS'"
        ).fetchone()
    assert ends == (10, 30)
