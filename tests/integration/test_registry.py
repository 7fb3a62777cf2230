"""The client side of a schema registry, over real HTTP: what is asked, when it is asked again, what an answer means."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consumers.registry import ABSENT_S, Registry, RegistryRefusedError
from consumers.settings import RegistrySettings
from engine.errors import NotYet
from tests.fixtures.certificates import write_certificate
from tests.fixtures.schema_registry import RegistryServer, basic, schema_registry
from tests.integration.protocol import until

PATIENCE_S = 60
AVRO = '{"type": "record", "name": "Order", "fields": [{"name": "n", "type": "int"}]}'


@pytest.fixture
def server() -> Generator[RegistryServer]:
    with schema_registry() as running:
        running.registry.register({"schema": AVRO}, "orders-value")
        yield running


@contextmanager
def registry(
    server: RegistryServer, *, now: Callable[[], float] = time.monotonic, **changes: Any
) -> Generator[Registry]:
    whole: dict[str, Any] = {"url": server.url, "retry_max": timedelta(milliseconds=20), **changes}
    made = Registry(RegistrySettings(**whole), now=now)
    try:
        yield made
    finally:
        made.close()


async def answered(ask: Callable[[], Any], *, seen: list[str | None] | None = None) -> Any:
    """Ask as an inbox does, until there is an answer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return ask()
            except NotYet as signal:
                if seen is not None and signal.reason not in seen:
                    seen.append(signal.reason)
                await asyncio.sleep(signal.again_in.total_seconds())


async def told(ask: Callable[[], Any]) -> str:
    """Ask until there is trouble, and return what it is."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with pytest.raises(NotYet) as signal:
                ask()
            if signal.value.reason is not None:
                return signal.value.reason
            await asyncio.sleep(signal.value.again_in.total_seconds())


async def test_on_the_loop_it_never_waits_and_asks_once(server: RegistryServer) -> None:
    """What is under way is not asked again; what is known is not asked at all."""
    with registry(server) as known:
        server.hang()
        for _ in range(3):
            with pytest.raises(NotYet) as signal:
                known.answers.get_schema(1, "orders-value", None)
            assert signal.value.reason is None, "no trouble yet"
        server.work()

        schema = await answered(lambda: known.answers.get_schema(1, "orders-value", None))
        assert schema.schema_str == AVRO
        assert known.answers.get_schema(1, "orders-value", None) is schema
        assert server.asked("/schemas/ids/1") == 1


def test_a_thread_without_a_loop_waits_for_the_answer(server: RegistryServer) -> None:
    """A sync handler, a script: the first call has the answer."""
    with registry(server) as known:
        assert known.answers.get_schema(1, "orders-value", None).schema_str == AVRO


@pytest.mark.parametrize(
    "status,code,words",
    [
        (500, 50001, "HTTP 500"),
        (503, None, "HTTP 503"),
        (429, None, "HTTP 429"),
        (401, 40101, "credentials"),
        (403, 40301, "credentials"),
        (404, 404, "is registry.url right?"),
    ],
)
async def test_trouble_is_no_answer_and_says_what_it_is(
    server: RegistryServer, status: int, code: int | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a 404 of something that is no registry: a wrong path must not bury records."""
    with registry(server) as known, caplog.at_level(logging.INFO, "consumers.registry"):
        server.fail(status, code, only="/schemas")
        reason = await told(lambda: known.answers.get_schema(1))
        assert words in reason
        assert "schema 1" in reason
        await until(lambda: caplog.records)  # it is said behind the answer
        assert len(caplog.records) == 1, "once, however often it is asked"

        server.work()
        assert (await answered(lambda: known.answers.get_schema(1))).schema_str == AVRO
        assert "is there after" in caplog.text


async def test_a_registry_that_is_away_is_asked_until_it_is_back(server: RegistryServer) -> None:
    with registry(server) as known:
        server.stop()
        assert "refused" in (await told(lambda: known.answers.get_schema(1))).lower()

        server.start()
        assert (await answered(lambda: known.answers.get_schema(1))).schema_str == AVRO


async def test_a_registry_that_hangs_is_given_up_and_asked_again(server: RegistryServer) -> None:
    """One question that hangs does not stop the others: there are several requests at once."""
    with registry(server, timeout=timedelta(milliseconds=50)) as known:
        server.hang()
        assert "Timeout" in await told(lambda: known.answers.get_schema(1))
        server.work()
        assert (await answered(lambda: known.answers.get_schema(1))).schema_str == AVRO


async def test_what_is_not_there_is_believed_when_it_is_said_twice(server: RegistryServer) -> None:
    """A follower says so for a moment about a schema that its leader has just accepted."""
    with registry(server) as known:
        seen: list[str | None] = []
        with pytest.raises(
            RegistryRefusedError, match="the schema registry has no schema 7: HTTP 404: Schema 7 not found"
        ):
            await answered(lambda: known.answers.get_schema(7), seen=seen)
        assert server.asked("/schemas/ids/7") == 2
        assert seen == [None], "no trouble"
        with pytest.raises(RegistryRefusedError):
            known.answers.get_schema(7)
        assert server.asked("/schemas/ids/7") == 2, "remembered for a while"

    with registry(server) as known:
        with pytest.raises(NotYet):
            known.answers.get_schema(2)
        while not server.asked("/schemas/ids/2"):
            await asyncio.sleep(0.001)
        server.registry.register({"schema": '"string"'}, "late-value")
        assert (await answered(lambda: known.answers.get_schema(2))).schema_str == '"string"'


async def test_a_schema_that_was_not_there_is_found_later(server: RegistryServer) -> None:
    ahead_s = 0.0
    with registry(server, now=lambda: time.monotonic() + ahead_s) as known:
        with pytest.raises(RegistryRefusedError):
            await answered(lambda: known.answers.get_schema(2))
        server.registry.register({"schema": '"string"'}, "late-value")
        ahead_s = ABSENT_S
        assert (await answered(lambda: known.answers.get_schema(2))).schema_str == '"string"'


async def test_a_schema_that_is_not_taken_is_a_definite_answer(server: RegistryServer) -> None:
    from confluent_kafka.schema_registry import Schema

    new = Schema('{"type": "record", "name": "Order", "fields": [{"name": "other", "type": "int"}]}', "AVRO")
    with registry(server) as known, pytest.raises(RegistryRefusedError, match="refuses .*'orders-value': HTTP 409"):
        await answered(lambda: known.answers.register_schema_full_response("orders-value", new))


async def test_what_is_kept_is_bounded(server: RegistryServer) -> None:
    """I10: the oldest answer makes room, and is asked for again."""
    server.registry.register({"schema": '"string"'}, "b-value")
    server.registry.register({"schema": '"int"'}, "c-value")
    with registry(server, known_max=2) as known:
        for number in (1, 2, 3, 3, 2):
            await answered(lambda number=number: known.answers.get_schema(number))
        assert server.asked("/schemas/ids/") == 3
        with pytest.raises(NotYet):
            known.answers.get_schema(1)


async def test_the_next_registry_is_asked_where_one_is_away(server: RegistryServer) -> None:
    with schema_registry() as gone:
        pass
    with registry(server, url=f"{gone.url},{server.url}") as known:
        assert (await answered(lambda: known.answers.get_schema(1))).schema_str == AVRO


@pytest.mark.parametrize(
    "header,right,wrong",
    [
        (
            basic("shop", "s3cret:with colon"),
            {"username": "shop", "password": "s3cret:with colon"},
            {"username": "shop", "password": "wr0ng"},
        ),
        ("Bearer t0ken", {"bearer_token": "t0ken"}, {"bearer_token": "wr0ng"}),
    ],
)
async def test_credentials_go_along_and_are_shown_nowhere(
    server: RegistryServer,
    header: str,
    right: dict[str, Any],
    wrong: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.credentials = header
    with registry(server, **right) as known:
        assert (await answered(lambda: known.answers.get_schema(1))).schema_str == AVRO
        assert "s3cret" not in repr(known.settings)
        assert "t0ken" not in repr(known.settings)

    with registry(server, **wrong) as known:
        reason = await told(lambda: known.answers.get_schema(1))
    assert "HTTP 401" in reason
    assert "wr0ng" not in reason + caplog.text


async def test_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    context = _certificate(tmp_path)
    with schema_registry(tls=context) as server:
        server.registry.register({"schema": AVRO}, "orders-value")
        with registry(server, ca=str(tmp_path / "ca.pem")) as known:
            assert (await answered(lambda: known.answers.get_schema(1))).schema_str == AVRO
        with registry(server) as known:
            assert "CERTIFICATE_VERIFY_FAILED" in await told(lambda: known.answers.get_schema(1))


def _certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for localhost that is its own CA."""
    write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context
