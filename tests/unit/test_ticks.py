"""What a look does about a schedule, by what it says of ticks that were missed; what a tick's row is."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cron import CatchUp, Cron
from engine.starts import Start
from engine.ticks import COUNT_MAX, Plan, plan, tick_id, tick_start, trigger_id
from processor import App, Tick

T0 = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
HOUR = 3_600_000
LEASE = 10_000


def hourly(catch_up: CatchUp) -> Cron:
    return Cron("0 * * * *", catch_up=catch_up)


def planned(
    catch_up: CatchUp, *, hours: float, late_ms: int = 0, active_since: int = T0 - HOUR, room: int = 100
) -> Plan:
    """`hours` after the last tick and some milliseconds."""
    now = T0 + int(hours * HOUR) + late_ms
    return plan(hourly(catch_up), last=T0, now=now, late_before=now - LEASE, active_since=active_since, room=room)


def hours(plan: Plan) -> list[float]:
    return [(tick - T0) / HOUR for tick in plan.ticks]


@pytest.mark.parametrize("catch_up", CatchUp)
def test_a_tick_that_is_due_is_started_whatever_is_made_up(catch_up: CatchUp) -> None:
    assert planned(catch_up, hours=1, late_ms=3) == Plan((T0 + HOUR,), T0 + HOUR)


@pytest.mark.parametrize("catch_up", CatchUp)
def test_nothing_is_due_before_its_time(catch_up: CatchUp) -> None:
    assert planned(catch_up, hours=1, late_ms=-1) == Plan((), T0)


def test_all_missed_ticks_are_made_up_in_order_a_batch_at_a_time() -> None:
    assert hours(planned(CatchUp.ALL, hours=5.5)) == [1, 2, 3, 4, 5]

    first = planned(CatchUp.ALL, hours=5.5, room=2)
    assert (hours(first), first.decided, first.has_more) == ([1, 2], T0 + 2 * HOUR, True)


def test_of_missed_ticks_the_latest_is_made_up() -> None:
    made_up = planned(CatchUp.LATEST, hours=5.5)
    assert (hours(made_up), made_up.missed) == ([5], 4)

    on_time = planned(CatchUp.LATEST, hours=5, late_ms=LEASE - 1)
    assert (hours(on_time), on_time.missed) == ([5], 4)


def test_no_missed_tick_is_made_up() -> None:
    assert planned(CatchUp.NONE, hours=5.5) == Plan((), T0 + int(5.5 * HOUR) - LEASE, missed=5)

    on_time = planned(CatchUp.NONE, hours=5, late_ms=LEASE - 1)
    assert (hours(on_time), on_time.missed) == ([5], 4)


def test_a_tick_before_anybody_was_active_is_missed_however_short_ago() -> None:
    """ExactlyOncePerIntervalWhenActive: who starts a second later has not been there."""
    late = planned(CatchUp.NONE, hours=1, late_ms=1_000, active_since=T0 + HOUR + 500)

    assert (late.ticks, late.missed) == ((), 1)
    assert hours(planned(CatchUp.NONE, hours=1, late_ms=1_000, active_since=T0 + HOUR - 500)) == [1]


def test_what_is_passed_over_is_counted_up_to_a_bound() -> None:
    """I10: a schedule of every second that stood still for a year has 31 million."""
    now = T0 + 365 * 24 * HOUR
    for catch_up in (CatchUp.NONE, CatchUp.LATEST):
        decided = plan(
            Cron("* * * * * *", catch_up=catch_up), last=T0, now=now, late_before=now - LEASE, active_since=now
        )
        assert COUNT_MAX - 1 <= decided.missed <= COUNT_MAX
        assert decided.decided >= now - LEASE


@settings(deadline=None, max_examples=60)  # croniter has no haste
@given(
    catch_up=st.sampled_from(CatchUp),
    expression=st.sampled_from(["*/40 * * * * *", "* * * * *", "*/20 * * * *", "0 3 * * *"]),
    waits=st.lists(st.integers(0, 2_000_000), min_size=1, max_size=8),
    room=st.integers(1, 5),
    active=st.integers(-1_000_000, 1_000_000),
)
def test_look_after_look_each_tick_is_started_once_or_passed_over(
    catch_up: CatchUp, expression: str, waits: list[int], room: int, active: int
) -> None:
    """However long the looks are apart: nothing twice, in order, and with ALL nothing left out."""
    cron = Cron(expression, catch_up=catch_up)
    last = now = T0
    started: list[int] = []
    missed = 0
    for wait in waits:
        now += wait
        for _ in range(20):
            decided = plan(cron, last=last, now=now, late_before=now - LEASE, active_since=T0 + active, room=room)
            assert last <= decided.decided <= now
            assert len(decided.ticks) <= room
            started += decided.ticks
            missed += decided.missed
            last = decided.decided
            if not decided.has_more:
                break

    assert all(one < other for one, other in pairwise(started))
    assert set(started) <= set(cron.between(T0, last))
    if catch_up is CatchUp.ALL:
        assert started == list(cron.between(T0, last))
        assert missed == 0
    elif (due := cron.count(T0, last, limit=COUNT_MAX)) < COUNT_MAX:
        assert missed == due - len(started)


# -- a tick's row --


def test_an_id_has_the_time_in_utc_with_milliseconds() -> None:
    assert tick_id("close_day", T0) == "sched-close_day-2026-01-01T00:00:00.000Z"
    assert trigger_id("close_day", T0 + 42) == "sched-close_day-trigger-2026-01-01T00:00:00.042Z"


def test_a_row_has_what_its_handler_reads() -> None:
    app = App("books")

    @app.workflow()
    def close_day(tick: Tick) -> None:
        raise NotImplementedError(tick)

    start: Start = tick_start("close_day", "1", T0, T0 + 7, why="tick")
    registration = app.workflows["close_day"]
    args, kwargs = registration.call_arguments().decode(start.inputs)
    (tick,) = args

    assert close_day.name == start.name
    assert isinstance(tick, Tick)
    assert not kwargs
    assert (tick.scheduled_at.timestamp() * 1000, tick.started_at.timestamp() * 1000) == (T0, T0 + 7)
    assert (start.wake_at, start.version, start.owner) == (T0, "1", None)
    assert json.loads(start.request or "") == {"schedule": "close_day", "why": "tick"}
