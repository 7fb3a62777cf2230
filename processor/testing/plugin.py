"""A pytest plugin that runs a scenario once per crash point. Installed with the distribution; nothing to switch on.

    async def test_every_order_is_recorded_once(crash_point, dsn):
        async with Bench(app, dsn) as bench:
            bench.crash(at=crash_point)
            for n in range(20):
                await bench.deliver(orders, OrderPlaced(order_id=f"o-{n}"))
            await bench.settle()

            assert ...                                     your invariants, whatever crashed

A test that asks for `crash_point` runs once without a crash (`None`) and once for every `CrashPoint` that a `Bench` can
pass, or only for those of `@pytest.mark.crash_points(...)`. A point that a scenario does not pass crashes nothing.
"""

import sys
from collections.abc import Generator

import pytest

FIXTURE = "crash_point"
MARKER = "crash_points"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}(*points): crash points that a `{FIXTURE}` test runs at")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One run for each crash point, and one without."""
    if FIXTURE not in metafunc.fixturenames:
        return
    # Late: pytest loads this plugin in every run of every project that has the distribution installed.
    from engine.crashpoints import CrashPoint

    marker = metafunc.definition.get_closest_marker(MARKER)
    points = (
        [point for point in CrashPoint if not (point.is_of_relay or point.is_of_retention or point.is_of_schedules)]
        if marker is None
        else [CrashPoint(point) for point in marker.args]
    )
    cases: list[CrashPoint | None] = [None, *points]
    metafunc.parametrize(FIXTURE, cases, ids=["no-crash", *(point.value for point in points)])


@pytest.fixture(autouse=True)
def _no_crash_point_stays_armed() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]  # pytest calls it
    """A crash that did not happen must not happen in the next test."""
    yield
    if (crashpoints := sys.modules.get("engine.crashpoints")) is not None:
        crashpoints.armed.clear()
