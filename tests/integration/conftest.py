"""What operators' commands run on: for the tests of this folder."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from processor.cli import main

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def command(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the test's database."""
    monkeypatch.setenv("PROCESSOR_POSTGRES_DSN", database)

    async def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = await asyncio.to_thread(main, arguments)
        except SystemExit as ended:  # argparse's own
            code = int(ended.code or 0)
        written = capsys.readouterr()
        return code, written.out, written.err

    return run
