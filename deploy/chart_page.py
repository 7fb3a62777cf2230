"""helm/README.md: what stands before the table by hand, and the table of values from the comments of values.yaml.

# ## Heading          begins a table
# -- What it means    belongs to the key below, and goes on in the comment's next lines
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from deploy import CHART

MARK = "<!-- Generated from values.yaml by `python -m deploy`: change the comments there. -->"

_HEADING = re.compile(r"# ## (.+)")
_MEANING = re.compile(r"\s*# -- (.+)")
_COMMENT = re.compile(r"\s*# (.+)")


@dataclass(frozen=True, slots=True)
class Row:
    """A value: where it stands, what it is if nothing is said, what it means."""

    heading: str
    path: tuple[str, ...]
    default: Any
    meaning: str


def rows(text: str) -> Iterator[Row]:
    """Every value of a values.yaml: leaves, and maps that have a meaning of their own, as one."""
    tree: Any = yaml.safe_load(text)
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _rows(root, tree, (), text.splitlines())


def _rows(node: yaml.MappingNode, tree: Any, above: tuple[str, ...], lines: list[str]) -> Iterator[Row]:
    for key, value in node.value:
        path = (*above, key.value)
        line: int = key.start_mark.line
        meaning = _meaning(lines, line)
        is_section = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        if is_section and not meaning:
            yield from _rows(value, tree[key.value], path, lines)
        else:
            yield Row(_heading(lines, line), path, tree[key.value], meaning)


def _meaning(lines: list[str], line: int) -> str:
    """What the comment right above a line says, from its `# --` on."""
    said: list[str] = []
    for above in reversed(lines[:line]):
        if found := _MEANING.fullmatch(above):
            return " ".join([found[1], *reversed(said)])
        if not (found := _COMMENT.fullmatch(above)):
            return ""
        said.append(found[1])
    return ""


def _heading(lines: list[str], line: int) -> str:
    return next(found[1] for above in reversed(lines[:line]) if (found := _HEADING.fullmatch(above)))


def table(text: str) -> str:
    """The values as Markdown, a table for each heading."""
    lines: list[str] = []
    heading = None
    for row in rows(text):
        if row.heading != heading:
            heading = row.heading
            lines += ["", f"### {heading}", "", "| key | default | meaning |", "|---|---|---|"]
        default = json.dumps(row.default, ensure_ascii=False)
        meaning = row.meaning.replace("|", "\\|")
        lines.append(f"| `{'.'.join(row.path)}` | `{default}` | {meaning} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The file: what stands there up to the mark, and the table anew."""
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    by_hand, found, _ = readme.partition(MARK)
    assert found, f"{CHART / 'README.md'} lacks its mark, {MARK!r}"
    return by_hand + MARK + "\n" + table((CHART / "values.yaml").read_text(encoding="utf-8"))
