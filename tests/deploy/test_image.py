"""The image, without a container engine: its Dockerfile is linted, and its steps are done here, in folders of a test.

What cannot be seen here is the base image itself. The steps run with a Python of the image's version if the machine has
one, else with this one.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from consumers.mock import MockCluster
from deploy import CHART, lint
from tests.docs.readme import clean_environment

ROOT = CHART.parents[1]
DOCKERFILE = ROOT / "Dockerfile"
UID = 10001


@dataclass(slots=True)
class Stage:
    """What one FROM begins: its steps in order, with what ARG and ENV say filled in."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def all(self, instruction: str) -> list[str]:
        """The arguments of an instruction, in order."""
        return [rest for found, rest in self.steps if found == instruction]

    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.all("ENV"))))

    def arguments(self) -> dict[str, str]:
        """What ARG sets, for its RUN steps."""
        return dict(re.findall(r'(\w+)="([^"]*)"', " ".join(self.all("ARG"))))


def stages() -> list[Stage]:
    """The Dockerfile, read."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        rest = " ".join(rest.split())
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        elif found:
            found[-1].steps.append((instruction, rest))
    return found


def stage(name: str) -> Stage:
    (found,) = [each for each in stages() if each.name == name]
    return found


# -- what it says


@pytest.mark.skipif(lint.hadolint() is None, reason="hadolint's package has no binary for this machine")
def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    assert lint.dockerfile() == []
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN apt-get install foo\n")
    ended = subprocess.run([lint.hadolint() or "", tmp_path / "Dockerfile"], capture_output=True, check=False)
    assert ended.returncode != 0


def test_it_runs_as_a_number_that_is_not_root() -> None:
    """A number: with a name, Kubernetes cannot tell for runAsNonRoot."""
    runtime = stage("runtime")

    assert runtime.all("USER") == [f"{UID}:{UID}"]
    assert stages()[-1].base == "runtime"
    assert stages()[-1].steps == []
    assert runtime.all("ENTRYPOINT") == ['["processor"]']


def test_both_stages_have_the_same_python() -> None:
    """The environment made in one refers to the interpreter of the other."""
    assert stage("build").base == stage("runtime").base


def test_the_version_of_uv_is_the_makefiles() -> None:
    (makefile,) = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    assert [found for run in stage("build").all("RUN") for found in re.findall(r"uv==(\S+)", run)] == [makefile]


def test_the_builder_is_sent_what_it_copies_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {
        word for each in stages() for copy in each.all("COPY") if "--from" not in copy for word in copy.split()[:-1]
    }

    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


# -- what it makes


# In a mount namespace of the command's own: everything read-only, and the Python there although its folder is root's.
CONTAINED = """
set -e
python=$1 closed=$2 spare=$3
shift 3
if [ -n "$closed" ]; then
    mount --bind "$python" "$spare"
    mount -t tmpfs -o mode=755 none "$closed"
    mkdir -p "$python"
    mount --bind "$spare" "$python"
fi
mount -o remount,ro,bind /
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What the image has, in folders: the environment, the Python it refers to, the example's working directory."""

    environment: Path
    python: Path
    app: Path
    spare: Path

    def processor(self, *words: str) -> list[str]:
        """The command of that name."""
        return self.contained("processor", *words)

    def contained(self, program: str, *words: str) -> list[str]:
        """A program of the image as a container of the chart runs it, as far as this machine allows: not root, without capabilities and new
        privileges, and with nothing in the file system that could be written to, not even /tmp.
        """
        command = [str(self.environment / "bin" / program), *words]
        if not can_contain():
            return command
        nobody = [
            "setpriv",
            f"--reuid={UID}",
            f"--regid={UID}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        closed = next((str(each) for each in reversed(self.python.parents) if not each.stat().st_mode & 0o001), "")
        there = [str(self.python), closed, str(self.spare)]
        return ["unshare", "--mount", "sh", "-c", CONTAINED, "sh", *there, *nobody, *command]


def can_contain() -> bool:
    """Whether this process may give another one a file system of its own, and less rights."""
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    tried = ["unshare", "--mount", "sh", "-c", "mount -o remount,ro,bind /"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def image() -> Generator[Image]:
    """Every RUN and COPY of the stage `build`, in a folder of its own and a clean environment; then what `example` copies."""
    # Not pytest's own folder: the files of an image can be read by everybody, and every run of pytest makes that root's alone.
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        Path(directory).chmod(0o755)
        yield built(Path(directory))


def built(place: Path) -> Image:
    """What the fixture `image` says, in a folder."""
    source, environment, app, spare = place / "src", place / "opt", place / "app", place / "spare"
    source.mkdir()
    spare.mkdir()
    build = stage("build")
    variables = (
        clean_environment() | build.environment() | build.arguments() | {"UV_PROJECT_ENVIRONMENT": str(environment)}
    )
    variables["UV_PYTHON"] = str(python_of_the_image())
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    for instruction, rest in build.steps:
        if instruction == "COPY":
            *sources, target = rest.split()
            for each in sources:
                copy(ROOT / each, source / target if target != "./" else source / each)
        elif instruction == "RUN" and not rest.startswith("pip install"):  # uv is here already, in this version
            run(rest.replace(" --no-cache ", " "), cwd=source, environment=variables)
    for rest in stage("example").all("COPY"):
        name, target = rest.split()
        copy(ROOT / name, app / target)
    prefix = run(
        [str(environment / "bin" / "python"), "-c", "import sys; print(sys.base_prefix)"], cwd=app, environment={}
    )
    return Image(environment, Path(prefix.strip()), app, spare)


def python_of_the_image() -> Path:
    """A Python of the Dockerfile's version, or this one."""
    (version,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    known = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    return next(iter(sorted(known)), None) or Path(shutil.which(f"python{version}-no-shim") or sys.executable)


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def run(command: str | list[str], *, cwd: Path, environment: Mapping[str, str]) -> str:
    ended = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=cwd,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}"
    return ended.stdout


@pytest.fixture
def variables(empty_database: str, mock_cluster: MockCluster) -> dict[str, str]:
    """As docker-compose.yml sets them, for a worker; no home to write to."""
    (port,) = re.findall(r"EXPOSE (\d+)", DOCKERFILE.read_text(encoding="utf-8"))
    assert port == "9464"
    return {
        **stage("runtime").environment(),
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PROCESSOR_CONFIG": "examples/deployed/processor.yaml",
        "POSTGRES_DSN": empty_database,
        "KAFKA": mock_cluster.bootstrap_servers,
    }


@pytest.mark.fresh_environment
@pytest.mark.timeout(600)
@pytest.mark.skipif(not can_contain(), reason="needs root, and mount namespaces")
def test_what_stands_for_a_container_may_write_nothing_and_is_nobody(image: Image) -> None:
    """What the test below relies on."""
    program = "import os; print(os.getuid(), os.getgid(), os.getgroups()); open('/tmp/nobody-writes-here', 'w')"

    ended = subprocess.run(image.contained("python", "-c", program), capture_output=True, text=True, check=False)

    assert ended.stdout == f"{UID} {UID} []\n"
    assert "Read-only file system" in ended.stderr


OPTIONS = {
    "PROCESSOR_WEB_ENABLED": "true",
    "PROCESSOR_WEB_TOKENS": '{"boss": "0123456789abcdef0123456789abcdef"}',
    "PROCESSOR_TRACING_ENABLED": "true",
    "PROCESSOR_PAYLOADS_KEY": "2026",
    "PROCESSOR_PAYLOADS_KEYS": '{"2026": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}',
}
"""Whatever the chart's values may turn on is in the image."""


@pytest.mark.fresh_environment
@pytest.mark.timeout(600)
def test_the_image_migrates_runs_and_stops_as_a_container_of_the_chart_does(
    image: Image, variables: dict[str, str], mock_cluster: MockCluster, tmp_path: Path
) -> None:
    mock_cluster.create_topic("orders.placed", 4)
    log = tmp_path / "worker.log"
    variables["PATH"] = f"{image.environment / 'bin'}:{os.environ['PATH']}"

    assert "nothing to apply" not in run(image.processor("migrate"), cwd=image.app, environment=variables)
    assert "orders.placed" in run(
        image.processor("check", "examples.fulfil:app"), cwd=image.app, environment=variables | OPTIONS
    )
    with worker(image, variables | {"PROCESSOR_HTTP_PORT": "0"}, log):
        sent = [
            str(image.environment / "bin" / "python"),
            "-m",
            "examples.deployed.produce",
            "--count",
            "50",
            "--rate",
            "1000",
        ]
        produced = run([*sent, "--kafka", mock_cluster.bootstrap_servers], cwd=image.app, environment=variables)
        assert "50 orders delivered, 0 not" in produced
        with psycopg.connect(variables["POSTGRES_DSN"], autocommit=True) as connection:
            until(lambda: counted(connection) == 50, log)
        (port,) = re.findall(r'"status server listens".*"port": (\d+)', log.read_text())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            assert answer.status == 200


@contextmanager
def worker(image: Image, variables: Mapping[str, str], log: Path) -> Generator[None]:
    """`processor run`, until the block ends; then it must stop in order."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.processor("run", "examples.fulfil:app"),
            cwd=image.app,
            env=dict(variables),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(met: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def counted(connection: psycopg.Connection[tuple[int]]) -> int:
    """Orders that became a sale, or a dead letter."""
    (done,) = connection.execute(
        "SELECT (SELECT count(*) FROM sale) + (SELECT count(*) FROM dbos.dead_letter)"
    ).fetchall()[0]
    return done
