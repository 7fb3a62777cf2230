"""Applies schema.sql to the database of PROCESSOR_POSTGRES_DSN. Run by `processor migrate`, after the system tables."""

import os
from pathlib import Path

import psycopg


def migrate(dsn: str) -> None:
    """Make the table, where it is not there yet."""
    with psycopg.connect(dsn) as connection:
        connection.execute((Path(__file__).parent / "schema.sql").read_bytes())


if __name__ == "__main__":
    migrate(os.environ["PROCESSOR_POSTGRES_DSN"])
