"""What is said of a database that cannot be reached: the names that libpq takes, not those that were written."""

import psycopg
import pytest

from engine.pool import explain_connect_error


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
