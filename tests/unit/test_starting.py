"""The order in which a start that cannot be is told why: settings first, then the port, then servers."""

import socket
from collections.abc import Iterator

import pytest

from engine.addresses import VARIABLES
from engine.errors import ConfigurationError, StoreUnavailableError
from processor import App, Settings
from processor.cli.run import run_until_stopped
from processor.runtime import Runtime

NOBODY = "host=127.0.0.1 port=1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start(*, dsn: str, port: int) -> list[str]:
    """Run until it has failed. Returns what was said when it had started."""
    settings = Settings.model_validate({"postgres": {"dsn": dsn}, "http": {"host": "127.0.0.1", "port": port}})
    said: list[str] = []
    runtime = Runtime(App("shop"), settings, kafka=False)
    try:
        run_until_stopped(runtime, settings, started=lambda: said.append("runs"))
    finally:
        assert said == []
    return said


def test_settings_that_lack_something_are_told_before_a_port_that_is_taken(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(ConfigurationError, match="^postgres.dsn is not set"):
        start(dsn="", port=taken)


def test_a_port_that_is_taken_is_told_before_anything_is_said_to_run(taken: int) -> None:
    """`processor dev` showed all that one can do with an app that did not run."""
    with pytest.raises(ConfigurationError, match="^http: cannot listen on"):
        start(dsn=NOBODY, port=taken)


def test_what_did_not_start_is_not_said_to_run() -> None:
    with pytest.raises(StoreUnavailableError):
        start(dsn=NOBODY, port=0)
