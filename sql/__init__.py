"""The schema, as files: migrations in the order in which they are applied. Pure; no database client.

    sql/migrations/0003_pre_fences.sql      version 3, phase `pre`, name `pre_fences`

`pre` migrations leave the previous release working: they run before the new code does. `post` migrations need the
new code everywhere: they run after it. Versions count from 1 without gaps, and are never changed once released.
"""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal

__all__ = ["IDENTIFIER_BYTES_MAX", "Migration", "Phase", "fill", "migrations", "parse", "quote"]

Phase = Literal["pre", "post"]

IDENTIFIER_BYTES_MAX = 63
"""Postgres cuts longer names off silently, so that two schemas could become one."""

_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>(?P<phase>pre|post)_[a-z0-9_]+)\.sql")
_SCHEMA = "{schema}"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of sql/migrations.

    Attributes:
        version: Its number, from 1.
        phase: Whether it runs before or after the code of its release.
        name: File name without number and suffix, phase included: what the database records.
        text: Its SQL, with `{schema}` where the quoted name of the schema goes.
        checksum: SHA-256 of the text, hexadecimal.
    """

    version: int
    phase: Phase
    name: str
    text: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


def parse(file_name: str, text: str) -> Migration:
    """Read one migration from its file's name and content.

    Raises:
        ValueError: The name is not `NNNN_(pre|post)_what.sql`.
    """
    match = _FILE_NAME.fullmatch(file_name)
    if not match:
        raise ValueError(f"migration {file_name!r}: its name is not NNNN_(pre|post)_what.sql")
    return Migration(
        version=int(match["version"]),
        phase="pre" if match["phase"] == "pre" else "post",
        name=match["name"],
        text=text,
        checksum=sha256(text.encode()).hexdigest(),
    )


@cache
def migrations() -> tuple[Migration, ...]:
    """Every migration of this release, in order.

    Raises:
        ValueError: A file has another name, or the versions are not 1, 2, 3, …: a broken installation.
    """
    found = sorted(
        (
            parse(entry.name, entry.read_text(encoding="utf-8"))
            for entry in (files("sql") / "migrations").iterdir()
            if entry.name.endswith(".sql")
        ),
        key=lambda migration: migration.version,
    )
    versions = [migration.version for migration in found]
    if not found or versions != list(range(1, len(found) + 1)):
        raise ValueError(f"sql/migrations: versions are {versions}, must be 1, 2, 3, … without gaps")
    return tuple(found)


def quote(identifier: str) -> str:
    """An identifier as SQL writes it, whatever it contains.

    Raises:
        ValueError: Postgres cannot have such a name: empty, longer than 63 bytes, or with a NUL.
    """
    if not identifier or "\0" in identifier or len(identifier.encode()) > IDENTIFIER_BYTES_MAX:
        raise ValueError(f"{identifier!r}: a name in Postgres has 1 to {IDENTIFIER_BYTES_MAX} bytes and no NUL")
    return '"' + identifier.replace('"', '""') + '"'


def fill(text: str, schema: str) -> str:
    """The text with the schema's quoted name for every `{schema}`; all other braces are SQL's own ('{}' is an array)."""
    return text.replace(_SCHEMA, quote(schema))
