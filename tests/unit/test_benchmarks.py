"""What the benchmarks say of their measurements, and of the budgets."""

import json
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks import budgets, conditions, footprint, rows
from benchmarks.__main__ import arguments, take_turns
from benchmarks.budgets import BUDGETS, Budget, Outcome, judge
from benchmarks.measure import Measured, MeasurementError
from benchmarks.orders import Keys, order
from benchmarks.peer import DBOS, RESTATE
from benchmarks.report import Against, Line, line, table, verdicts_table
from benchmarks.restate_peer import rate_of
from benchmarks.workloads import Participant
from tests.fixtures import peers


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round on a slow machine slows both sides; the ratio of medians would compare different rounds."""
    rounds = {
        "ours": [Measured(50.0), Measured(10.0), Measured(60.0)],
        "floor": [Measured(100.0), Measured(40.0), Measured(100.0)],
        "uniform": [Measured(50.0), Measured(20.0), Measured(50.0)],
    }

    found = line("ours", "ours", rounds, Against(floor="floor", plain="uniform", dbos="not there"))

    assert found.floor_ratio == 0.5
    assert found.kept_ratio == 1.0
    assert found.dbos_ratio is None
    assert found.restate_ratio is None
    assert found.records_per_s == 50.0


def test_the_table_leaves_out_what_was_not_measured() -> None:
    found = line("latency", "latency", {"latency": [Measured(p50_ms=4.0, p99_ms=15.0)]}, Against())

    last = table([found]).splitlines()[-1]

    assert [cell.strip() for cell in last.strip("|").split("|")] == [
        *("latency", "", "", "", "", "", "4.0", "15.0", "", ""),
    ]


def test_the_table_says_what_only_some_rows_have_in_words() -> None:
    rounds = {"idle": [Measured(core_percent=1.25, queries_per_s=2.0)], "retention": [Measured(deleted_ratio=0.5)]}

    found = table([line(name, name, rounds, Against()) for name in rounds])

    assert "| 1.2 % of a core, 2.0 queries/s |" in found
    assert "| 0.50 deleted a record          |" in found


def test_json_has_every_number_of_a_row_under_the_name_that_budgets_use() -> None:
    names = set(Line("row", "row").as_json())

    assert {budget.number for budget in BUDGETS} <= names
    assert {"records_per_s", "floor_ratio", "dbos_ratio", "restate_ratio", "p50_ms", "p99_ms", "rss_mib"} <= names
    assert json.loads(json.dumps(Line("row", "row", floor_ratio=0.12345).as_json()))["floor_ratio"] == 0.123


def test_every_budget_is_about_a_row_that_there_is() -> None:
    """A budget of a row that was renamed would never be judged again."""
    assert {budget.row for budget in BUDGETS} <= set(rows.NAMES)
    assert len({(budget.row, budget.number) for budget in BUDGETS}) == len(BUDGETS)


@pytest.mark.parametrize(
    "budget, found, outcome",
    [
        (Budget("r", "floor_ratio", 0.6, 0.8), 0.8, Outcome.AIM),
        (Budget("r", "floor_ratio", 0.6, 0.8), 0.6, Outcome.REACHED),
        (Budget("r", "floor_ratio", 0.6, 0.8), 0.5999, Outcome.MISSED),
        (Budget("r", "floor_ratio", 0.6), 5.0, Outcome.REACHED),
        (Budget("r", "floor_ratio", None, 0.4), 0.3, Outcome.BELOW_AIM),
        (Budget("r", "p99_ms", 30, 15, is_most=True), 15.0, Outcome.AIM),
        (Budget("r", "p99_ms", 30, 15, is_most=True), 30.0, Outcome.REACHED),
        (Budget("r", "p99_ms", 30, 15, is_most=True), 30.1, Outcome.MISSED),
        (Budget("r", "p99_ms", 30, 15, is_most=True), None, Outcome.UNKNOWN),
    ],
)
def test_a_number_reaches_its_budget_or_does_not(budget: Budget, found: float | None, outcome: Outcome) -> None:
    [verdict] = judge({"r": {budget.number: found}}, [budget])

    assert verdict.outcome is outcome
    assert budgets.is_met([verdict]) is (outcome is not Outcome.MISSED)


def test_what_was_not_measured_is_said_and_counted_as_neither() -> None:
    """A missing peer is no failure, and no success."""
    rounds = {"journaled-1": [Measured(70.0)], "floor-step": [Measured(100.0)]}
    found = line("journaled-1", "journaled", rounds, Against(floor="floor-step"))

    verdicts = judge({found.name: found.numbers()}, BUDGETS[:3])

    assert [verdict.outcome for verdict in verdicts] == [Outcome.REACHED, Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert budgets.summary(verdicts) == (
        "of 3 that must be reached, 1 are, 0 are not; 2 were not measured, and nothing is known of them"
    )
    assert [row.count("not measured") for row in verdicts_table(verdicts).splitlines()[2:]] == [0, 1, 1]


def test_what_is_compared_brings_with_it_what_it_is_compared_with() -> None:
    assert rows.needed({"network"}) == {"network", "journaled-1"}
    assert rows.needed({"processes-4"}) == {"processes-4", "processes-1"}
    assert rows.needed({"idle"}) == {"idle"}


def test_quick_leaves_rows_out_unless_they_are_asked_for() -> None:
    assert rows.asked((), quick=False) == set(rows.NAMES)
    assert rows.asked((), quick=True) == set(rows.NAMES) - set(rows.NOT_QUICK)
    assert rows.asked(("recovery",), quick=True) == {"recovery"}
    assert not {budget.row for budget in BUDGETS} & set(rows.NOT_QUICK)


def test_everybody_takes_turns() -> None:
    """Who was first in one round is last in the next: a machine that warms up favours nobody."""
    ran: list[str] = []

    def participant(name: str) -> Participant:
        return Participant(name, name, lambda: (ran.append(name), Measured(float(len(ran))))[1])

    measured = take_turns([participant("a"), participant("b")], 3)

    assert ran == ["a", "b", "b", "a", "a", "b"]
    assert [each.records_per_s for each in measured["a"]] == [1.0, 4.0, 5.0]


def test_a_peer_that_fails_is_left_out_of_every_round_and_nobody_else_is() -> None:
    def run(results: list[float | None]) -> Callable[[], Measured]:
        def once() -> Measured:
            if (rate := results.pop(0)) is None:
                raise MeasurementError("it ended by itself")
            return Measured(rate)

        return once

    peer = Participant("peer", "peer", run([5.0, None]), is_peer=True)
    ours = Participant("ours", "ours", run([1.0, 2.0, 3.0]), meets_peers=True)

    measured = take_turns([peer, ours], 3)

    assert set(measured) == {"ours"}
    assert [each.name for each in rows.lines([peer, ours], measured)] == ["ours"]
    with pytest.raises(MeasurementError):
        take_turns([Participant("ours", "ours", run([None]))], 1)


def test_arguments_have_defaults_that_quick_changes() -> None:
    assert arguments([]).rounds == 3
    assert arguments(["--quick"]).rounds == 1
    assert arguments(["--quick", "--rounds", "2", "--check"]).rounds == 2
    assert arguments(["--only", "idle", "backlog"]).only == ("idle", "backlog")


@pytest.mark.parametrize(
    "given, said",
    [
        (["--rounds", "0"], "--rounds: at least 1"),
        (["--json", "/no/such/folder/x.json"], "there is no directory /no/such/folder"),
        (["--only", "everything"], "invalid choice: 'everything'"),
    ],
)
def test_a_wrong_argument_is_said(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(given)

    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_records_share_keys_as_their_topic_says() -> None:
    def keys(kind: Keys, count: int) -> Counter[bytes]:
        return Counter(order(number, kind)[0] for number in range(count))

    assert set(keys(Keys.MANY, 50_000).values()) == {1}
    assert keys(Keys.FEW, 1_000) == dict.fromkeys(keys(Keys.FEW, 1_000), 10)
    assert keys(Keys.HOT, 1_000).most_common(2)[0] == (b"customer-hot", 500)
    assert keys(Keys.HOT, 1_000).most_common(2)[1][1] == 1


def test_deleting_is_counted_behind_the_first_tenth_as_rates_are() -> None:
    seen = [(0, 0), (50, 900), (100, 1_000), (600, 1_400), (1_000, 1_900)]

    assert conditions.deleted_a_record(seen) == 1.0
    assert conditions.deleted_a_record([(0, 5), (1_000, 10)]) is None


def test_statements_of_one_database_are_counted_in_a_servers_log() -> None:
    log = """\
2026-11-27 13:17:40.1 UTC [7] bench_1 LOG:  statement: BEGIN
2026-11-27 13:17:40.2 UTC [7] bench_1 LOG:  execute _pg3_0: SELECT 1
2026-11-27 13:17:40.2 UTC [7] bench_1 DETAIL:  parameters: $1 = 'LOG:  statement: SELECT 9'
2026-11-27 13:17:40.3 UTC [7] bench_1 LOG:  statement: COMMIT
2026-11-27 13:17:40.4 UTC [8] bench_2 LOG:  statement: SELECT 2
2026-11-27 13:17:40.5 UTC [7] bench_1 LOG:  execute <unnamed>:\x20
\t    UPDATE executor
\t       SET counter = 1
2026-11-27 13:17:40.6 UTC [9] LOG:  checkpoint starting: time
"""

    assert footprint.statements(log, "bench_1") == 2


def test_the_rate_of_another_clock_begins_with_what_completes_the_first_tenth() -> None:
    """Of 20, the second one does: 18 come behind it. Neither the order nor a slow start counts."""
    times = [0.0, 100.0, *(100.0 + n for n in range(1, 19))]

    assert rate_of(times[::-1]) == 1.0


def test_too_few_for_a_rate_are_no_rate() -> None:
    with pytest.raises(MeasurementError, match="3 invocations in one moment"):
        rate_of([5.0, 5.0, 5.0])


def test_environments_of_peers_are_not_those_of_the_tests() -> None:
    """Two of one name with different packages would each be made anew whenever the other one is wanted."""
    assert not {DBOS.name, RESTATE.name} & set(peers.PEERS)
