"""What a check-up says of what a server says."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from engine.checkup import Level, judge_clock, judge_server
from engine.settings import BrakeSettings, EngineSettings
from engine.store.checkup import ServerRow

SETTINGS = EngineSettings(conninfo="", pool_max=8, committers=2)
WELL: dict[str, str] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "max_connections": "100",
    "superuser_reserved_connections": "3",
    "idle_in_transaction_session_timeout": "0",
}


def server(**changes: Any) -> ServerRow:
    settings = WELL | {name: value for name, value in changes.items() if name in WELL}
    row = ServerRow(
        now_ms=0.0,
        backend_pid=1,
        is_standby=False,
        is_read_only=False,
        encoding="UTF8",
        settings=settings,
        connections=20,
        role_connections=10,
        role_limit=-1,
        database_limit=-1,
        xid_age=1_000,
    )
    return row._replace(**{name: value for name, value in changes.items() if name not in WELL})


def found(**changes: Any) -> dict[str, Level]:
    checks = judge_server(server(**changes), SETTINGS)
    assert all(each.advice for each in checks if each.level is not Level.FINE), "each says what to do"
    return {each.subject: each.level for each in checks if each.level is not Level.FINE}


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, {}),
        ({"is_standby": True}, {"postgres role": Level.PROBLEM}),
        ({"is_read_only": True}, {"postgres role": Level.PROBLEM}),
        ({"encoding": "SQL_ASCII"}, {"encoding": Level.PROBLEM}),
        ({"fsync": "off"}, {"fsync": Level.PROBLEM}),
        ({"full_page_writes": "off"}, {"full_page_writes": Level.PROBLEM}),
        ({"synchronous_commit": "off"}, {"synchronous_commit": Level.PROBLEM}),
        ({"synchronous_commit": "remote_apply"}, {}),
        ({"autovacuum": "off"}, {"autovacuum": Level.WARNING}),
        ({"xid_age": 1_600_000_000}, {"transaction IDs": Level.PROBLEM}),
        (
            {"idle_in_transaction_session_timeout": "5000"},
            {"idle_in_transaction_session_timeout": Level.WARNING},
        ),
        ({"connections": 83}, {}),
        ({"connections": 84}, {"connections": Level.WARNING}),
        ({"max_connections": "16"}, {"connections": Level.PROBLEM}),
        ({"role_limit": 20}, {"connections": Level.WARNING}),
        ({"database_limit": 13}, {"connections": Level.PROBLEM}),
    ],
)
def test_each_setting_that_costs_a_promise_is_one_line_with_what_to_do(
    changes: dict[str, Any], expected: dict[str, Level]
) -> None:
    """A process takes 8 in its pool, 2 for each of 2 committers, and 2: 14 connections."""
    assert found(**changes) == expected


def test_who_wants_to_go_by_standbys_must_be_told_of_them() -> None:
    wanting = replace(SETTINGS, brakes=BrakeSettings(replica_lag_max=timedelta(seconds=30)))
    (check,) = [each for each in judge_server(server(sees_standbys=False), wanting) if each.level is not Level.FINE]
    assert check.subject == "standbys"
    assert "pg_monitor" in check.advice
    assert found(sees_standbys=False) == {}


def test_clocks_may_differ_by_a_second() -> None:
    assert judge_clock("clock", -0.9).level is Level.FINE
    check = judge_clock("clock", 2.0)
    assert (check.level, check.message) == (Level.WARNING, "2.0 s ahead of this machine's")
    assert judge_clock("clock", -2.0).message == "2.0 s behind this machine's"
