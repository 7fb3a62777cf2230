"""For the tests of this folder: operators' commands, and members of one group."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.settings import GroupProtocol, Subscription
from processor.cli import main
from tests.fixtures.kafka import unique
from tests.integration.commands import SHOP
from tests.integration.members import Broker, Member, Members

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an app, to run commands in (tests/integration/commands.py)."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def command(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the test's database, and on these brokers (`kafka=`)."""
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", database)

    async def run(*arguments: str, kafka: str | None = None) -> tuple[int, str, str]:
        if kafka is not None:
            monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", kafka)
        try:
            code = await asyncio.to_thread(main, arguments)
        except SystemExit as ended:  # argparse's own
            code = int(ended.code or 0)
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


@pytest.fixture
def topic() -> str:
    return unique("orders")


@pytest.fixture(params=GroupProtocol, ids=lambda protocol: protocol.value)
def protocol(request: pytest.FixtureRequest) -> GroupProtocol:
    return request.param


@pytest.fixture
async def members(database: str, topic: str) -> AsyncGenerator[Members]:
    """Starts members of one group over one database, and stops them at the end."""
    made: list[Member] = []
    group = unique("billing")

    async def start(broker: Broker, *subscriptions: Subscription, **changes: Any) -> Member:
        prepare: Callable[[Member], None] | None = changes.pop("prepare", None)
        chosen = subscriptions or (Subscription(topic=topic, handler="fulfil"),)
        member = Member(
            changes.pop("database", database), broker.bootstrap_servers, changes.pop("group", group), *chosen, **changes
        )
        made.append(member)
        return await member.start(prepare)

    yield start
    await asyncio.gather(*(member.stop() for member in made), return_exceptions=True)
