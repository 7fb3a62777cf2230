"""What the guides and the chart's README have a reader write down is right: values, SQL, a Dockerfile."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import conninfo

from deploy import CHART, lint
from engine.migrations import check, check_rights, migrate
from tests.deploy.chart import Values, render
from tests.docs.readme import blocks

ROOT = CHART.parents[1]
PAGES = [CHART / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
GUIDES = ROOT / "docs" / "guides"


def values_of(page: Path) -> list[Values]:
    """Every values.yaml that a page shows."""
    found = blocks(page.read_text(encoding="utf-8"))
    return [yaml.safe_load(block.text) for block in found if block.text.startswith("# values.yaml\n")]


@pytest.mark.parametrize("page", [page for page in PAGES if values_of(page)], ids=lambda page: page.stem)
def test_values_are_ones_that_the_chart_takes(page: Path) -> None:
    for values in values_of(page):
        assert values["app"] == "shop.app:app"
        render(values)


def test_guides_with_values_are_looked_at() -> None:
    assert {page.stem for page in PAGES if values_of(page)} == {
        "README",
        "http",
        "install",
        "on-call",
        "scale",
        "sealing",
        "secure",
        "tracing",
    }


@pytest.mark.skipif(lint.hadolint() is None, reason="hadolint's package has no binary for this machine")
def test_a_users_dockerfile_has_nothing_to_find(tmp_path: Path) -> None:
    (block,) = [
        each for each in blocks((GUIDES / "install.md").read_text(encoding="utf-8")) if each.language == "dockerfile"
    ]
    file = tmp_path / "Dockerfile"
    file.write_text(block.text)

    ended = subprocess.run([lint.hadolint() or "", file], capture_output=True, text=True, check=False)

    assert ended.stdout == ""


async def test_two_roles_are_enough_and_the_second_cannot_migrate(empty_database: str) -> None:
    """Run as it stands, but for names: roles are the server's, which other tests use too."""
    (block,) = [each for each in blocks((GUIDES / "secure.md").read_text(encoding="utf-8")) if each.language == "sql"]
    database = conninfo.conninfo_to_dict(empty_database)["dbname"]
    owner, worker = f"owner_{database}", f"app_{database}"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for statement in filter(None, map(str.strip, block.text.split(";"))):
            connection.execute(statement.replace("shop_owner", owner).replace("shop_app", worker).encode())
        try:
            await migrate(conninfo.make_conninfo(empty_database, user=owner, password="change me"))
            as_worker = conninfo.make_conninfo(empty_database, user=worker, password="change me too")
            async with await psycopg.AsyncConnection.connect(as_worker) as session:
                await check(session)
                await check_rights(session)
                await session.execute(
                    "INSERT INTO dbos.audit (created_at, actor, action, subject) VALUES (1, 'a', 'b', 'c')"
                )
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await session.execute("CREATE TABLE dbos.other (id int)")
        finally:
            for role in (worker, owner):
                connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
                connection.execute(f"DROP ROLE {role}".encode())


def test_every_guide_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [page.name for page in GUIDES.glob("*.md") if f"](docs/guides/{page.name})" not in readme] == []


def test_links_of_the_chart_lead_somewhere() -> None:
    text = (CHART / "README.md").read_text(encoding="utf-8")

    assert [link for link in re.findall(r"\]\(([^)#]+)", text) if not (CHART / link).exists()] == []
