"""Every block of the README, in order, as its reader runs it.

In a fresh clone with a fresh virtual environment. Only what a test cannot have differs: servers' addresses; `make demo`,
which has the fewest orders that it takes (tests/system/test_demo.py has it on given servers); and `make test`, which would
run this test, and that again: it is asked for (`make -n`).
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

from consumers.mock import MockCluster
from processor.demo.demo import ORDERS_MIN
from processor.demo.kills import KILLS_MIN
from tests.docs.readme import Block, Shell, blocks, clean_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository as its reader has it: `onceflow` beside the reader's own folder."""
    place = tmp_path / "onceflow"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, place], check=True, capture_output=True)
    return place


@pytest.fixture
def shell(tmp_path: Path) -> Generator[Shell]:
    """A terminal in the reader's own folder."""
    for name in ("mine", "state"):
        (tmp_path / name).mkdir()
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"}
    shell = Shell(tmp_path / "mine", clean_environment() | quiet | {"PROCESSOR_HTTP_PORT": "0"}, tmp_path / "state")
    yield shell
    shell.kill()


@pytest.mark.fresh_environment
@pytest.mark.timeout(900)
def test_every_block_of_the_readme_runs(
    clone: Path, shell: Shell, empty_database: str, mock_cluster: MockCluster
) -> None:
    mock_cluster.create_topic("users.signed-up", 2)
    todo = blocks((clone / "README.md").read_text(encoding="utf-8"))
    section = ""

    for block in todo:
        if block.section != section:
            shell.end()
            section = block.section
        if block.file is not None:
            shell.write(block)
        elif block.language != "sh":
            is_an_excerpt_of_an_example(block, clone)
        elif section == "Two commands":
            two_commands(block, clone)
        elif block.option == "background":
            shell.start(block.text.strip())
            if "processor run" in block.text:
                sign_up(mock_cluster.bootstrap_servers, "ada@example.org", "nonsense")
                wait_for(empty_database, "SELECT count(*) FROM member", 1)
                wait_for(empty_database, "SELECT count(*) FROM dbos.dead_letter", 1)
        else:
            printed = shell.run(commands(block, shell, empty_database, mock_cluster))
            if "send.py" in block.text:
                dsn = shell.until(r'psql "([^"]+)"')[1]
                wait_for(dsn, "SELECT count(*) FROM member", 2)
                shell.until(r"dead lettered.*nonsense")
            if "dead-letters list" in block.text:
                assert re.search(r"users\.signed-up-\d", printed)
                assert re.search(r"users\.signed-up-\d-0 .*failed", printed), printed
    shell.end()
    assert {"A handler for a topic of your own", "Try it", "Run it"} <= {block.section for block in todo}


def commands(block: Block, shell: Shell, dsn: str, cluster: MockCluster) -> str:
    """What is run for a block: with this Python, and addresses that there are."""
    text = re.sub(r"^python3 -m venv", f"{sys.executable} -m venv", block.text, flags=re.MULTILINE)
    text = re.sub(r"^(export POSTGRES_DSN)=.*", lambda match: f"{match[1]}='{dsn}'", text, flags=re.MULTILINE)
    text = re.sub(r"^(export KAFKA)=.*", rf"\1={cluster.bootstrap_servers}", text, flags=re.MULTILINE)
    if "127.0.0.1:PORT" in text:
        text = text.replace("127.0.0.1:PORT", shell.until(r"Kafka +(\S+)")[1])
    return text


def two_commands(block: Block, clone: Path) -> None:
    """`make demo`, on few orders; `make test` only asked for."""
    assert block.text.split() == ["make", "demo", "make", "test"]
    for target, what in (("demo", "processor demo"), ("test", "pytest")):
        assert what in make("-n", target, folder=clone)
    result = json.loads(make("demo", f"ARGS=--orders {ORDERS_MIN}", folder=clone).splitlines()[-1])
    assert result["produced"] == ORDERS_MIN == result["effects"] + result["dead_letters"]
    assert (result["missing"], result["duplicates"], result["out_of_order"]) == (0, 0, 0)
    assert result["kills"] >= KILLS_MIN


def make(*arguments: str, folder: Path) -> str:
    ended = subprocess.run(
        ["make", *arguments], cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def is_an_excerpt_of_an_example(block: Block, clone: Path) -> None:
    """Code without a file of its own stands as it is in a program that tests run."""
    assert block.language == "python"
    assert any(block.text in path.read_text() for path in (clone / "examples").glob("*.py")), block.text


def sign_up(bootstrap_servers: str, *emails: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for number, email in enumerate(emails):
        producer.produce(
            "users.signed-up", json.dumps({"user_id": f"u-{number}", "email": email}), key="k", partition=number % 2
        )
    assert producer.flush(30) == 0


def wait_for(dsn: str, query: str, count: int) -> None:
    """Ask until the answer is there."""
    deadline = time.monotonic() + 60
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(query.encode()).fetchone()
            if row is not None and row[0] >= count:
                assert row[0] == count
                return
            connection.execute("SELECT pg_sleep(0.05)")
    raise AssertionError(f"{query}: never {count}")


def test_a_comment_in_a_block_is_no_heading() -> None:
    page = "# Title\n\n```sh background\n# comment\nrun\n```\n\n## Next\n\n```python\n# a/b.py\n1\n```\n"

    first, second = blocks(page)

    assert (first.section, first.language, first.option, first.text) == (
        "Title",
        "sh",
        "background",
        "# comment\nrun\n",
    )
    assert (second.section, second.file) == ("Next", "a/b.py")
