"""The generated pages of docs/reference are what the code says."""

import json
from pathlib import Path

import pytest
import yaml

from processor.reference import FOLDER, PAGES, settings_schema, stale, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", list(PAGES))
def test_a_page_is_what_the_code_says(name: str) -> None:
    assert name not in stale(ROOT / FOLDER), "run `python -m processor.reference`"


def test_what_was_written_is_not_stale(tmp_path: Path) -> None:
    assert stale(tmp_path) == list(PAGES)

    write(tmp_path)

    assert stale(tmp_path) == []


def test_the_schema_for_editors_knows_every_section_and_lets_variables_stand_for_numbers() -> None:
    schema = json.loads(settings_schema())

    executor = schema["$defs"]["ExecutorSettings"]
    assert set(schema["properties"]) >= {"postgres", "kafka", "partitions", "executor", "http", "logs", "metrics"}
    assert not executor["additionalProperties"]
    assert {"type": "string", "pattern": r"\$\{"} in executor["properties"]["threads"]["anyOf"]
    assert executor["properties"]["lease"]["default"] == "10s"
    assert yaml.safe_load("threads: ${THREADS}") == {"threads": "${THREADS}"}
