"""Reads a page's code blocks and does with them what its reader is told to do.

```python        whose first line is `# path/of/file.py`: written there; without: must stand so in examples/
```sql ```yaml   likewise, `-- path` and `# path`
```sh            run, in one shell's worth of directory and environment
```sh background started; ended as by Ctrl-C where the next heading begins
"""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 300
"""Longest a block may take: an installation on a busy machine; everything else is seconds."""
READY = "partition attached"

_FENCE = re.compile(r"^(#{1,6}) ([^\n]+)$|^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|--) (\S+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: the heading it stands under, its language and option, its text."""

    section: str
    language: str
    option: str
    text: str

    @property
    def file(self) -> str | None:
        """Where its reader writes it."""
        match = _FILE.match(self.text)
        return match[1] if match and self.language != "sh" else None


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, in order. A `#` line inside of a block is no heading."""
    found: list[Block] = []
    section = ""
    for match in _FENCE.finditer(page):
        _, heading, language, option, text = match.groups()
        if heading is not None:
            section = heading
        else:
            found.append(Block(section, language, option or "", text))
    return found


class Shell:
    """Directory and environment that outlive each block, as in a terminal."""

    def __init__(self, folder: Path, environment: Mapping[str, str], state: Path) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.background: subprocess.Popen[bytes] | None = None
        self.log = state / "background.log"
        self._state = state
        self._count = 0

    def write(self, block: Block) -> None:
        """Write a file block. The path's comment stays: it is part of what the reader copies."""
        assert block.file is not None
        path = self.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")

    def run(self, text: str) -> str:
        """Run commands; returns what they printed. Raises `AssertionError` with it if one failed."""
        variables, place = self._state / "variables", self._state / "place"
        script = (
            f"set -euo pipefail\n{text}\nexport -p > {shlex.quote(str(variables))}\npwd > {shlex.quote(str(place))}\n"
        )
        if variables.exists():
            script = f". {shlex.quote(str(variables))}\ncd {shlex.quote(str(self.folder))}\n{script}"
        ended = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert ended.returncode == 0, f"{text}\n{ended.stdout}"
        self.folder = Path(place.read_text().strip())
        return ended.stdout

    def start(self, text: str) -> None:
        """Start a command that goes on, and wait until it processes records."""
        assert self.background is None, "one at a time"
        variables = shlex.quote(str(self._state / "variables"))
        with self.log.open("wb") as log:
            self.background = subprocess.Popen(
                ["bash", "-c", f". {variables}\ncd {shlex.quote(str(self.folder))}\nexec {text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.until(READY)

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line in the background command's output."""
        assert self.background is not None
        deadline = time.monotonic() + WAIT_S / 3
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.log.read_text(errors="replace")):
                return match
            assert self.background.poll() is None, self.log.read_text(errors="replace")
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} never came:\n{self.log.read_text(errors='replace')}")

    def end(self) -> None:
        """End what goes on, as Ctrl-C does; it must end in order."""
        background, self.background = self.background, None
        if background is not None:
            background.send_signal(signal.SIGINT)
            code = background.wait(WAIT_S / 3)
            assert code == 0, self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End what goes on, whatever it takes."""
        if self.background is not None and self.background.poll() is None:
            self.background.kill()
            self.background.wait()


def clean_environment() -> dict[str, str]:
    """This process's environment without what is ours, or about its Python."""
    ours = ("PROCESSOR_", "PYTEST_", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "COVERAGE_", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
