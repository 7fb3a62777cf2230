"""DBOS's own clients as processes beside the test, one for all tests of a module; they ask, our engine answers."""

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.conftest import WISHES
from tests.fixtures.peers import DBOS, DBOS_SDK, Peer, PeerMissingError

HERE = Path(__file__).parent
CLIENTS = {"dbos": DBOS, "dbos-sdk": DBOS_SDK}
SCRIPTS = {"dbos": "client.py", "dbos-sdk": "client.js"}
ANSWER_S = 30
"""Longest an answer may take: the first one waits for the client to be loaded."""


class CallError(Exception):
    """The client raised."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class Client:
    """A client of DBOS's, in its own process and language. Which calls it has: client.py, client.js."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    async def call(self, call: str, *args: Any, **options: Any) -> Any:
        """Make a call.

        Raises:
            CallError: It raised.
            TimeoutError: It does not answer. It is killed: a thread waits for it.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.to_thread(self._call, call, args, options)
        except TimeoutError:
            self._process.kill()
            raise

    def _call(self, call: str, args: Any, options: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": call, "args": args, "options": options}) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # what else it prints is its log
                answer = json.loads(line)
                if "error" in answer:
                    raise CallError(answer["error"], answer["message"])
                return answer["value"]
        raise RuntimeError(f"{self.name} ended")

    def end(self) -> None:
        """End it: it has nothing more to read."""
        if self._process.poll() is None:
            self._process.communicate(timeout=ANSWER_S)


def command_of(peer: Peer, config: pytest.Config) -> list[str]:
    """The peer's program; the test is skipped where it cannot be had, unless it must be."""
    try:
        return list(peer.command())
    except PeerMissingError as error:
        if config.stash[WISHES].get("PROCESSOR_TEST_PEERS_REQUIRED") == "1":
            raise
        pytest.skip(str(error))


def client_named(name: str) -> ParameterSet:
    """A parameter of `client_process`, with the mark of its peer."""
    return pytest.param(name, marks=pytest.mark.peer(CLIENTS[name].name))


@pytest.fixture(scope="module", params=[client_named("dbos"), client_named("dbos-sdk")])
def client_process(request: pytest.FixtureRequest) -> Generator[Client]:
    """Each of the two clients."""
    name: str = request.param
    client = Client(name, [*command_of(CLIENTS[name], request.config), str(HERE / SCRIPTS[name])])
    yield client
    client.end()


@pytest.fixture
async def client(client_process: Client, database: str) -> AsyncGenerator[Client]:
    """A client on the test's database."""
    await client_process.call("connect", database)
    yield client_process
    await client_process.call("close")
