"""`processor new NAME`: a starter project with an app, its table, settings and tests that pass."""

import argparse
import keyword
import re
from importlib.resources import files
from pathlib import Path

from engine.errors import ConfigurationError
from processor.cli import DONE

HELP = "Write a starter project"

# Where each file of processor/cli/starter goes.
_PLACES = {
    "app.py.txt": "{package}/app.py",
    "migrate.py.txt": "{package}/migrate.py",
    "schema.sql.txt": "{package}/schema.sql",
    "conftest.py.txt": "tests/conftest.py",
    "test_app.py.txt": "tests/test_app.py",
    "processor.yaml.txt": "processor.yaml",
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "gitignore.txt": ".gitignore",
}
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
# A package of such a name would hide one that it needs.
_TAKEN = frozenset({"processor", "engine", "consumers", "sql", "tests", "psycopg", "pydantic", "pytest", "test"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("name", metavar="NAME", help="of the project: lower-case letters, digits, '-' or '_'")
    parser.epilog = "Writes a folder NAME here, which must not exist or be empty."


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    name: str = arguments.name
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise ConfigurationError(f"{name!r} is no name for a project: lower-case letters, digits, '-' or '_'")
    if package in _TAKEN:
        raise ConfigurationError(f"{name!r}: a package of this name would hide one that it needs; choose another")
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists already, and is not empty")
    write(folder, name=name, package=package)
    print(
        f"{folder} is written. Next:\n"
        f"  cd {folder}\n"
        f"  pip install --group dev   # pip 25.1 or later; or uv sync\n"
        f"  pytest\n"
        f"  processor dev {package}.app:app"
    )
    return DONE


def write(folder: Path, *, name: str, package: str) -> None:
    """Write every file of the starter, with its names filled in."""
    starter = files("processor.cli") / "starter"
    for source, place in _PLACES.items():
        text = (starter / source).read_text(encoding="utf-8")
        path = folder / place.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{{name}}", name).replace("{{package}}", package), encoding="utf-8")
    (folder / package / "__init__.py").write_text(f'"""{name}: see app.py."""\n', encoding="utf-8")
