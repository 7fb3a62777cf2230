"""Which migrations run in which phase, and what refuses: decided without a database."""

import pytest

import sql
from engine.errors import ConfigurationError, SchemaMissingError
from engine.migrations import Applied, plan
from sql import Migration

KNOWN = [
    sql.parse("0001_pre_tables.sql", "CREATE TABLE {schema}.t ()"),
    sql.parse("0002_post_drop.sql", "DROP TABLE {schema}.u"),
    sql.parse("0003_pre_more.sql", "CREATE TABLE {schema}.v ()"),
    sql.parse("0004_post_end.sql", "DROP TABLE {schema}.w"),
]


def rows(*migrations: Migration) -> dict[int, Applied]:
    return {m.version: Applied(m.version, m.name, m.checksum) for m in migrations}


def test_everything_missing_runs_in_order() -> None:
    assert plan(KNOWN, rows(*KNOWN[:1]), schema="dbos") == KNOWN[1:]


def test_nothing_is_left_when_all_is_applied() -> None:
    assert plan(KNOWN, rows(*KNOWN), schema="dbos") == []


def test_a_phase_runs_its_own_migrations_only() -> None:
    assert plan(KNOWN, rows(*KNOWN[:2]), schema="dbos", phase="pre") == [KNOWN[2]]
    assert plan(KNOWN, rows(*KNOWN[:3]), schema="dbos", phase="post") == [KNOWN[3]]
    assert plan(KNOWN, rows(*KNOWN[:3]), schema="dbos", phase="pre") == []


def test_a_pre_migration_does_not_overtake_the_post_migration_of_the_release_before() -> None:
    """Its author knew a schema on which that one had run."""
    with pytest.raises(ConfigurationError, match="(?s)0002_post_drop comes before 0003_pre_more.*--phase post"):
        plan(KNOWN, rows(*KNOWN[:1]), schema="dbos", phase="pre")


def test_a_post_migration_does_not_overtake_a_pre_migration() -> None:
    with pytest.raises(ConfigurationError, match="(?s)0001_pre_tables comes before 0002_post_drop.*--phase pre"):
        plan(KNOWN[:2], {}, schema="dbos", phase="post")


def test_a_changed_migration_is_named() -> None:
    changed = {1: Applied(1, "pre_tables", "another checksum")}

    with pytest.raises(ConfigurationError, match="0001_pre_tables is not what was applied"):
        plan(KNOWN, changed, schema="dbos")


def test_a_newer_database_is_refused() -> None:
    newer = rows(*KNOWN) | {5: Applied(5, "pre_future", "x")}

    with pytest.raises(SchemaMissingError, match="0005_pre_future"):
        plan(KNOWN, newer, schema="dbos")


@pytest.mark.parametrize("name", ["1_pre_x.sql", "0001_mid_x.sql", "0001_pre_X.sql", "0001_pre_x.txt", "0001_pre_.sql"])
def test_a_file_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="NNNN_"):
        sql.parse(name, "")


def test_the_release_has_migrations_without_gaps() -> None:
    assert [m.version for m in sql.migrations()] == list(range(1, len(sql.migrations()) + 1))


def test_only_the_token_of_the_schema_is_replaced() -> None:
    """'{}' is an array, {"a": 1} an object, $$…$$ a body: all SQL's own."""
    text = """SELECT '{}'::int[], '{"schema": 1}'::jsonb FROM {schema}.t WHERE a = '{ schema }'"""

    assert sql.fill(text, 'a"B') == text.replace("{schema}", '"a""B"')


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "ü" * 32])
def test_a_name_that_postgres_would_cut_off_or_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        sql.quote(name)
