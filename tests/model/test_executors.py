"""Two executors at random: records, moves, crashes, stalls, lost commits, cancels, restores (I1 to I8; P1 to P24).

`PROCESSOR_MODEL_SEED` repeats the choices of a run (what two real executors do in between is theirs);
`PROCESSOR_MODEL_EXAMPLES` and `PROCESSOR_MODEL_STEPS` make it longer.
"""

import asyncio
import os
import random
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fixtures.postgres import Databases
from tests.model.executors import System, pause
from tests.model.handlers import LEASE_S

KEYS = st.sampled_from(["a", "b", "c"])
PARTITIONS = st.integers(0, 1)
SEATS = st.integers(0, 1)
KINDS = st.sampled_from(["ok", "ok", "ok", "poison", "flaky"])
MOMENTS = st.sampled_from([0.0, 0.002, 0.01, 0.03, 0.1])


class Executors(RuleBasedStateMachine):
    """The rules; `System` says what happens and what must hold."""

    databases: Databases
    template: str

    def __init__(self) -> None:
        super().__init__()
        self._database: AbstractContextManager[str] = self.databases.fresh(self.template)
        self._runner = asyncio.Runner()
        self.dsn = self._database.__enter__()
        self.system: System
        self.is_begun = False

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Drive the loop."""
        self._runner.run(coroutine)

    @initialize(is_fused=st.booleans())
    def begin(self, *, is_fused: bool) -> None:
        self.system = System(self.dsn, is_fused=is_fused)
        self.is_begun = True
        self.run(self.system.start())

    @rule(records=st.lists(st.tuples(PARTITIONS, KEYS, KINDS), min_size=1, max_size=12), moment=MOMENTS)
    def produce(self, records: list[tuple[int, str, str]], moment: float) -> None:
        async def produced() -> None:
            for partition, key, kind in records:
                self.system.produce(partition, key, kind)
            await pause(moment)

        self.run(produced())

    @rule(partition=PARTITIONS, moment=MOMENTS)
    def move(self, partition: int, moment: float) -> None:
        async def moved() -> None:
            self.system.move(partition)
            await pause(moment)

        self.run(moved())

    @rule(seat=SEATS)
    def crash(self, seat: int) -> None:
        self.run(self.system.seats[seat].crash())

    @rule(seat=SEATS, moment=st.sampled_from([0.05, LEASE_S * 1.5]))
    def stall(self, seat: int, moment: float) -> None:
        self.system.seats[seat].engine.lease.is_held_back = True
        self.run(pause(moment))

    @rule(seat=SEATS)
    def wake(self, seat: int) -> None:
        self.system.seats[seat].engine.lease.is_held_back = False
        self.run(pause(0.01))

    @rule(seat=SEATS, reply=st.booleans(), where=st.sampled_from([b"fence_partitions", b"fence_row", b""]))
    def lose_a_commit(self, seat: int, *, reply: bool, where: bytes) -> None:
        proxy = self.system.seats[seat].proxy
        proxy.marker = where
        proxy.lose_commits += reply
        proxy.lose_requests += not reply

    @rule(seat=SEATS)
    def cut(self, seat: int) -> None:
        async def cut() -> None:
            self.system.seats[seat].proxy.cut_all()
            await pause(0.02)

        self.run(cut())

    @rule(choice=st.integers(0, 50))
    def cancel(self, choice: int) -> None:
        self.run(self.system.cancel(choice))

    @rule()
    def back_up(self) -> None:
        self.run(self.system.take_snapshot())

    @precondition(lambda self: self.system.has_snapshot)
    @rule()
    def restore(self) -> None:
        self.run(self.system.restore())

    @rule()
    def settle(self) -> None:
        self.run(self.system.settle())

    @invariant()
    def holds(self) -> None:
        if self.is_begun:
            self.run(self.system.check())

    def teardown(self) -> None:
        try:
            if self.is_begun and len(self.system.seats) == 2:
                try:
                    self.run(self.system.settle())
                finally:
                    self.run(self.system.stop())
        finally:
            self._runner.close()
            self._database.__exit__(None, None, None)


@pytest.mark.timeout(1_200)
def test_two_executors_lose_double_and_reorder_nothing(postgres_server: Databases, migrated_template: str) -> None:
    """I1 to I8 under P1 to P24: after every step what must always hold, at rest that everything is done, once."""
    chosen = int(os.environ.get("PROCESSOR_MODEL_SEED") or random.randrange(1 << 32))
    print(f"PROCESSOR_MODEL_SEED={chosen}")
    Executors.databases, Executors.template = postgres_server, migrated_template

    @seed(chosen)
    class Seeded(Executors):
        """The same, with the seed of this run."""

    run_state_machine_as_test(
        Seeded,
        settings=settings(
            max_examples=int(os.environ.get("PROCESSOR_MODEL_EXAMPLES", "15")),
            stateful_step_count=int(os.environ.get("PROCESSOR_MODEL_STEPS", "20")),
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a schedule of two real executors does not shrink
            verbosity=Verbosity.normal,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
