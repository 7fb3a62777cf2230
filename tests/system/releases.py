"""Two versions of this library beside each other: the code before the newest migration, and the code after this one.

    N        the commit before the one that added the newest migration, as git has it: code that knows nothing of it;
             where git has no such commit (a shallow clone, a copy without history), this code itself
    N + 1    this code, with one `pre` and one `post` migration more than it has

A process of a version is started with its `path` as PYTHONPATH.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import sql

ROOT = Path(__file__).parents[2]
PACKAGES = ("consumers", "engine", "processor", "sql", "tests")

_PRE = """
    -- Beside the code before: a table that it does not know, and a column that it does not fill.
    CREATE TABLE {schema}.remark (workflow_uuid text PRIMARY KEY, text text NOT NULL);
    ALTER TABLE {schema}.workflow_status ADD COLUMN kafka_remark text;
"""
_POST = """
    -- What the code before could not have lived with.
    ALTER TABLE {schema}.workflow_status ADD COLUMN kafka_remarks integer NOT NULL DEFAULT 0;
    ALTER TABLE {schema}.workflow_status DROP COLUMN kafka_remark;
"""


@dataclass(frozen=True, slots=True)
class Release:
    """Code of one version.

    Attributes:
        name: For people.
        path: For PYTHONPATH.
    """

    name: str
    path: str

    def migrate(self, dsn: str, phase: str) -> str:
        """`processor migrate --phase` of this version. Returns what it says; raises `AssertionError` if it fails."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PROCESSOR_")}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "processor", "migrate", "--phase", phase],
            env={**kept, "PYTHONPATH": self.path, "PROCESSOR_POSTGRES_DSN": dsn},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {done.stdout}{done.stderr}"
        return done.stdout


@cache
def commit_before() -> str | None:
    """The commit before the newest migration's; `None` where git does not have it."""
    newest = f"sql/migrations/{sql.migrations()[-1]}.sql"
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", newest).strip().decode()
    return _git("rev-parse", "--verify", "--quiet", f"{added}^").strip().decode() or None if added else None


def described() -> str:
    """What version N is here, for the header of a run."""
    commit = commit_before()
    newest = sql.migrations()[-1]
    return f"commit {commit[:10]}, before {newest}" if commit else f"this code: git has no commit before {newest}"


def release_before(home: Path) -> Release:
    """Version N, unpacked in a directory."""
    if (commit := commit_before()) is None:
        return Release("this code", str(ROOT))
    with tarfile.open(fileobj=BytesIO(_git("archive", commit, *PACKAGES))) as archive:
        archive.extractall(home, filter="data")
    return Release(commit, str(home))


def release_after(home: Path) -> Release:
    """Version N + 1: its `sql` in a directory, the rest as here."""
    migrations = home / "sql" / "migrations"
    shutil.copytree(ROOT / "sql", migrations.parent)
    version = sql.migrations()[-1].version
    (migrations / f"{version + 1:04}_pre_remarks.sql").write_text(_PRE)
    (migrations / f"{version + 2:04}_post_remarks.sql").write_text(_POST)
    return Release("this code and two migrations", os.pathsep.join([str(home), str(ROOT)]))


def _git(*arguments: str) -> bytes:
    """What git prints; nothing where it is not there, or says no."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""
