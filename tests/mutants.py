"""Puts faults into what is pure and decides, one at a time, and counts those that its tests notice.

python -m tests.mutants    run what pyproject.toml says of mutmut; exit code 1 below 85 %, with the faults nobody noticed

A fault after which a test does not end counts as noticed.
"""

import json
import subprocess
import sys
from pathlib import Path

NOTICED_MIN = 0.85
MUTMUT = (sys.executable, "-m", "mutmut")
STATS = Path("mutants/mutmut-cicd-stats.json")


def main() -> int:
    """Run and count; the exit code."""
    if subprocess.run([*MUTMUT, "run"], check=False).returncode:
        return 1
    subprocess.run([*MUTMUT, "export-cicd-stats"], check=True, stdout=subprocess.DEVNULL)
    stats = json.loads(STATS.read_text())
    noticed = stats["killed"] + stats["timeout"]
    share = noticed / stats["total"]
    print(f"\n{noticed}/{stats['total']} faults noticed ({share:.1%}); at least {NOTICED_MIN:.0%} are wanted")
    if share >= NOTICED_MIN:
        return 0
    subprocess.run([*MUTMUT, "results"], check=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
