"""The `processor` command in a process of its own, around a small app: what the tests of it share."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path

import psycopg
from confluent_kafka import Producer

from consumers.mock import MockCluster

ROOT = Path(__file__).parents[2]
WAIT_S = 60
"""Longest any command takes on a busy machine; three seconds alone."""

SHOP = """
import time

from pydantic import BaseModel

from processor import App, Topic, Transaction


class Order(BaseModel):
    order_id: str
    naps_s: float = 0


app = App("shop")


@app.step()
def nap(seconds: float) -> None:
    print("it naps", flush=True)
    time.sleep(seconds)


@app.transaction()
async def record(tx: Transaction, order_id: str) -> None:
    await tx.execute("INSERT INTO sale VALUES (%s)", (order_id,))


@app.workflow(on=Topic("orders", Order))
async def fulfil(order: Order) -> None:
    if order.naps_s:
        await app.run_step(nap, order.naps_s)
    await record(order.order_id)
"""


def command(project: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "processor", *arguments],
        cwd=project,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def environment(env: Mapping[str, str] | None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PROCESSOR_")}
    return ours | {"PYTHONPATH": str(ROOT)} | dict(env or {})


class Running:
    """A command that goes on; its log is read line by line."""

    def __init__(self, project: Path, *arguments: str, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "processor", *arguments],
            cwd=project,
            env=environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Read until a line matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"it ended without {pattern!r}:\n" + "\n".join(self.lines))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        output, _ = self.process.communicate(timeout=WAIT_S)
        self.lines += output.splitlines()
        return self.process.returncode


@contextlib.contextmanager
def running(project: Path, *arguments: str, env: Mapping[str, str]) -> Generator[Running]:
    program = Running(project, *arguments, env=env)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
            program.process.wait()
        if program.process.stdout is not None:
            program.process.stdout.close()


def produce(bootstrap_servers: str, *values: object, topic: str = "orders") -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for value in values:
        producer.produce(topic, json.dumps(value), key="k")
    assert producer.flush(WAIT_S) == 0


def fetch(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def env_of(database: str, cluster: MockCluster) -> dict[str, str]:
    return {
        "PROCESSOR_POSTGRES_DSN": database,
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
        "PROCESSOR_HTTP_PORT": "0",
        "PROCESSOR_HTTP_HOST": "127.0.0.1",
    }


def wait_for(dsn: str, query: str, count: int) -> None:
    """Ask until the answer is there."""
    deadline = time.monotonic() + WAIT_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(query.encode()).fetchone()
            if row is not None and row[0] >= count:
                return
            connection.execute("SELECT pg_sleep(0.05)")
    raise AssertionError(f"{query}: never {count}")
