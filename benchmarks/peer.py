"""dbos in a virtual environment of its own, made once and kept in the cache of the user."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "3.4.0"
PLACE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onceflow" / f"dbos-{VERSION}"
INSTALL_S = 300


class PeerMissingError(Exception):
    """The peer cannot be installed here; its rows are left out. The message says why."""


def python() -> Path:
    """The interpreter of the peer's environment, made the first time.

    Raises:
        PeerMissingError: It cannot be made; no half of one is left behind.
    """
    interpreter = PLACE / "bin" / "python"
    if _works(interpreter):
        return interpreter
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True, capture_output=True, timeout=INSTALL_S)
        subprocess.run(
            [interpreter, "-m", "pip", "install", "-q", f"dbos=={VERSION}", "confluent-kafka>=2.15"],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(PLACE, ignore_errors=True)
        said = getattr(error, "stderr", None) or str(error)
        last = str(said).strip().splitlines()[-1:] or ["no reason given"]
        raise PeerMissingError(f"dbos=={VERSION} cannot be installed: {last[0][:300]}") from error
    except BaseException:
        shutil.rmtree(PLACE, ignore_errors=True)
        raise
    return interpreter


def _works(interpreter: Path) -> bool:
    if not interpreter.exists():
        return False
    with tempfile.TemporaryDirectory() as elsewhere:
        tried = subprocess.run(
            [interpreter, "-c", "import dbos, confluent_kafka"], cwd=elsewhere, capture_output=True, check=False
        )
    return tried.returncode == 0
