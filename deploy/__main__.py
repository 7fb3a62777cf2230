"""Writes the derived files of this folder, or says which are not what they should be, and what linters say."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy import CHART, chart_page, dashboards, lint, values_schema


def derived() -> Mapping[Path, Callable[[], str]]:
    """Every derived file, and what makes it."""
    boards = {CHART / "files" / "dashboards" / f"{name}.json": page for name, page in dashboards.PAGES.items()}
    return {
        CHART / "values.schema.json": values_schema.page,
        CHART / "README.md": chart_page.page,
        **boards,
    }


def stale() -> list[Path]:
    """Files that are missing or not what they should be, and dashboards that nothing makes any more."""
    pages = derived()
    wrong = [path for path, page in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != page()]
    return wrong + [path for path in (CHART / "files" / "dashboards").glob("*") if path not in pages]


def main(arguments: list[str]) -> int:
    """The command."""
    if arguments == ["check"]:
        problems = [f"{path} is not what it should be: run python -m deploy" for path in stale()]
        problems += lint.chart() + lint.dockerfile()
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        return 1 if problems else 0
    for path, page in derived().items():
        path.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
