"""sql/schema.sql is the sum of the migrations: nothing missing, nothing else."""

import psycopg

from engine.migrations import migrate
from tests.fixtures.postgres import Databases
from tests.sql.snapshot import SCHEMA_FILE, snapshot


async def test_schema_file_is_the_sum_of_the_migrations(each_version: Databases) -> None:
    """Also: the text is the same on every supported version. Run `make schema` after a new migration."""
    with each_version.fresh() as address:
        await migrate(address)

        assert snapshot(address) == SCHEMA_FILE.read_text()


def test_schema_file_loads_into_the_same_schema(each_version: Databases) -> None:
    """What the snapshot does not see would be missing here."""
    text = SCHEMA_FILE.read_text()
    with each_version.fresh() as address:
        with psycopg.connect(address) as conn:
            conn.execute(text.encode())

        assert snapshot(address) == text
