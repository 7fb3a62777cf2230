"""A pytest plugin that runs a scenario once per crash point. Installed with the distribution; nothing to switch on.

    async def test_every_order_is_recorded_once(crash_point, dsn):
        async with Bench(app, dsn) as bench:
            bench.crash(at=crash_point)
            for n in range(20):
                await bench.deliver(orders, OrderPlaced(order_id=f"o-{n}"))
            await bench.settle()

            assert ...                                     your invariants, whatever crashed

A test that asks for `crash_point` runs once without a crash (`None`) and once for every `CrashPoint` that a `Bench` can
pass, or only for those of `@pytest.mark.crash_points(...)`. A point that a scenario does not pass crashes nothing; where
the marker names it, that is a failure. The runs with a crash have the marker `crashing`: `-m "not crashing"` leaves them out.
"""

import sys
from collections.abc import Generator

import pytest

FIXTURE = "crash_point"
MARKER = "crash_points"
CRASHING = "crashing"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}(*points): crash points that a `{FIXTURE}` test runs at")
    config.addinivalue_line("markers", f"{CRASHING}: the runs of a `{FIXTURE}` test that have a crash")


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
    crashing = [pytest.param(point, id=point.value, marks=getattr(pytest.mark, CRASHING)) for point in points]
    metafunc.parametrize(FIXTURE, [pytest.param(None, id="no-crash"), *crashing])


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A crash that did not happen must not happen in the next test; one that was asked for by name must happen."""
    try:
        result = yield
        bench = sys.modules.get("processor.testing.bench")
        point = pyfuncitem.funcargs.get(FIXTURE)
        if bench is not None and point in bench.unmet and _names_its_points(pyfuncitem):
            pytest.fail(f"the scenario has not passed the crash point '{point}', which its marker {MARKER} names")
        return result
    finally:
        if (crashpoints := sys.modules.get("engine.crashpoints")) is not None:
            crashpoints.armed.clear()
        if (bench := sys.modules.get("processor.testing.bench")) is not None:
            bench.unmet.clear()


def _names_its_points(item: pytest.Function) -> bool:
    """Whether the points are those of this scenario, and not of several with other parameters."""
    return item.get_closest_marker(MARKER) is not None and list(item.callspec.params) == [FIXTURE]
