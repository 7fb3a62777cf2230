"""What docs/guides/backup-and-restore.md promises: an older backup catches up from Kafka, each order once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from consumers.mock import MockCluster
from tests.docs.readme import clean_environment
from tests.fixtures.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
ORDERS = 300


class Shop:
    """The example as it is deployed, on a Postgres that can be restored."""

    def __init__(self, server: PostgresServer, kafka: MockCluster, log: Path) -> None:
        self.dsn = server.dsn()
        self._kafka = kafka.bootstrap_servers
        self._log = log
        self._environment = clean_environment() | {
            "PROCESSOR_CONFIG": "examples/deployed/processor.yaml",
            "PROCESSOR_HTTP_PORT": "0",
            "POSTGRES_DSN": self.dsn,
            "KAFKA": self._kafka,
            # `python` of the commands that `processor migrate` runs.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def command(self, *words: str) -> str:
        ended = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def produce(self) -> None:
        said = self.command(
            "-m", "examples.deployed.produce", "--kafka", self._kafka, "--count", str(ORDERS), "--rate", "2000"
        )
        assert f"{ORDERS} orders delivered, 0 not" in said

    @contextmanager
    def worker(self) -> Generator[None]:
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "processor", "run", "examples.fulfil:app"],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, self._log.read_text()
        finally:
            process.kill()
            process.wait()

    def until_done(self, orders: int) -> None:
        self._until(lambda: self.done() == orders)

    def _until(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not met():
            assert time.monotonic() < deadline, self._log.read_text()[-5000:]
            time.sleep(0.1)

    def done(self) -> int:
        """Orders with a sale, and those given up."""
        (done,) = self.rows("SELECT (SELECT count(*) FROM sale) + (SELECT count(*) FROM dbos.dead_letter)")[0]
        return done

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(statement.encode()).fetchall()


@pytest.mark.timeout(300)
def test_an_older_backup_catches_up_from_kafka(
    private_postgres: PostgresServer, mock_cluster: MockCluster, tmp_path: Path
) -> None:
    """I1, I2, I5: what was committed after the backup comes again from Kafka, with the IDs and receipts it had before."""
    mock_cluster.create_topic("orders.placed", 4)
    shop = Shop(private_postgres, mock_cluster, tmp_path / "worker.log")
    shop.command("-m", "processor", "migrate")
    with shop.worker():
        shop.produce()
        shop.until_done(ORDERS)
        backup = private_postgres.base_backup()
        shop.produce()
        shop.until_done(2 * ORDERS)
    before = shop.rows("SELECT order_id, receipt FROM sale ORDER BY 1")

    private_postgres.restore(backup)

    assert shop.done() == ORDERS
    with shop.worker():
        shop.until_done(2 * ORDERS)
    assert shop.rows("SELECT order_id, receipt FROM sale ORDER BY 1") == before
    assert re.search(r"orders\.placed-\d+-\d+:1", str(before[0][1]))
