"""What one process weighs with a million records before it, and what it takes while there is nothing to do.

backlog     the topic is full before the worker starts: its memory at the highest until all is done
idle        eight partitions without a record: share of a core, and statements that Postgres is sent

Statements are counted in the server's log, which is told to log all of them for this database: what vacuum and whoever
measures do is not in it.
"""

import re
import secrets
import time
from dataclasses import replace

import psycopg
from psycopg import conninfo

from benchmarks import measure
from benchmarks.measure import Measured
from benchmarks.orders import PARTITIONS
from benchmarks.servers import Servers
from benchmarks.workloads import ONE_STEP, Participant, topic_of, worked_off, worker, worker_environment

BACKLOG = "backlog"
WAITING = 1_000_000
IDLE = "idle"
SETTLE_S = 5.0
"""After the claims: caches are filled, the first sweep and the first mirror of progress are over."""


def backlog(servers: Servers, records: int) -> Participant:
    """A worker that is started late. Its memory is looked at ten times a second."""

    def run() -> Measured:
        topic = topic_of(servers, records)
        with servers.database() as address:
            environment = worker_environment(servers, address, topic)
            return worked_off(replace(ONE_STEP, records=records), address, environment)

    return Participant(BACKLOG, f"one step, {records:,} waiting at the start", run)


def idle(servers: Servers, seconds: float) -> Participant:
    """A worker with nothing to do, after it has settled."""

    def run() -> Measured:
        topic = f"orders-none-{secrets.token_hex(4)}"
        servers.cluster.create_topic(topic, PARTITIONS)
        with servers.database() as address:
            database = str(conninfo.conninfo_to_dict(address)["dbname"])
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute(f"ALTER DATABASE \"{database}\" SET log_statement = 'all'".encode())
            with measure.running(worker(ONE_STEP.app), worker_environment(servers, address, topic)) as subject:
                measure.until_claimed(subject, address, PARTITIONS)
                time.sleep(SETTLE_S)
                began, busy_s, logged = time.monotonic(), subject.busy_s(), len(servers.postgres_log())
                time.sleep(seconds)
                subject.look()
                if not subject.running:
                    raise subject.failed("ended although it had nothing to do")
                lasted_s = time.monotonic() - began
                busy_s = subject.busy_s() - busy_s
                count = statements(servers.postgres_log()[logged:], database)
        return Measured(rss_mib=subject.rss_mib, core_percent=100 * busy_s / lasted_s, queries_per_s=count / lasted_s)

    return Participant(IDLE, f"idle for {seconds:.0f} s", run)


def statements(log: str, database: str) -> int:
    """How many statements of one database a server's log has, those that only begin or end a transaction left out."""
    sent = re.findall(
        rf"^\S+ \S+ \S+ \[\d+\] {re.escape(database)} LOG:  (?:statement|execute [^:]+): (.*)$", log, re.MULTILINE
    )
    return sum(not re.match(r"\s*(BEGIN|COMMIT|ROLLBACK|SET TRANSACTION)\b", each) for each in sent)
