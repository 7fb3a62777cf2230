"""Which client is used, and how: bugs of older ones lose records, and so does its use from more than one place."""

import ast
import re
import tomllib
from pathlib import Path

import confluent_kafka

ROOT = Path(__file__).parents[2]
NEEDED = (2, 15)
"""Above every release with a known loss: 2.4 and 2.10 (case 23), 2.6.1 (22), 2.13.2 (10), 2.15 (37)."""


def test_the_declared_client_is_newer_than_its_known_losses() -> None:
    """Cases 10, 22, 23, 37."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (declared,) = [each for each in project["dependencies"] if each.startswith("confluent-kafka")]
    floor = re.fullmatch(r"confluent-kafka>=(\d+)\.(\d+)(?:\.\d+)?", declared)

    assert floor is not None
    assert (int(floor[1]), int(floor[2])) >= NEEDED


def test_the_library_under_the_client_is_as_new() -> None:
    """Cases 10, 22, 23, 37: a wheel built against an old librdkafka would bring them back."""
    library, _ = confluent_kafka.libversion()

    assert tuple(int(part) for part in library.split(".")[:2]) >= NEEDED


def test_records_of_a_group_are_fetched_in_one_module_by_the_plain_client() -> None:
    """Cases 8 and 9: no asyncio client, whose cancelled reads lose records; a group's are taken in the poll thread only.

    `reading.py` looks at a log from beside every group, for proofs, and handles nothing.
    """
    fetching: set[str] = set()
    imported: set[str] = set()
    for path in (ROOT / "consumers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "consume":
                fetching.add(path.name)

    assert fetching == {"poller.py", "reading.py"}
    assert not [name for name in imported if "AIO" in name or "confluent_kafka.experimental" in name]
