"""A module is small enough to be read in one sitting (style: about 150 lines, never above 500)."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = 500


PACKAGES = ("engine", "consumers", "processor", "sql", "deploy", "benchmarks", "examples", "tests")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_more_than_500_lines(package: str) -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}

    assert lengths
    assert {path: lines for path, lines in lengths.items() if lines > LINES_MAX} == {}
