"""The demo kills as long as there are orders, and never so often that nothing but starting happens."""

import asyncio
import io
import time

import pytest

from processor.demo.demo import slowness
from processor.demo.kills import LOOKS_MAX, Killer, is_ripe
from processor.demo.show import Show


@pytest.mark.parametrize(
    "started_at, worked_at, now, kills, expected",
    [
        (0, None, 1_000, 0, False),  # it starts, however long that takes
        (0, 4, 7.9, 4, False),
        (0, 4, 8, 4, True),
        (0, 4, 11.9, 5, False),  # enough have hit
        (0, 4, 12, 5, True),
        (100, 140, 179, 0, False),  # on a slow machine
        (100, 140, 180, 0, True),
    ],
)
def test_a_worker_works_at_least_as_long_as_its_start_took_before_it_is_killed(
    started_at: float, worked_at: float | None, now: float, kills: int, expected: bool
) -> None:
    """Or two workers that start more slowly than they are killed would never do anything else."""
    assert is_ripe(started_at, worked_at, now, kills) is expected


def test_the_last_orders_come_slowly_while_too_few_kills_have_hit() -> None:
    """Or there would be nothing left to hit; and not for ever."""
    assert {slowness(left, 2_000, 4) for left in range(201, 2_001)} == {1}
    assert (slowness(200, 2_000, 4), slowness(100, 2_000, 4), slowness(1, 2_000, 4)) == (10, 20, 100)
    assert sum(slowness(left, 2_000, 0) for left in range(1, 201)) < 4 * 2_000
    assert {slowness(left, 2_000, 5) for left in range(1, 2_001)} == {1}


class Victim:
    """A worker that starts in no time. What a look at it shows is said, one after the other.

    Args:
        name: Its name.
        looks: Work in flight; `None` for one that has not finished anything since its start.
    """

    def __init__(self, name: str, looks: list[int | None]) -> None:
        self.name = name
        self.events: list[str] = []
        self.started_at = time.monotonic()
        self.worked_at: float | None = None
        self._looks = looks

    async def in_flight(self) -> int:
        await asyncio.sleep(0)
        look = self._looks.pop(0) if self._looks else 0
        self.worked_at = None if look is None else self.started_at
        self.events.append(f"look {look}")
        return 7 if look is None else look

    async def kill(self) -> None:
        self.events.append("kill")

    def start(self) -> None:
        self.events.append("start")
        self.started_at = time.monotonic()


async def kill(*victims: Victim, times: int) -> None:
    """Kill so often, with hardly a pause."""
    killer = Killer(victims, Show(io.StringIO()), every_s=0, away_s=0, look_every_s=0, unripe_s=0)
    killing = asyncio.ensure_future(killer.run())
    while killer.kills < times:
        assert not killing.done()
        await asyncio.sleep(0)
    killing.cancel()


async def test_kills_have_no_maximum_and_go_round() -> None:
    one, two = Victim("one", [1] * 30), Victim("two", [1] * 30)

    await kill(one, two, times=40)

    assert (one.events.count("kill"), two.events.count("kill")) == (20, 20)


async def test_a_worker_that_has_done_nothing_since_its_start_is_not_killed() -> None:
    """It has taken records, and would only start again. Meanwhile it is the other's turn."""
    slow, quick = Victim("slow", [None, None, 3]), Victim("quick", [1, 1, 1])

    await kill(slow, quick, times=4)

    assert slow.events == ["look None", "look None", "look 3", "kill", "start"]
    assert quick.events.count("kill") == 3


async def test_a_worker_without_work_in_flight_is_not_killed() -> None:
    """Nothing would be interrupted: it is waited for, and then it is the other's turn."""
    idle, busy = Victim("idle", [0, 0, 3]), Victim("busy", [0, 2, 0, 2])

    await kill(idle, busy, times=3)

    assert idle.events[:5] == ["look 0", "look 0", "look 3", "kill", "start"]
    assert idle.events.count("kill") == 1
    assert idle.events.count("look 0") == 2 + LOOKS_MAX
    assert busy.events.count("kill") == 2
