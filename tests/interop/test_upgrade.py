"""The next releases of DBOS on a schema of ours: `dbos migrate` of 3.4 upgrades it in place, and everything here goes on."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from engine.settings import EngineSettings
from processor.testing import Bench
from tests.fixtures.peers import DBOS_NEXT
from tests.integration.protocol import until_row
from tests.interop.conftest import command_of
from tests.interop.shop import Order, Shop

pytestmark = [pytest.mark.postgres, pytest.mark.peer(DBOS_NEXT.name)]
SETTINGS = EngineSettings(conninfo="", scan=timedelta(milliseconds=50))


async def test_the_next_release_upgrades_our_schema_and_our_engine_goes_on(
    database: str, pytestconfig: pytest.Config
) -> None:
    """What was under way before the upgrade ends behind it; messages, events, queues and records as before."""
    dbos = Path(command_of(DBOS_NEXT, pytestconfig)[0]).with_name("dbos")
    shop = Shop()
    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        waiting = await shop.approve.start("o-1", id="a-1")
        await until_row(bench, "workflow_uuid = 'a-1' AND owner_xid IS NULL AND kafka_wake_at > 0")
    upgrade = [dbos, "migrate", "--sys-db-url", database]
    done = subprocess.run(upgrade, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

    async with Bench(shop.app, database, settings=SETTINGS) as bench:
        assert (await bench.fetch_all("SELECT version > 7 FROM dbos.dbos_migrations")) == [(True,)]
        await bench.app.send(waiting.id, "yes", "decision")
        assert await shop.approve.retrieve("a-1").result() == "yes"
        assert await bench.app.get_event("a-1", "state") == {"waits": "o-1"}
        handle = await shop.pay.enqueue(Order(order_id="o-2", amount=1), queue=shop.mails, id="p-1")
        assert (await handle.result())["receipt"] == "receipt o-2"
        await bench.deliver(shop.orders, Order(order_id="o-3", amount=1))
        await bench.settle()
        assert await bench.fetch_all("SELECT status FROM dbos.workflow_status WHERE kafka_offset = 0") == [("SUCCESS",)]
