"""When a schedule is due: cron expressions in a time zone, as instants. Pure.

    "30 2 * * *" in Europe/Paris ──croniter, in local time──▶ 02:30 on every day ──zone──▶ instants

    the clock goes forward    a local time that does not exist does not run
    the clock goes back       a local time that comes twice runs the first time

croniter has zones of its own, which move what does not exist and run what comes twice now once and now twice. So it is
asked without one, and what it says is given its zone here (decision 0014).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import cast
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter

from engine.errors import ConfigurationError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)

_BY_CHANCE = re.compile(r"[hr](\(|/|$)")
"""croniter's fields that stand for a number it makes up: each process would have its own."""

_ONE_VALUE = re.compile(r"(\w+)-(\w+)(/0*[1-9]\d*)?(#\w+)?")
"""Perhaps a range from a value to itself; a step in it leads nowhere. croniter takes it for every value there is."""

_MONTHS = dict(
    zip(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], range(1, 13), strict=True)
)
_DAYS = dict(zip(["sun", "mon", "tue", "wed", "thu", "fri", "sat"], range(7), strict=True))
_NAMES: tuple[dict[str, int], ...] = ({}, {}, {}, {}, _MONTHS, _DAYS)
"""Of the six fields, the last five, or an alias: what stands for a number there."""

_ALIASES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")


class CatchUp(StrEnum):
    """What becomes of ticks that nobody started in time, because no process ran or Postgres was away."""

    ALL = "all"
    """Every one is made up, in order."""
    LATEST = "latest"
    """The newest is made up, unless a tick is due that is on time."""
    NONE = "none"
    """None is made up."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Times of day at which a workflow runs.

    Attributes:
        expression: Minute, hour, day of the month, month, day of the week; or six fields **with the seconds first**:
            `*/30 * * * * *` is every 30 seconds. Where both days are restricted, either will do; `*/2` restricts one (in
            Vixie's cron it does not). Also `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
        timezone: Whose local time the fields are, as 'Europe/Paris'. A local time that is skipped when clocks change does not
            run, one that comes twice runs once; so intervals of less than a day belong into UTC.
        catch_up: What becomes of ticks that were missed.

    Raises:
        ConfigurationError: No such expression or time zone, or one that is never due. Says which field.
    """

    expression: str
    timezone: str = "UTC"
    catch_up: CatchUp = CatchUp.ALL

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.expression), str):
            raise ConfigurationError(f"Cron({self.expression!r}): a text, as Cron('0 3 * * *')")
        # Spacing is no difference between two schedules.
        object.__setattr__(self, "expression", " ".join(self.expression.split()))
        if not isinstance(cast("object", self.catch_up), CatchUp):
            raise ConfigurationError(f"{self}: catch_up={self.catch_up!r}; there are {', '.join(map(repr, CatchUp))}")
        _check_expression(self.expression)
        _zone(self.timezone)
        if next(self.after(_ms(datetime.now(UTC))), None) is None:
            raise ConfigurationError(f"{self}: it is never due; there is no such day")

    def after(self, instant: int) -> Iterator[int]:
        """Every tick behind an instant, in order, for ever; epoch ms."""
        zone = _zone(self.timezone)
        local = _local(instant, zone)
        ticks = _croniter(self.expression, local)
        while (local := _next(ticks.get_next)) is not None:
            if not _exists(local, zone):
                ticks.set_current(_edge(local, zone, _exists, forward=True) - _SECOND)
            elif (tick := _instant(local, zone)) > instant:
                yield tick
            else:  # the second time round: those of the first are all behind
                ticks.set_current(_edge(local, zone, _is_single, forward=True) - _SECOND)

    def between(self, after: int, until: int) -> Iterator[int]:
        """The ticks behind `after`, up to and with `until`, in order; epoch ms."""
        for tick in self.after(after):
            if tick > until:
                return
            yield tick

    def newest(self, instant: int) -> int | None:
        """The last tick at or before an instant, epoch ms; `None` if there is none within 50 years."""
        zone = _zone(self.timezone)
        local = _local(instant, zone)
        if _is_second(instant, local, zone):
            local = _edge(local, zone, _is_single, forward=True) - _SECOND
        ticks = _croniter(self.expression, local + _SECOND)
        while (local := _next(ticks.get_prev)) is not None:
            if _exists(local, zone):
                return _instant(local, zone)
            ticks.set_current(_edge(local, zone, _exists, forward=False) + _SECOND)
        return None

    def count(self, after: int, until: int, *, limit: int) -> int:
        """How many ticks there are behind `after`, up to and with `until`; at most `limit`."""
        return sum(1 for _ in islice(self.between(after, until), limit))

    def __repr__(self) -> str:
        catch_up = "" if self.catch_up is CatchUp.ALL else f", catch_up={self.catch_up!r}"
        return f"Cron({self.expression!r}, timezone={self.timezone!r}{catch_up})"


def _check_expression(expression: str) -> None:
    fields = expression.lower().split()
    said = f"Cron({expression!r})"
    if expression.startswith("@"):
        if expression.lower() not in _ALIASES:
            raise ConfigurationError(f"{said}: there are {', '.join(_ALIASES)}, and expressions of five or six fields")
        return
    if len(fields) not in (5, 6):
        raise ConfigurationError(
            f"{said}: {len(fields)} fields. It has five (minute, hour, day of the month, month, day of the week),\n"
            f"  or six with the seconds first, as '*/30 * * * * *' for every 30 seconds."
        )
    if by_chance := [field for field in fields if _BY_CHANCE.match(field)]:
        raise ConfigurationError(
            f"{said}: {by_chance[0]!r} stands for a number made up by each process: write the number"
        )
    try:
        croniter.expand(_without_ranges_of_one(expression), second_at_beginning=True)
    except Exception as error:  # noqa: BLE001  # it raises whatever its parser met
        problem = str(error)
    else:
        return
    raise ConfigurationError(f"{said} is no cron expression: {problem}")


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    """A time zone. UTC needs no database of them."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError, TypeError):
        known = available_timezones()
    if not known:
        raise ConfigurationError(
            f"timezone={name!r}: this system has no database of time zones.\n"
            f"  Install it: the system's package tzdata, or `pip install tzdata`."
        )
    nearest = get_close_matches(str(name), known, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ", as 'UTC' or 'Europe/Paris'"
    raise ConfigurationError(f"timezone={name!r}: there is no such time zone{hint}")


def _croniter(expression: str, local: datetime) -> croniter:
    return croniter(_without_ranges_of_one(expression), local, second_at_beginning=True)


@lru_cache(maxsize=256)
def _without_ranges_of_one(expression: str) -> str:
    """The same with `5` for `5-5`, and `MON` for `MON-MON`."""
    fields = expression.lower().split()
    names = _NAMES[-len(fields) :]
    return " ".join(
        ",".join(_one_value(part, values) for part in field.split(","))
        for field, values in zip(fields, names, strict=False)
    )


def _one_value(part: str, names: Mapping[str, int]) -> str:
    if (ends := _ONE_VALUE.fullmatch(part)) is None:
        return part
    first, last, _, nth = ends.groups()
    is_one = _value(first, names) == _value(last, names) is not None
    return f"{first}{nth or ''}" if is_one else part


def _value(text: str, names: Mapping[str, int]) -> int | None:
    return names.get(text, int(text) if text.isdecimal() else None)


def _next(step: Callable[[type[datetime]], datetime]) -> datetime | None:
    """The next local time; `None` where croniter finds none within 50 years."""
    try:
        return step(datetime)
    except ValueError:  # CroniterBadDateError, or the end of the calendar
        return None


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // _MS


def _instant(local: datetime, zone: tzinfo) -> int:
    """When a local time is, the first time if it comes twice."""
    return _ms(local.replace(tzinfo=zone, fold=0))


def _local(instant: int, zone: tzinfo) -> datetime:
    """Local time at an instant, in whole seconds."""
    return (_EPOCH + instant * _MS).astimezone(zone).replace(tzinfo=None, microsecond=0)


def _exists(local: datetime, zone: tzinfo) -> bool:
    """Whether clocks show it at all."""
    return _local(_instant(local, zone), zone) == local


def _is_single(local: datetime, zone: tzinfo) -> bool:
    """Whether clocks show it not twice."""
    return _shift(local, zone) == timedelta(0)


def _is_second(instant: int, local: datetime, zone: tzinfo) -> bool:
    """Whether, at this instant, clocks show a local time for the second time."""
    return not _is_single(local, zone) and _instant(local, zone) < instant - instant % 1000


def _shift(local: datetime, zone: tzinfo) -> timedelta:
    """By how much clocks are changed around a local time that does not exist or comes twice; else nothing."""
    first = local.replace(tzinfo=zone, fold=0).utcoffset()
    second = local.replace(tzinfo=zone, fold=1).utcoffset()
    assert first is not None, "a zone has an offset"
    assert second is not None, "a zone has an offset"
    return abs(first - second)


def _edge(local: datetime, zone: tzinfo, is_usual: Callable[[datetime, tzinfo], bool], *, forward: bool) -> datetime:
    """From a local time within a change of clocks: the first second behind it, or the last one before it.

    A schedule of every second has 3,600 ticks in a skipped hour, and there was a skipped day (Samoa, 2011).
    """
    sign = 1 if forward else -1
    near, far = 0, int(_shift(local, zone).total_seconds())
    assert far > 0, f"{local} in {zone}: clocks are not changed there"
    # The whole change is behind it: in no zone do clocks change twice within as long as one change takes.
    assert is_usual(local + sign * far * _SECOND, zone), f"{local} in {zone}: a change of clocks upon a change"
    while far - near > 1:
        middle = (near + far) // 2
        if is_usual(local + sign * middle * _SECOND, zone):
            far = middle
        else:
            near = middle
    return local + sign * far * _SECOND


__all__ = ["CatchUp", "Cron"]
