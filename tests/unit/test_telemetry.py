"""Who is told of what the engine does, and what becomes of an observer that fails."""

import threading

import pytest

from engine.telemetry import Event, Telemetry, VacuumFreed


def test_everyone_is_told_in_order_and_whoever_is_added_comes_last() -> None:
    told: list[tuple[str, Event]] = []
    telemetry = Telemetry([lambda event: told.append(("first", event)), lambda event: told.append(("second", event))])
    telemetry.add(lambda event: told.append(("added", event)))
    event = VacuumFreed()

    telemetry.emit(event)

    assert told == [("first", event), ("second", event), ("added", event)]


def fails(event: Event) -> None:
    raise ZeroDivisionError("a label that is none")


def test_an_observer_that_fails_is_reported_and_neither_the_engines_nor_the_others_affair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    told: list[Event] = []

    Telemetry([fails, told.append]).emit(VacuumFreed())

    assert told == [VacuumFreed()]
    (report,) = reported
    assert (report.exc_type, str(report.exc_value)) == (ZeroDivisionError, "a label that is none")
    assert report.thread is threading.current_thread()


def test_outside_of_tests_python_itself_prints_what_an_observer_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hooks are particular about what they are given; one that refused it broke the engine."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    Telemetry([fails]).emit(VacuumFreed())

    printed = capsys.readouterr().err
    assert "ZeroDivisionError: a label that is none" in printed
    assert "Raised by a telemetry observer" in printed
    assert "at VacuumFreed" in printed
