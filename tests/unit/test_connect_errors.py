"""What is said of a database that cannot be reached: the names that libpq takes, not those that were written."""

import re

import psycopg
import pytest

from engine.addresses import VARIABLES, explain_connect_error, explained
from engine.errors import ConfigurationError, EngineError, StoreUnavailableError


@pytest.mark.parametrize(
    "conninfo, environment, shown",
    [
        ("postgresql://shop@db.example/orders", {}, "db.example:5432, database 'orders'"),
        ("host=db.example user=shop", {}, "db.example:5432, database 'shop'"),
        ("postgresql://shop@db.example:6432", {}, "db.example:6432, database 'shop'"),
        ("host=db.example user=shop dbname=''", {}, "db.example:5432, database 'shop'"),
        ("host=db.example", {"PGUSER": "shop", "PGPORT": "6432"}, "db.example:6432, database 'shop'"),
        ("", {"PGHOST": "db.example", "PGDATABASE": "orders", "PGUSER": "shop"}, "db.example:5432, database 'orders'"),
        ("user=shop", {}, "a local socket:5432, database 'shop'"),
        ("hostaddr=10.0.0.1 user=shop password=secret", {}, "10.0.0.1:5432, database 'shop'"),
    ],
)
def test_the_message_names_the_effective_address(
    monkeypatch: pytest.MonkeyPatch, conninfo: str, environment: dict[str, str], shown: str
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    message = str(explain_connect_error(psycopg.OperationalError("connection refused"), conninfo))

    assert f"cannot be reached at {shown}: " in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "said, kind, advice",
    [
        ('FATAL:  database "orders" does not exist', ConfigurationError, "Create it (`createdb orders`)"),
        ('FATAL:  role "shop" does not exist', ConfigurationError, "Check user and password (postgres.direct_dsn"),
        ('FATAL:  password authentication failed for user "shop"', ConfigurationError, "Check user and password"),
        ("fe_sendauth: no password supplied", ConfigurationError, "Check user and password"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', ConfigurationError, "pg_hba.conf lets this user"),
        ("Connection refused", StoreUnavailableError, "Check the address (postgres.direct_dsn, or PROCESSOR_POSTGRES_"),
    ],
)
def test_the_advice_is_about_what_was_refused(said: str, kind: type[EngineError], advice: str) -> None:
    with pytest.raises(kind, match=re.escape(advice)), explained("host=db dbname=orders", "postgres.direct_dsn"):
        raise psycopg.OperationalError(said)


def test_what_a_session_says_is_no_matter_of_the_address() -> None:
    with pytest.raises(psycopg.errors.QueryCanceled), explained("host=db"):
        raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")


@pytest.mark.parametrize("name", VARIABLES)
def test_libpqs_own_variables_are_an_address(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in VARIABLES:
        monkeypatch.delenv(other, raising=False)
    with pytest.raises(ConfigurationError, match="postgres.dsn is not set"), explained(""):
        pytest.fail("nothing says where")

    monkeypatch.setenv(name, "1")
    with explained(""):
        entered = True

    assert entered
