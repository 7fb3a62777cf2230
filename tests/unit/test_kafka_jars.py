"""Kafka's jars without Maven: from which repository, which, and that another is never taken for one."""

import hashlib
import threading
from collections.abc import Generator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import kafka_jars
from tests.fixtures.kafka_jars import CENTRAL, Jar, answered_by, download, listed, repository


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the one it overrides
        """Say nothing of each request."""


@pytest.fixture
def served(tmp_path: Path) -> Generator[tuple[str, Path]]:
    """A Maven repository, which is a folder behind HTTP: its address, and the folder."""
    folder = tmp_path / "repository"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def put(folder: Path, name: str, content: bytes) -> Jar:
    path = f"org/example/{name}/1/{name}-1.jar"
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(content)
    return Jar(hashlib.sha256(content).hexdigest(), path)


def test_jars_come_over_http_whole_and_under_their_names(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    wanted = [put(folder, f"jar{number}", bytes([number]) * 100_000) for number in range(20)]

    download(wanted, address, tmp_path / "jars")

    assert {file.name: file.read_bytes()[:1] for file in (tmp_path / "jars").iterdir()} == {
        f"jar{number}-1.jar": bytes([number]) for number in range(20)
    }


def test_what_has_another_hash_is_refused_and_what_is_missing_named(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    good = put(folder, "good", b"good")
    changed, missing = Jar("0" * 64, good.path), Jar(good.sha256, "org/example/none/1/none-1.jar")

    with pytest.raises(
        RuntimeError, match=rf"good-1\.jar from {address} has SHA-256 {good.sha256}, and must have 0000"
    ):
        download([changed], address, tmp_path / "changed")
    with pytest.raises(RuntimeError, match=r"none-1\.jar: HTTP Error 404"):
        download([missing], address, tmp_path / "missing")

    assert list((tmp_path / "changed").iterdir()) == []


def test_a_repository_that_does_not_have_it_is_said_before_tests_start(served: tuple[str, Path]) -> None:
    """Then the run uses the mock cluster, and its header says why."""
    address, folder = served
    refused = answered_by(address)
    first = folder / listed()[0].path
    first.parent.mkdir(parents=True)
    first.write_bytes(b"")

    assert (refused.is_there, "HTTP Error 404" in refused.why) == (False, True)
    assert answered_by(address).why == f"to be downloaded from {address}"
    assert not answered_by("http://127.0.0.1:1").is_there


SETTINGS = """\
<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0"><mirrors>
  <mirror><id>b</id><mirrorOf>external:http:*</mirrorOf><url>http://0.0.0.0/</url><blocked>true</blocked></mirror>
  <mirror><id>o</id><mirrorOf>other</mirrorOf><url>https://other.example/</url></mirror>
  <mirror><id>m</id><mirrorOf>{of}</mirrorOf><url>https://mirror.example/maven2/</url></mirror>
</mirrors></settings>
"""


@pytest.mark.parametrize(
    "of, address",
    [
        ("central", "https://mirror.example/maven2"),
        ("*", "https://mirror.example/maven2"),
        ("external:*", "https://mirror.example/maven2"),
        ("other, central", "https://mirror.example/maven2"),
        ("*,!central", CENTRAL),
        ("another", CENTRAL),
    ],
)
def test_the_mirror_of_mavens_own_settings_is_used(tmp_path: Path, of: str, address: str) -> None:
    (tmp_path / "settings.xml").write_text(SETTINGS.format(of=of))
    files = [tmp_path / "none.xml", tmp_path / "settings.xml"]

    assert repository({}, files) == address
    assert repository({"PROCESSOR_TEST_MAVEN": "http://here/"}, files) == "http://here"
    assert repository({}, []) == CENTRAL


def test_the_list_is_what_maven_resolves() -> None:
    """Of those jars that are here, whoever brought them."""
    wanted = {jar.name: jar.sha256 for jar in listed()}

    assert f"kafka_2.13-{kafka_jars.VERSION}.jar" in wanted
    assert len(wanted) == len(listed()) == 46
    if not kafka_jars.JARS.exists():
        pytest.skip(f"needs Kafka's jars in {kafka_jars.JARS}: any test on a real Kafka fetches them")
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in kafka_jars.JARS.iterdir()} == wanted
