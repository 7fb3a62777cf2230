"""What is written, and how a line looks."""

import io
import json
import logging
from collections.abc import Generator

import pytest

from consumers import telemetry as kafka
from engine import telemetry
from engine.ids import SourceRef, WorkflowId
from processor.logs import BURST_MAX, BURST_S, LEVELS, ConsoleFormatter, JsonFormatter, LogObserver, Repeats, log

SOURCE = SourceRef("shop", "fulfil", "orders", 3)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def written() -> Generator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield stream
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_decision_is_one_line_of_fields(written: io.StringIO) -> None:
    LogObserver()(telemetry.SourceDropped(SOURCE, "fenced"))

    (line,) = lines(written)
    assert (line["level"], line["event"]) == ("warning", "source dropped")
    assert (line["source"], line["reason"]) == ("shop|orders-3", "fenced")
    assert str(line["time"]).endswith("Z")


def test_the_loop_is_not_logged() -> None:
    """30,000 records a second must not be 30,000 lines."""
    silent = {telemetry.WorkflowsFinished, telemetry.StepsFinished, telemetry.Flushed, telemetry.RecordsDelivered}

    assert not silent & LEVELS.keys()
    assert telemetry.HeartbeatRenewed not in LEVELS


def test_a_burst_is_cut_and_counted(written: io.StringIO) -> None:
    clock = Clock()
    observe = LogObserver(clock)
    event = telemetry.DeadLettered(SOURCE, "fulfil", WorkflowId("orders-3-7"), "failed", "ValueError: no")

    for _ in range(BURST_MAX + 1_000):
        observe(event)
    clock.now = BURST_S + 1
    observe(event)

    found = lines(written)
    assert len(found) == BURST_MAX + 1
    assert found[-1]["suppressed"] == 1_000


def test_what_the_client_repeats_is_written_now_and_then() -> None:
    """Brokers that do not answer are one message to their user, not one for each attempt."""
    clock = Clock()
    passes = Repeats(clock).filter
    refused = logging.makeLogRecord({"name": "consumers.librdkafka", "msg": "FAIL %s", "args": ("refused",)})
    other = logging.makeLogRecord({"name": "consumers.librdkafka", "msg": "FAIL", "args": ()})
    users = logging.makeLogRecord({"name": "shop", "msg": "again"})

    assert [passes(refused), passes(other), passes(refused), passes(users), passes(users)] == [
        True, True, False, True, True
    ]  # fmt: skip
    clock.now = BURST_S + 1
    assert passes(refused)


def test_an_outage_of_the_database_is_a_line_now_and_then_and_one_when_it_ends(written: io.StringIO) -> None:
    """Every service meets it, and tries again several times a second."""
    clock = Clock()
    observe = LogObserver(clock)

    for tenth in range(140):
        clock.now = tenth / 10
        for _ in range(3):
            observe(telemetry.StoreUnavailable("OperationalError: refused", clock.now))
    for _ in range(3):
        observe(telemetry.StoreAvailable(14.0))
    clock.now = 30.0
    observe(telemetry.StoreAvailable(16.0))

    found = [(line["event"], line.get("suppressed")) for line in lines(written)]
    assert found == [("store unavailable", None), ("store unavailable", 299), ("store available", None)]


def test_every_outage_that_was_told_of_is_told_to_have_ended(written: io.StringIO) -> None:
    clock = Clock()
    observe = LogObserver(clock)

    for clock.now in (0.0, 1.0, 11.0):
        observe(telemetry.StoreUnavailable("OperationalError: refused", 0.0))
        observe(telemetry.StoreAvailable(0.5))

    assert [line["event"] for line in lines(written)] == ["store unavailable", "store available"] * 2


def test_the_connection_pool_says_a_thing_once_and_shows_no_objects() -> None:
    clock = Clock()
    repeats = Repeats(clock)

    def said(message: str, *args: object) -> str | None:
        record = logging.makeLogRecord({"name": "psycopg.pool", "msg": message, "args": args})
        return record.getMessage() if repeats.filter(record) else None

    discarding = "discarding closed connection: %s"
    one = "<psycopg.AsyncConnection [BAD] at 0x7f11>"
    other = "<engine.pool.PipelinedConnection [BAD] at 0x7f22>"
    assert said(discarding, one) == "discarding closed connection"
    assert said(discarding, other) is None
    assert said("error connecting in %r: %s", "engine", "refused") == "error connecting in 'engine': refused"
    assert said("error connecting in %r: %s", "engine", "refused") is None
    clock.now = BURST_S + 1
    assert said(discarding, other) == "discarding closed connection"


def test_an_unexpected_error_brings_its_traceback(written: io.StringIO) -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError as error:
        LogObserver()(telemetry.ServiceFailed("committer", error, 1.0))

    (line,) = lines(written)
    assert line["error"] == "RuntimeError: broken"
    assert "Traceback" in str(line["traceback"])


def test_a_users_line_keeps_its_own_fields(written: io.StringIO) -> None:
    logging.getLogger("processor.workflow").info("charged %s", "o-1", extra={"workflow": "orders-3-7"})

    (line,) = lines(written)
    assert (line["event"], line["workflow"], line["logger"]) == ("charged o-1", "orders-3-7", "processor.workflow")


def test_the_console_has_the_same_on_one_line() -> None:
    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "source claimed", "fields": {"epoch": 4}, "name": "processor"}
    )

    assert ConsoleFormatter().format(record).endswith("info     source claimed  epoch=4")


def test_several_partitions_are_one_field(written: io.StringIO) -> None:
    LogObserver()(kafka.PartitionsAssigned((SOURCE,), 3))

    assert lines(written)[0]["sources"] == ["shop|orders-3"]
