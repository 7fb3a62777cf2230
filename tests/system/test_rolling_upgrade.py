"""A version of the code is replaced by the next, process by process, under load (docs/guides/upgrade.md; I1, I2, I5, I7, P29)."""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path

import pytest

from processor.demo.workers import Worker
from tests.fixtures.kafka import Kafka
from tests.system.field import Field
from tests.system.releases import Release, release_after, release_before

UPGRADED = "tests.system.upgraded:app"

ONE_GROUP = {"PROCESSOR_POSTGRES_POOL_MAX": "3"}
"""One group of transactions at a time in a process: while that is held at its effects, all others stand before theirs."""

BEGUN_MIN = 20
"""Workflows between their first step and their end, at which a process is killed: more than one group has taken in."""


@pytest.mark.kafka
async def test_the_next_version_takes_over_under_load_beside_the_one_before(
    kafka: Kafka, empty_database: str, tmp_path: Path
) -> None:
    """Tables are migrated beside N, N + 1 joins it, one process of N leaves and the last is killed with work in
    flight, which goes on in changed code; then what N could not have lived with is migrated, which N refuses to start on, and N + 1 is killed and started anew.
    """
    old, new = release_before(tmp_path / "old"), release_after(tmp_path / "new")
    old.migrate(empty_database, "all")
    kinds = "transactional+fused"
    async with Field(kafka.bootstrap_servers, empty_database, kinds, is_migrated=True, settings=ONE_GROUP) as field:
        upgrade = Upgrade(field, old, new)
        before = [upgrade.start(name, of=old) for name in ("old-1", "old-2")]
        await upgrade.under_load(upgrade.until_effects(200, screened=False))

        await upgrade.migrated("pre")
        after = [upgrade.start("new-1")]
        await upgrade.under_load(upgrade.until_effects(100, screened=True))
        await upgrade.under_load(upgrade.until_effects(100, screened=False))
        remaining = await upgrade.at_work(before)
        leaving = next(worker for worker in before if worker is not remaining)
        leaving.process.send_signal(signal.SIGTERM)
        await upgrade.under_load(leaving.ended())
        await upgrade.under_load(upgrade.until_effects(50, screened=False))
        await upgrade.killed_at_work([remaining])  # the last of N: whoever takes over what it has open is of N + 1
        after.append(upgrade.start("new-2"))
        await upgrade.under_load(upgrade.until_effects(100, screened=True))

        await upgrade.migrated("post")
        late = upgrade.start("late", of=old)
        assert await late.ended() != 0
        assert "it has migrations that this release does not know" in field.logs()
        killed = await upgrade.killed_at_work(after)
        upgrade.start(killed.name)
        await field.finish()

        assert (await upgrade.versions()).keys() == {"patched", "continued"}


class Upgrade:
    """Workers of both versions on one field."""

    def __init__(self, field: Field, old: Release, new: Release) -> None:
        self._field = field
        self._new = new
        self._old = old

    def start(self, name: str, *, of: Release | None = None) -> Worker:
        """A worker of a version, the next one if not said otherwise."""
        release = of or self._new
        app = None if release is self._old else UPGRADED
        return self._field.worker(name, app=app, PYTHONPATH=release.path)

    async def under_load(self, happens: Coroutine[None, None, object]) -> None:
        """Produce until something has happened."""
        await self._field.feed_until(asyncio.ensure_future(happens))

    async def migrated(self, phase: str) -> None:
        """`processor migrate --phase` of the next version, and the handlers' own, beside all that runs."""
        await self.under_load(asyncio.to_thread(self._new.migrate, self._field.books.dsn, phase))
        if phase == "pre":
            await self._field.books.query(f"ALTER TABLE {self._field.books.table} ADD COLUMN screened boolean")

    async def until_effects(self, more: int, *, screened: bool) -> None:
        """Wait for so many further effects of the next version (`screened`), or of the one before."""
        effects = (
            f"SELECT count(*) FROM {self._field.books.table} AS e WHERE (to_json(e) ->> 'screened' IS NOT NULL) = %s"
        )
        wanted = (await self._field.books.query(effects, screened))[0][0] + more
        while (await self._field.books.query(effects, screened))[0][0] < wanted:
            await asyncio.sleep(0.1)

    async def killed_at_work(self, workers: Sequence[Worker]) -> Worker:
        """Kill one of some processes, with workflows between their first step and their end. Returns which."""
        async with self._field.held_at_effects():
            worker = await self.at_work(workers, BEGUN_MIN)
            await worker.kill()
        return worker

    async def at_work(self, workers: Sequence[Worker], begun_min: int = 1) -> Worker:
        """Produce until one of some processes has so many workflows between their first step and their end. Returns which."""
        found = asyncio.ensure_future(self._begun(workers, begun_min))
        await self._field.feed_until(found)
        return found.result()

    async def _begun(self, workers: Sequence[Worker], begun_min: int) -> Worker:
        begun = """
            SELECT x.name
              FROM dbos.executor AS x
              JOIN dbos.workflow_status AS w USING (executor_id)
              JOIN dbos.operation_outputs AS o USING (workflow_uuid)
             WHERE x.name = ANY (%s)
               AND w.status = 'PENDING'
               AND w.owner_xid IS NOT NULL
               AND o.function_name = 'pay'
             GROUP BY x.name
            HAVING count(*) >= %s
             LIMIT 1
        """
        while not (found := await self._field.books.query(begun, [worker.name for worker in workers], begun_min)):
            await asyncio.sleep(0.02)
        return next(worker for worker in workers if worker.name == found[0][0])

    async def versions(self) -> dict[str, int]:
        """How many workflows have a patch's step, and how many without one were ended by a process of the next version."""
        found = await self._field.books.query(
            f"""
            SELECT CASE WHEN o.function_name IS NOT NULL THEN 'patched'
                        WHEN e.screened IS FALSE THEN 'continued' END, count(*)
              FROM {self._field.books.table} AS e
              JOIN dbos.workflow_status AS w
                ON CASE WHEN w.status = 'SUCCESS' -- what was given up may be no JSON
                        THEN (w.inputs::json #>> '{{args,0,sequence}}')::bigint END = e.sequence
              LEFT JOIN dbos.operation_outputs AS o
                ON o.workflow_uuid = w.workflow_uuid AND o.function_name = 'DBOS.patch-screen-first'
             WHERE w.name = 'fulfil'
             GROUP BY 1
            """
        )
        return {each: count for each, count in found if each}
