"""Directories of the demo and of `processor dev` are gone when their processes are, however those ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from processor import scratch
from processor.scratch import LOCK, Scratch

WAIT_S = 60

OWNER = f"""
import runpy, subprocess, time

# Alone: importing the whole package takes a second.
Scratch = runpy.run_path({scratch.__file__!r})["Scratch"]
scratch = Scratch("t-")
server = subprocess.Popen(["sleep", "1000"], pass_fds=[scratch.lock], start_new_session=True)
scratch.on_death("INT", server.pid)
print(scratch.home, server.pid, scratch._guard.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def owner(own_tmp: Path) -> Generator["Owner"]:
    """A process with a directory and a server in it."""
    owner = Owner()
    yield owner
    for process in (owner.process, owner.guard, owner.server):
        if process.is_running():
            process.kill()
    owner.popen.communicate(timeout=WAIT_S)


class Owner:
    def __init__(self) -> None:
        self.popen = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        home, server, guard = self.popen.stdout.readline().split()
        self.home = Path(home)
        self.process, self.server, self.guard = (
            psutil.Process(pid) for pid in (self.popen.pid, int(server), int(guard))
        )


def test_it_is_removed_with_all_that_is_in_it(own_tmp: Path) -> None:
    made = Scratch("t-")
    (made.home / "data").mkdir()
    made.close()
    made.close()

    assert list(own_tmp.iterdir()) == []


def test_when_its_owner_is_killed_its_servers_end_and_it_is_removed(owner: Owner) -> None:
    owner.process.send_signal(signal.SIGKILL)

    _, alive = psutil.wait_procs([owner.server, owner.guard], timeout=WAIT_S)
    assert alive == []
    assert not owner.home.exists()


def test_what_a_power_cut_left_is_removed_by_the_next_one(owner: Owner) -> None:
    for process in (owner.guard, owner.server, owner.process):
        process.send_signal(signal.SIGKILL)
    for process in (owner.guard, owner.server, owner.process):
        ended(process)
    assert owner.home.exists()

    Scratch("t-").close()

    assert not owner.home.exists()


@pytest.mark.parametrize("survivor", ["process", "guard", "server"])
def test_what_anybody_still_uses_is_left_alone(owner: Owner, survivor: str) -> None:
    dead = [getattr(owner, name) for name in ("guard", "server", "process") if name != survivor]
    if survivor == "guard":
        owner.guard.suspend()  # it would end as it should
    for process in dead:
        process.send_signal(signal.SIGKILL)
    for process in dead:
        ended(process)

    Scratch("t-").close()

    assert owner.home.exists()


def test_directories_without_a_lock_of_this_users_are_left_alone(own_tmp: Path) -> None:
    """Of other programs, and one that is just being made; a link is not followed."""
    (own_tmp / "t-others" / "data").mkdir(parents=True)
    elsewhere = own_tmp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (own_tmp / "t-link").symlink_to(elsewhere)
    (own_tmp / "t-linked-lock").mkdir()
    (own_tmp / "t-linked-lock" / LOCK).symlink_to(elsewhere / LOCK)
    (own_tmp / "t-pipe").mkdir()
    os.mkfifo(own_tmp / "t-pipe" / LOCK)
    before = sorted(own_tmp.iterdir())

    Scratch("t-").close()

    assert sorted(own_tmp.iterdir()) == before
    assert (elsewhere / LOCK).exists()


def ended(process: psutil.Process) -> None:
    """Wait until it holds nothing any more; its parent, if that lives, need not have asked for it."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
