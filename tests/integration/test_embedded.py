"""The Postgres that `processor dev` and users' tests start."""

import os
from pathlib import Path

import psycopg
import pytest

from processor.embedded import EmbeddedPostgres, installed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as somebody else")
def test_it_starts_from_a_folder_that_only_root_may_enter(tmp_path: Path) -> None:
    """As a virtual environment under /root: the programs are copied, with the libraries they look for beside them."""
    package = installed().parent.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / package.name).symlink_to(package)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        (closed / libraries.name).symlink_to(libraries)

    with EmbeddedPostgres(closed / package.name / installed().parent.name / "bin") as postgres:
        with psycopg.connect(postgres.dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        home = Path(postgres.dsn.split()[0].removeprefix("host="))
        assert (home / "install").is_dir()

    assert not home.exists()
