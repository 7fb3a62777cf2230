"""What is said of a database that cannot be reached: the names that libpq takes, not those that were written."""

import re

import psycopg
import pytest

from engine.addresses import VARIABLES, check_conninfo, explain_connect_error, explained
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
        ("host=a,b port=1,2 user=shop", {}, "a:1, b:2, database 'shop'"),
        ("host=a,b,c port=6432 user=shop", {}, "a:6432, b:6432, c:6432, database 'shop'"),
        ("postgresql://shop@a:1,b/x", {}, "a:1, b:5432, database 'x'"),
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
        ("SSL error: certificate verify failed", ConfigurationError, "Check sslmode and sslrootcert"),
        ('root certificate file "/ca.pem" does not exist', ConfigurationError, "Check sslmode and sslrootcert"),
        ('server certificate for "a" does not match host name "b"', ConfigurationError, "the name that is in it"),
        ("server does not support SSL, but SSL was required", ConfigurationError, "that the server speaks TLS"),
        ("session is read-only", StoreUnavailableError, "Promote one, or name the primary too"),
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


@pytest.mark.parametrize(
    "conninfo, reason",
    [
        ("postgresql://u:hunter2@:::bad", 'option "port": a number up to 65535'),
        ("postgresql://u:hunter2@db:99999/x", 'option "port": a number up to 65535'),
        ("postgresql://u:hunter2/hunter2@db/x", 'option "port".*/ as %2F'),
        ("postgresql://u:12/hunter2@db/x", "an @ behind where user and password end"),
        ("postgresql://u:hunt@hunter2@db/x", "an @ behind where user and password end.*@ in a password as %40"),
        ("host=db hunter2", r'missing "=" after \(not shown\)'),
        ("host=db password=a hunter2=b", r"invalid connection option \(not shown\)"),
        ('host=db hunter2"hunter2', "missing$"),
        ("postgresql://u:hunter2%zz@db/x", r"invalid percent-encoded token: \(not shown\)"),
    ],
)
def test_a_malformed_connection_string_is_told_by_its_reason_and_never_by_its_values(
    conninfo: str, reason: str
) -> None:
    """What libpq would connect with after a password that was not escaped is a piece of it."""
    with pytest.raises(ConfigurationError) as refused, explained(conninfo):
        pytest.fail("it was taken for an address")

    assert re.search(reason, str(refused.value).removesuffix(")"), re.DOTALL)
    assert str(refused.value).startswith("postgres.dsn: ")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "conninfo",
    ["host=a,b port=1,2", "postgresql://u:p%40@a:1,b:2/x?application_name=a@b", "host=/tmp user=a@b dbname=c@d"],
)
def test_what_libpq_takes_is_taken(conninfo: str) -> None:
    check_conninfo(conninfo)


@pytest.mark.parametrize(
    "conninfo, reason",
    [
        ("host=/nosuch sslmode=hunter2", r"invalid sslmode value: \(not shown\)"),
        ("host=127.0.0.1,127.0.0.1 port=1,1,1", "could not match 3 port numbers to 2 hosts"),
    ],
)
def test_a_value_that_libpq_refuses_before_it_connects_is_a_mistake_and_no_outage(conninfo: str, reason: str) -> None:
    with (
        pytest.raises(ConfigurationError, match=f"postgres.dsn, or one of libpq's variables.*{reason}"),
        explained(conninfo),
    ):
        psycopg.connect(conninfo)
