"""`processor new NAME`: a starter project with an app, its table, settings and tests that pass."""

import argparse
import json
import keyword
import re
import shlex
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

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
NAME_MAX = 63
"""Characters: it is also a database's name in Postgres, and a folder's."""

# A package of such a name would hide one that it needs.
_TAKEN = frozenset(
    {"onceflow", "processor", "engine", "consumers", "sql", "tests", "psycopg", "pydantic", "pytest", "test"}
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("name", metavar="NAME", help="of the project: lower-case letters, digits, '-' or '_'")
    parser.epilog = "Writes a folder NAME here, which must not exist or be empty."


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    name: str = arguments.name
    package = name.replace("-", "_")
    if keyword.iskeyword(package):
        raise ConfigurationError(
            f"{name!r} is no name for a project: it is a keyword of Python's, and no package's name"
        )
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name for a project: lower-case letters, digits, '-' or '_'")
    if len(name) > NAME_MAX:
        raise ConfigurationError(
            f"{name[:20]}… is no name for a project: it has {len(name)} characters, {NAME_MAX} at most"
        )
    if package in sys.stdlib_module_names:
        raise ConfigurationError(
            f"{name!r}: a package of this name would hide Python's own, or be hidden; choose another"
        )
    if package in _TAKEN:
        raise ConfigurationError(f"{name!r}: a package of this name would hide one that it needs; choose another")
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists already, and is not empty")
    write(folder, name=name, package=package)
    python = _python()
    print(
        f"{folder} is written. Next:\n"
        f"  cd {folder}\n"
        f"with pip, in the virtual environment that has onceflow:\n"
        f"  {python} -m pip install {shlex.join(_dev_requirements(folder))}\n"
        f"  {python} -m pytest\n"
        f"  {python} -m processor dev {package}.app:app\n"
        f"or with uv, which makes an environment of the project's own:\n"
        f"  uv sync\n"
        f"  uv run pytest\n"
        f"  uv run processor dev {package}.app:app"
    )
    return DONE


def write(folder: Path, *, name: str, package: str) -> None:
    """Write every file of the starter, with its names filled in."""
    starter = files("processor.cli") / "starter"
    filled = {"name": name, "package": package, "sources": _sources()}
    for source, place in _PLACES.items():
        text = (starter / source).read_text(encoding="utf-8")
        path = folder / place.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"{{(\w+)}}", lambda match: filled[match[1]], text), encoding="utf-8")
    (folder / package / "__init__.py").write_text(f'"""{name}: see app.py."""\n', encoding="utf-8")


def _dev_requirements(folder: Path) -> list[str]:
    """What tests need beside onceflow, by name: `pip install --group` is for pip 25.1 and later only."""
    requirements: list[str] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))[
        "dependency-groups"
    ]["dev"]
    return requirements


def _python() -> str:
    """How a shell calls the Python that has onceflow: `python`, unless that is another one."""
    found = shutil.which("python")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "python"
    return shlex.quote(sys.executable)


def _sources() -> str:
    """Where uv finds an onceflow that came from no package index: where this one was installed from (PEP 610)."""
    try:
        stored = distribution("onceflow").read_text("direct_url.json")
    except PackageNotFoundError:  # run from a source tree that is on the path
        stored = None
    if stored is None:
        return ""
    return (
        "\n# Where this onceflow was installed from. Take it away where a package index has it.\n"
        f"[tool.uv.sources]\nonceflow = {{ {_uv_source(json.loads(stored))} }}\n"
    )


def _uv_source(origin: dict[str, Any]) -> str:
    url: str = origin["url"]
    if "vcs_info" in origin:
        return f"git = {json.dumps(url)}, rev = {json.dumps(origin['vcs_info']['commit_id'])}"
    if url.startswith("file:"):
        return f"path = {json.dumps(url2pathname(urlsplit(url).path))}"
    return f"url = {json.dumps(url)}"
