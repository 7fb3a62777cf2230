"""Logs: an observer of telemetry events that writes decisions, not loops; and the two ways a line looks.

    {"time": "2026-01-31T12:00:00.123Z", "level": "warning", "event": "source dropped", "source": "…", "reason": "fenced"}
    12:00:00.123 warning  source dropped  source=orders|orders-3 reason=fenced

Fields, not sentences with values in them: a line's `event` is one of a few, and can be counted. Payloads, keys, headers
and settings' secrets are in no line. What a handler says of a record (its error) is, shortened: keep secrets out of it.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from consumers import telemetry as kafka
from engine import telemetry
from engine.ids import SourceRef
from engine.telemetry import Event

TEXT_MAX = 1_000
"""Characters of one field."""
BURST_MAX = 20
"""Lines of one kind in BURST_S; the rest is counted in the first line after it. A bad deploy fails a million times."""
BURST_S = 10.0
BURSTS: Mapping[type[Event], int] = {telemetry.StoreUnavailable: 1, telemetry.FlushRetried: 5}
"""Lines of these in BURST_S: every service meets the same outage, and tries again several times a second."""
CLIENT_LOGGER = "consumers.librdkafka"
POOL_LOGGER = "psycopg.pool"

LEVELS: Mapping[type[Event], int] = {
    telemetry.ExecutorStarted: logging.INFO,
    telemetry.ExecutorLost: logging.ERROR,
    telemetry.ExecutorBuried: logging.WARNING,
    telemetry.SourceClaimed: logging.INFO,
    telemetry.SourceReleased: logging.INFO,
    telemetry.SourceDropped: logging.WARNING,
    telemetry.HoldPlaced: logging.ERROR,
    telemetry.DecodingWaits: logging.WARNING,
    telemetry.DecodingResumed: logging.INFO,
    telemetry.DeadLettered: logging.WARNING,
    telemetry.PayloadUnreadable: logging.ERROR,
    telemetry.LateResultRefused: logging.WARNING,
    telemetry.SuspectStarted: logging.WARNING,
    telemetry.FlushRetried: logging.WARNING,
    telemetry.StoreUnavailable: logging.ERROR,
    telemetry.StoreAvailable: logging.INFO,
    telemetry.VacuumStarved: logging.WARNING,
    telemetry.VacuumFreed: logging.INFO,
    telemetry.IntakeSlowed: logging.WARNING,
    telemetry.IntakeRestored: logging.INFO,
    telemetry.ServiceFailed: logging.ERROR,
    telemetry.TicksPassedOver: logging.WARNING,
    telemetry.TickRefused: logging.ERROR,
    telemetry.ScheduleChanged: logging.INFO,
    kafka.PartitionsAssigned: logging.INFO,
    kafka.PartitionsRevoked: logging.INFO,
    kafka.PartitionAttached: logging.INFO,
    kafka.PartitionHalted: logging.ERROR,
    kafka.OffsetRefused: logging.WARNING,
    kafka.GapAccepted: logging.ERROR,
    kafka.TopicRecreated: logging.WARNING,
    kafka.ClientRecreated: logging.ERROR,
    kafka.ClientError: logging.WARNING,
    kafka.RelayClaimed: logging.INFO,
    kafka.RelayReleased: logging.INFO,
    kafka.RelayInterrupted: logging.WARNING,
    kafka.TopicRefused: logging.ERROR,
    kafka.RelayHalted: logging.ERROR,
    kafka.PartitionPaused: logging.DEBUG,
    kafka.StaleBatchDropped: logging.DEBUG,
    telemetry.HandedOver: logging.DEBUG,
}
"""Events that are decisions. The others are the loop itself, and are counted by metrics."""

log = logging.getLogger("processor")


class LogObserver:
    """Writes the events of `LEVELS`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._throttle = Throttle(now)
        self._told_of_outage = False

    def __call__(self, event: Event) -> None:
        """Write an event, unless too many of its kind came at once."""
        level = LEVELS.get(type(event))
        if level is None or not log.isEnabledFor(level):
            return
        if isinstance(event, telemetry.StoreAvailable):
            # Each service notices by itself. The first one to come back ends the outage that was told of.
            if not self._told_of_outage:
                return
            self._told_of_outage = False
        suppressed = self._throttle.passes(type(event))
        if suppressed is None:
            return
        if isinstance(event, telemetry.StoreUnavailable):
            self._told_of_outage = True
        values = {field.name: _plain(getattr(event, field.name)) for field in fields(event)}
        if suppressed:
            values["suppressed"] = suppressed
        error = getattr(event, "error", None)
        log.log(
            level,
            _words(type(event).__name__),
            extra={"fields": values},
            exc_info=error if isinstance(error, BaseException) else None,
        )


_OBJECT = re.compile(r"<[\w.]+ \[[^\]]*\][^>]*>")
"""A connection's `repr`: `<psycopg.AsyncConnection [BAD] at 0x7f…>`."""


class Throttle:
    """Lets a burst of each kind of line through."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._bursts: dict[type[Event], tuple[float, int]] = {}

    def passes(self, kind: type[Event]) -> int | None:
        """How many lines of this kind were left out before this one; `None`: leave it out too."""
        now = self._now()
        began, count = self._bursts.get(kind, (now, 0))
        if now - began >= BURST_S:
            self._bursts[kind] = (now, 1)
            return max(count - BURSTS.get(kind, BURST_MAX), 0)
        self._bursts[kind] = (began, count + 1)
        return 0 if count < BURSTS.get(kind, BURST_MAX) else None


class Repeats(logging.Filter):
    """Lets a line of the Kafka client, or of the connection pool, through once in BURST_S.

    While nothing answers they say the same at every attempt; the pool about each of its connections, which it shows as
    Python objects. Those are left out: what is the same but for them is the same.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        if record.name == POOL_LOGGER:
            record.msg, record.args = _OBJECT.sub("", record.getMessage()).rstrip(": "), ()
        elif record.name != CLIENT_LOGGER:
            return True
        now, text = self._now(), record.getMessage()
        self._said = {said: at for said, at in self._said.items() if now - at < BURST_S}
        if text in self._said:
            return False
        self._said[text] = now
        return True


def setup_logging(format: Literal["json", "console"], level: str, stream: TextIO | None = None) -> None:  # noqa: A002
    """Send every logger of this process to standard error, one line an entry. For programs of our own only."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object a line; keys: time, level, event, logger, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """A line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.name != log.name:
            line["logger"] = record.name
        line |= _fields(record)
        if record.exc_info and record.exc_info[0]:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """Lines for people: time of day, level, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, and a traceback's."""
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        found = " ".join(f"{name}={value}" for name, value in _fields(record).items() if value != "")
        line = f"{at} {record.levelname.lower():8} {record.getMessage()}" + (f"  {found}" if found else "")
        if record.exc_info and record.exc_info[0]:
            line += "\n" + self.formatException(record.exc_info)
        return line


_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"fields", "message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Those of an event, or whatever a user's line was given as `extra`."""
    given: dict[str, Any] = getattr(record, "fields", {})
    return given | {name: value for name, value in vars(record).items() if name not in _OWN}


def _plain(value: Any) -> Any:
    """A field as JSON, short enough for a line."""
    if isinstance(value, bool | int | float) or value is None:
        return round(value, 4) if isinstance(value, float) else value
    if isinstance(value, SourceRef):
        return str(value)
    if isinstance(value, tuple | list | frozenset | set):
        return [_plain(item) for item in sorted(value, key=str)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # of any items
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"[:TEXT_MAX]
    return str(value)[:TEXT_MAX]


def _words(name: str) -> str:
    """'SourceDropped' as 'source dropped'."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
