"""Puts faults into what is pure and decides, one at a time, and counts those that its tests notice.

python -m tests.mutants              as pyproject.toml says to mutmut, all of them anew; exit code 1 below 85 %
python -m tests.mutants PATTERN...   only those, as 'engine.cron.x__edge__*'; what is known of others is kept

A fault after which a test does not end counts as noticed. One that changes nothing anybody could see is excused, by what
it makes of its line, with the reason; an excuse that no fault needs fails a whole run.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter

NOTICED_MIN = 0.85
NOTICED = ("killed", "timeout")
MUTMUT = (sys.executable, "-m", "mutmut")

EXCUSED = {
    ("engine.fences", "if position >= self._position:"): "Postgres writes a position in one way only",
    ("engine.fences", 'high, _, low = lsn.rpartition("/")'): "a position has one slash",
    (
        "engine.cron",
        "elif (tick := _instant(local, zone)) >= instant:",
    ): "croniter's next time is later than what it is asked",
    (
        "engine.cron",
        "ticks.set_current(_edge(local, zone, _exists, forward=None) + _SECOND)",
    ): "None is no more true than False",
}
"""Module and faulty line: why no test can tell it from the right one."""


def main(patterns: list[str]) -> int:
    """Run, count, and show each fault that nobody noticed; the exit code."""
    if not patterns:
        shutil.rmtree("mutants", ignore_errors=True)
    # No fault needs a server, so none is looked for.
    environment = {**os.environ, "PROCESSOR_TEST_KAFKA": "mock"}
    if code := subprocess.run([*MUTMUT, "run", *patterns], env=environment, check=False).returncode:
        return code
    found = verdicts()
    missed = {name: (name.partition(".x")[0], faulty_line(name)) for name, said in found.items() if said not in NOTICED}
    excused = [fault for fault in missed.values() if fault in EXCUSED]
    for name, fault in missed.items():
        if fault not in EXCUSED:
            print(f"{found[name]}: {name}\n    {fault[1]}")
    needless = [] if patterns else [fault for fault in EXCUSED if fault not in excused]
    for module, line in needless:
        print(f"excused, but noticed, or no fault any more: {module}\n    {line}")

    counts = Counter(found.values())
    noticed, counted = sum(counts[each] for each in NOTICED), len(found) - len(excused)
    share = noticed / counted
    print(
        f"\n{noticed} of {counted} faults noticed ({share:.1%}; at least {NOTICED_MIN:.0%} are wanted), "
        f"{counts['timeout']} of them because a test did not end; {len(excused)} more are excused"
    )
    return int(share < NOTICED_MIN or bool(needless))


def verdicts() -> dict[str, str]:
    """What became of each fault that was tried."""
    listed = subprocess.run([*MUTMUT, "results", "--all", "true"], check=True, capture_output=True, text=True).stdout
    said = dict(line.strip().split(": ", 1) for line in listed.splitlines() if ": " in line)
    return {name: verdict for name, verdict in said.items() if verdict != "not checked"}


def faulty_line(name: str) -> str:
    """What a fault makes of the line it is put into."""
    shown = subprocess.run([*MUTMUT, "show", name], check=True, capture_output=True, text=True).stdout
    added = [line[1:].strip() for line in shown.splitlines() if line.startswith("+") and not line.startswith("+++")]
    return " ".join(added)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
