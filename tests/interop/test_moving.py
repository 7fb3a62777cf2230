"""A database of DBOS's own, moved by the statements of docs/guides/dbos.md."""

import subprocess
from datetime import timedelta

import psycopg
import pytest

from engine.migrations import migrate
from engine.settings import EngineSettings
from processor.testing import Bench
from tests.docs.readme import blocks
from tests.fixtures.peers import DBOS
from tests.interop.conftest import HERE, command_of
from tests.interop.shop import Shop

pytestmark = [pytest.mark.postgres, pytest.mark.peer(DBOS.name)]
GUIDE = HERE.parents[1] / "docs" / "guides" / "dbos.md"
SETTINGS = EngineSettings(conninfo="", scan=timedelta(milliseconds=50))


async def test_what_has_ended_and_what_waits_moves_here(empty_database: str, pytestconfig: pytest.Config) -> None:
    """Histories, events and streams with them; what is under way and what is pickled is listed, and stays."""
    command = [*command_of(DBOS, pytestconfig), str(HERE / "before.py"), empty_database]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert made.returncode == 0, made.stderr
    ended, under_way, waits, pickled = made.stdout.split()[-1].split(",")
    aside, listed, moved = [each.text for each in blocks(GUIDE.read_text(encoding="utf-8")) if each.language == "sql"]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(aside.encode())
        await migrate(empty_database)
        refused = connection.execute(listed.encode()).fetchall()
        for _ in range(2):
            connection.execute(moved.encode())
        assert [(row[0], row[3]) for row in refused] == [(under_way, "under way"), (pickled, "pickled")]

    shop = Shop()
    async with Bench(shop.app, empty_database, settings=SETTINGS) as bench:
        assert await shop.app.retrieve(waits).result() == {"receipt": "receipt o-2", "amount": 2, "express": False}
        assert await shop.app.retrieve(ended).result() == "receipt o-1"
        assert await bench.app.get_event(ended, "state") == "paid"
        assert [each.name for each in await shop.app.retrieve(ended).steps()][-1].endswith("charge")
        assert [value async for value in bench.app.read_stream(ended, "log")] == [{"order_id": "o-1", "amount": 1}]
        assert await bench.fetch_all("SELECT count(*) FROM dbos.workflow_status") == [(2,)]
