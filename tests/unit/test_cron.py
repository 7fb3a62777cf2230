"""When schedules are due: against every second of every clock change, and what is refused."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cron import CatchUp, Cron, _edge, _exists  # pyright: ignore[reportPrivateUsage]  # to the second
from engine.errors import ConfigurationError

HOUR = 3_600_000
DAY = 24 * HOUR

CHANGES = [
    ("Europe/Paris", "2026-03-29T01:00Z"),
    ("Europe/Paris", "2026-10-25T01:00Z"),
    ("America/New_York", "2026-03-08T07:00Z"),
    ("America/New_York", "2026-11-01T06:00Z"),
    ("America/Santiago", "2026-04-05T03:00Z"),  # at midnight: the day before has an hour more
    ("America/Santiago", "2026-09-06T04:00Z"),  # at midnight: the day has none
    ("Australia/Lord_Howe", "2026-04-04T15:00Z"),  # by half an hour
    ("Australia/Lord_Howe", "2026-10-03T15:30Z"),
    ("Europe/Dublin", "2026-10-25T01:00Z"),  # winter is what its law calls a change
    ("Africa/Casablanca", "2026-02-15T02:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00Z"),  # a day that there was not
    ("Asia/Kathmandu", "2026-06-01T00:00Z"),
    ("UTC", "2026-06-01T00:00Z"),
]
"""Zones, and an instant at which clocks change there."""


def ms(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def shown(instants: Sequence[int]) -> list[str]:
    return [datetime.fromtimestamp(each / 1000, UTC).strftime("%m-%d %H:%M:%S") for each in instants]


def first(cron: Cron, after: str, count: int) -> list[str]:
    return shown(list(islice(cron.after(ms(after)), count)))


# -- expressions --


def test_six_fields_have_the_seconds_first() -> None:
    assert first(Cron("*/30 * * * * *"), "2026-01-01T00:00:00Z", 3) == [
        "01-01 00:00:30",
        "01-01 00:01:00",
        "01-01 00:01:30",
    ]
    assert first(Cron("15 30 3 * * *"), "2026-01-01T00:00:00Z", 1) == ["01-01 03:30:15"]


def test_five_fields_are_at_the_full_minute() -> None:
    assert first(Cron("*/5 * * * *"), "2026-01-01T00:00:00.001Z", 2) == ["01-01 00:05:00", "01-01 00:10:00"]
    assert first(Cron("@daily"), "2026-01-01T00:00:00Z", 1) == ["01-02 00:00:00"]


@pytest.mark.parametrize(
    "expression, same",
    [
        ("59-59 1 * * *", "59 1 * * *"),
        ("05-5 1 * * *", "5 1 * * *"),
        ("5-5/10 1 * * *", "5 1 * * *"),
        ("1,5-5,7-9 1 * * *", "1,5,7-9 1 * * *"),
        ("0 0-0 * * *", "0 0 * * *"),
        ("0 0 1-1 * *", "0 0 1 * *"),
        ("0 0 1-1 * MON-MON", "0 0 1 * MON"),
        ("0 0 1 JAN-JAN *", "0 0 1 1 *"),
        ("0 0 1 jan-1/2 *", "0 0 1 1 *"),
        ("0 3 * * MON-MON", "0 3 * * 1"),
        ("0 3 * * mon-1/2", "0 3 * * 1"),
        ("0 3 * * Sun-SUN", "0 3 * * 0"),
        ("0 3 * * 7-7", "0 3 * * 0"),
        ("0 3 * * SUN-0", "0 3 * * 0"),
        ("0 3 * * FRI-FRI#1", "0 3 * * 5#1"),
        ("10-10 0 3 * * *", "10 0 3 * * *"),
        ("10 0 3 5-5 MAR-MAR MON-MON", "10 0 3 5 3 1"),
        ("0 3 * * MON-TUE", "0 3 * * 1,2"),
        ("0-59 3 * * *", "* 3 * * *"),
    ],
)
def test_a_range_of_one_value_is_that_value(expression: str, same: str) -> None:
    """`MON-MON` is Mondays, not every day; `a-a/n` is `a`, since nothing follows it."""
    at = "2026-01-01T00:00:00Z"

    assert first(Cron(expression), at, 30) == first(Cron(same), at, 30)
    assert Cron(expression).newest(ms(at)) == Cron(same).newest(ms(at))
    assert Cron(expression).expression == expression


@pytest.mark.parametrize("expression", ["61-61 * * * *", "5-5/0 * * * *", "0 0 * MON-MON *", "JAN-JAN * * * *"])
def test_a_range_of_what_is_no_value_is_refused(expression: str) -> None:
    with pytest.raises(ConfigurationError, match="is no cron expression"):
        Cron(expression)


@pytest.mark.parametrize(
    "expression, days",
    [
        pytest.param("0 0 13 * FRI", [2, 9, 13, 16, 23, 30], id="both restricted: either"),
        pytest.param("0 0 * * FRI", [2, 9, 16, 23, 30], id="one of them is a star: the other alone"),
        pytest.param("0 0 ? * FRI", [2, 9, 16, 23, 30], id="or a question mark"),
        pytest.param("0 0 */10 * FRI", [1, 2, 9, 11, 16, 21, 23, 30, 31], id="a star with a step restricts"),
        pytest.param("0 0 1-31/10 * FRI", [1, 2, 9, 11, 16, 21, 23, 30, 31], id="as the same range does"),
        pytest.param("0 0 13 * */3", [3, 4, 7, 10, 11, 13, 14, 17, 18, 21, 24, 25, 28, 31], id="so in the week"),
        pytest.param("0 0 */1 * FRI", list(range(1, 32)), id="also one that leaves nothing out"),
        pytest.param("0 0 */10 * *", [1, 11, 21, 31], id="beside a star it stands alone"),
        pytest.param("0 0 L * FRI", [2, 9, 16, 23, 30, 31], id="the last day or a Friday"),
        pytest.param("0 0 0 */10 * FRI", [1, 2, 9, 11, 16, 21, 23, 30, 31], id="six fields alike"),
    ],
)
def test_where_both_days_are_restricted_either_will_do_and_a_step_restricts(expression: str, days: list[int]) -> None:
    """As croniter and DBOS have it. Vixie's cron takes a field that begins with a star for none, and wants both."""
    ticks = Cron(expression).between(ms("2025-12-31T23:59:59Z"), ms("2026-01-31T23:59:59Z"))

    assert [datetime.fromtimestamp(tick / 1000, UTC).day for tick in ticks] == days


def test_a_tick_is_behind_its_own_time_and_not_at_it() -> None:
    cron = Cron("* * * * * *")
    at = ms("2026-01-01T00:00:00Z")

    assert next(cron.after(at - 1)) == at
    assert isinstance(next(cron.after(at)), int)
    assert next(cron.after(at)) == at + 1000
    assert next(cron.after(at + 999)) == at + 1000
    assert [cron.newest(at - 1), cron.newest(at), cron.newest(at + 999)] == [at - 1000, at, at]
    assert list(cron.between(at, at + 2000)) == [at + 1000, at + 2000]
    assert cron.count(at, at + 10_000, limit=100) == 10
    assert cron.count(at, at + 10_000_000, limit=100) == 100


def test_a_schedule_is_shown_as_it_is_written() -> None:
    assert repr(Cron("0  3 * * *", "Europe/Paris")) == "Cron('0 3 * * *', timezone='Europe/Paris')"
    assert repr(Cron("0 3 * * *", catch_up=CatchUp.NONE)) == (
        f"Cron('0 3 * * *', timezone='UTC', catch_up={CatchUp.NONE!r})"
    )


def test_spacing_is_no_difference_between_two_schedules() -> None:
    assert Cron(" 0  3 * *\t* ") == Cron("0 3 * * *")


@pytest.mark.parametrize(
    "expression, problem",
    [
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("", "0 fields"),
        ("61 * * * *", "out of range"),
        ("60 * * * * *", "out of range"),
        ("*/0 * * * *", "is no cron expression"),
        ("0 0 * * FOO", "not acceptable"),
        ("0 0 30 2 *", "never due"),
        ("0 0 31 4,6 *", "never due"),
        ("@reboot", "@hourly"),
        ("R * * * *", "made up by each process"),
        ("H(0-5) * * * *", "made up by each process"),
        (5, "a text"),
    ],
)
def test_a_wrong_expression_is_refused_where_it_is_written(expression: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Cron(expression)


@pytest.mark.parametrize(
    "expression, says",
    [
        (
            "@reboot",
            "Cron('@reboot'): there are @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, and",
        ),
        ("* * * *", "Cron('* * * *'): 4 fields. It has five (minute, hour, "),
        ("0 r * * *", "Cron('0 r * * *'): 'r' stands for a number made up by each process"),
        ("61 * * * *", "Cron('61 * * * *') is no cron expression: [61 * * * *] is not acceptable, out of range"),
        ("0 0 30 2 *", "Cron('0 0 30 2 *', timezone='UTC'): it is never due"),
    ],
)
def test_a_refusal_names_the_expression_and_says_what_there_is(expression: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Cron(expression)
    assert str(refused.value).startswith(says)


@pytest.mark.parametrize("zone", ["Europe/Pari", "Europe", "../etc/passwd", "", "x" * 300, "\0", None])
def test_a_wrong_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ConfigurationError, match=r"timezone=.*there is no such time zone"):
        Cron("0 3 * * *", timezone=zone)


def test_a_time_zone_that_was_misspelled_is_named() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'Europe/Paris'"):
        Cron("0 3 * * *", timezone="Europe/Pari")


def test_a_wrong_catch_up_is_refused() -> None:
    wrong: CatchUp = "sometimes"  # pyright: ignore[reportAssignmentType]  # the mistake under test
    with pytest.raises(ConfigurationError) as refused:
        Cron("0 3 * * *", catch_up=wrong)
    assert "catch_up='sometimes'; there are <CatchUp.ALL: 'all'>, <CatchUp.LATEST: 'latest'>, <Cat" in str(
        refused.value
    )


@given(st.text(alphabet="0123456789*/,-LlWw#?MONJA hHrR@", max_size=30))
def test_whatever_is_written_is_a_schedule_or_a_clear_error(expression: str) -> None:
    """No exception of the parser's own reaches the user; what is accepted can be asked."""
    try:
        cron = Cron(expression)
    except ConfigurationError:
        return
    assert next(cron.after(0)) > 0


# -- when clocks change --


def test_a_skipped_local_time_does_not_run() -> None:
    cron = Cron("30 2 * * *", timezone="Europe/Paris")

    assert first(cron, "2026-03-28T00:00Z", 2) == ["03-28 01:30:00", "03-30 00:30:00"]
    assert cron.newest(ms("2026-03-29T12:00Z")) == ms("2026-03-28T01:30Z")


def test_a_repeated_local_time_runs_once() -> None:
    cron = Cron("30 2 * * *", timezone="Europe/Paris")

    assert first(cron, "2026-10-24T12:00Z", 2) == ["10-25 00:30:00", "10-26 01:30:00"]
    assert first(cron, "2026-10-25T01:10Z", 1) == ["10-26 01:30:00"]
    assert cron.newest(ms("2026-10-25T01:45Z")) == ms("2026-10-25T00:30Z")


def test_nothing_runs_while_an_hour_is_repeated() -> None:
    cron = Cron("*/20 * * * *", timezone="Europe/Paris")

    assert first(cron, "2026-10-25T00:20Z", 2) == ["10-25 00:40:00", "10-25 02:00:00"]


@pytest.mark.parametrize("offset", range(0, 1000, 37))
def test_the_newest_is_of_the_first_time_round_while_it_lasts_and_of_all_of_it_later(offset: int) -> None:
    """Whatever the milliseconds: instants are, clocks show whole seconds."""
    cron = Cron("*/20 * * * *", timezone="Europe/Paris")

    assert cron.newest(ms("2026-10-25T00:10Z") + offset) == ms("2026-10-25T00:00Z")
    assert cron.newest(ms("2026-10-25T00:59:59Z") + offset) == ms("2026-10-25T00:40Z")
    assert cron.newest(ms("2026-10-25T01:10Z") + offset) == ms("2026-10-25T00:40Z")


def test_the_newest_before_a_skipped_time_is_the_last_second_before_it() -> None:
    cron = Cron("59 59 1,2 * * *", timezone="Europe/Paris")

    assert cron.newest(ms("2026-03-29T01:30Z")) == ms("2026-03-29T00:59:59Z")


SECONDS_AROUND = [
    ("Pacific/Apia", "2011-12-30T09:59:58Z", ["12-30 09:59:59", "12-30 10:00:00", "12-30 10:00:01"]),
    ("Europe/Paris", "2026-03-29T00:59:58Z", ["03-29 00:59:59", "03-29 01:00:00", "03-29 01:00:01"]),
    ("Europe/Paris", "2026-10-25T00:59:58Z", ["10-25 00:59:59", "10-25 02:00:00", "10-25 02:00:01"]),
    ("Europe/Paris", "2026-10-25T01:10:00Z", ["10-25 02:00:00", "10-25 02:00:01", "10-25 02:00:02"]),
    ("Australia/Lord_Howe", "2026-04-04T14:59:58Z", ["04-04 14:59:59", "04-04 15:30:00", "04-04 15:30:01"]),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What croniter is asked."""
    asked: list[str] = []
    for name in ("get_next", "get_prev"):
        answer = getattr(croniter, name)

        def counted(self: croniter, kind: type[datetime], name: str = name, answer: Any = answer) -> datetime:
            asked.append(name)
            return answer(self, kind)

        monkeypatch.setattr(croniter, name, counted)
    return asked


@pytest.mark.parametrize("zone, after, expected", SECONDS_AROUND)
def test_seconds_that_there_are_not_are_passed_at_once(
    zone: str, after: str, expected: list[str], asked: list[str]
) -> None:
    """A day that there was not has 86,400, an hour that comes again 3,600: asked for one by one they would take seconds."""
    cron = Cron("* * * * * *", timezone=zone)
    asked.clear()

    assert first(cron, after, 3) == expected
    assert len(asked) <= 4


def test_back_over_a_day_that_there_was_not_it_is_passed_at_once(asked: list[str]) -> None:
    cron = Cron("* * * 29,30 12 *", timezone="Pacific/Apia")
    asked.clear()

    assert cron.newest(ms("2011-12-31T00:00Z")) == ms("2011-12-30T09:59:59Z")
    assert asked.count("get_prev") == 2


@pytest.mark.parametrize(
    "skipped", ["02:00:00", "02:00:01", "02:00:59", "02:30:00", "02:30:01", "02:59:58", "02:59:59"]
)
def test_the_edges_of_a_change_are_found_to_the_second_from_anywhere_within(skipped: str) -> None:
    """A tick may be due at the first second behind a skipped hour, or at the last one before it."""
    zone, local = ZoneInfo("Europe/Paris"), datetime.fromisoformat(f"2026-03-29T{skipped}")

    assert _edge(local, zone, _exists, forward=True) == datetime.fromisoformat("2026-03-29T03:00:00")
    assert _edge(local, zone, _exists, forward=False) == datetime.fromisoformat("2026-03-29T01:59:59")


NUMBERS = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "week": (0, 6)}


@st.composite
def fields(draw: st.DrawFn, name: str) -> tuple[str, frozenset[int]]:
    """A field, and the numbers it stands for."""
    low, high = NUMBERS[name]
    every = frozenset(range(low, high + 1))
    kinds = ["star", "list", "range"] if name in ("day", "week") else ["star", "step", "list", "range"]
    match draw(st.sampled_from(kinds)):
        case "star":
            return "*", every
        case "step":
            step = draw(st.integers(2, 20))
            return f"*/{step}", frozenset(range(low, high + 1, step))
        case "list":
            numbers = draw(st.sets(st.integers(low, high), min_size=1, max_size=4))
            return ",".join(map(str, sorted(numbers))), frozenset(numbers)
        case _:
            start, end = sorted(draw(st.sets(st.integers(low, high), min_size=2, max_size=2)))
            return f"{start}-{end}", frozenset(range(start, end + 1))


class Described:
    """An expression, and which local times it is by the definition of its fields."""

    def __init__(self, **parts: tuple[str, frozenset[int]]) -> None:
        self.numbers = {name: numbers for name, (_, numbers) in parts.items()}
        self.has_seconds = "second" in parts
        self.either_day = parts["day"][0] != "*" and parts["week"][0] != "*"
        self.text = " ".join(text for text, _ in parts.values())

    def is_at(self, local: datetime) -> bool:
        has = self.numbers
        day, week = local.day in has["day"], local.isoweekday() % 7 in has["week"]
        return (
            local.second in has.get("second", {0})
            and local.minute in has["minute"]
            and local.hour in has["hour"]
            and local.month in has["month"]
            and (day or week if self.either_day else day and week)
        )


@st.composite
def described(draw: st.DrawFn, *, with_seconds: bool) -> Described:
    parts = {name: draw(fields(name)) for name in NUMBERS if with_seconds or name != "second"}
    if draw(st.booleans()):
        parts["month"] = ("*", frozenset(range(1, 13)))
    return Described(**parts)


def by_every_clock(cron: Described, zone: str, start: int, end: int, step: int) -> list[int]:
    """Ask every instant what its clocks show: a tick is where that is one of its times, for the first time."""
    found: list[int] = []
    tz = ZoneInfo(zone)
    for instant in range(start - start % step + step, end + 1, step):
        local = datetime.fromtimestamp(instant // 1000, tz)
        if local.fold == 0 and cron.is_at(local):
            found.append(instant)
    return found


def compare(cron: Described, zone: str, start: int, end: int, step: int) -> None:
    expected = by_every_clock(cron, zone, start, end, step)
    try:
        subject = Cron(cron.text, timezone=zone)
    except ConfigurationError:  # there is no such day in any month
        assert not expected
        return

    found = list(subject.between(start, end))

    assert found == expected
    assert all(one < other for one, other in pairwise(found))
    for instant in (start, end, (start + end) // 2, *expected[:2]):
        assert next(subject.after(instant)) > instant
        newest = max((tick for tick in expected if tick <= instant), default=None)
        if newest is not None:
            assert subject.newest(instant) == newest
        following = min((tick for tick in expected if tick > instant), default=None)
        if following is not None:
            assert next(subject.after(instant)) == following


@settings(deadline=None)  # the asking one by one takes as long as it takes
@given(described(with_seconds=False), st.sampled_from(CHANGES), st.integers(-2 * DAY, DAY))
def test_minutes_are_those_of_the_clocks_through_every_change(
    cron: Described, change: tuple[str, str], offset: int
) -> None:
    """What croniter makes of it, against three days of minutes asked one by one."""
    zone, at = change
    start = ms(at) + offset
    compare(cron, zone, start, start + 2 * DAY, 60_000)


@settings(deadline=None, max_examples=30)
@given(described(with_seconds=True), st.sampled_from(CHANGES), st.integers(-3 * HOUR, 2 * HOUR))
def test_seconds_are_those_of_the_clocks_through_every_change(
    cron: Described, change: tuple[str, str], offset: int
) -> None:
    zone, at = change
    start = ms(at) + offset
    compare(cron, zone, start, start + 2 * HOUR, 1000)


@pytest.mark.parametrize("text", ["0 3 * * 0-7", "0 3 * * SUN-7"])
def test_a_week_from_sunday_to_sunday_is_every_day(text: str) -> None:
    times = iter(Cron(text).after(0))

    assert [next(times) for _ in range(3)] == [(24 * day + 3) * 3_600_000 for day in range(3)]
