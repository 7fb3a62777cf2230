"""Whose a queued workflow is: of whoever enqueued it, when its turn comes and after a crash (P29)."""

from datetime import timedelta

import pytest

from processor import App, ConfigurationError, Identity, NotAuthorizedError, Queue, acting_as, current_workflow
from processor.testing import Bench

ADA = Identity("ada", ("clerk",))


class Office:
    """A queue, a workflow for clerks, and one that enqueues it."""

    def __init__(self) -> None:
        self.app = app = App("office")
        self.queue = queue = app.register_queue(Queue("papers", concurrency=1))
        self.seen: list[Identity | None] = []

        @app.step()
        async def stamp(paper: str) -> str:
            return paper

        @app.workflow(roles=["clerk"])
        async def file(paper: str) -> str:
            self.seen.append(current_workflow().identity)
            return await stamp(paper)

        @app.workflow()
        async def hand_in(paper: str) -> str:
            try:
                handle = await queue.having(deduplication_id=paper).enqueue(file, paper)
            except NotAuthorizedError as error:
                return str(error)
            return await handle.result()

        self.stamp, self.file, self.hand_in = stamp, file, hand_in


async def test_it_runs_as_who_enqueued_it_also_after_a_crash(database: str) -> None:
    office = Office()
    async with Bench(office.app, database) as bench:
        bench.crash(after=office.stamp)
        with pytest.raises(NotAuthorizedError, match="requires: clerk"):
            await office.queue.enqueue(office.file, "a")
        with acting_as(ADA):
            await office.queue.having(id="q").enqueue(office.file, "a")
        await bench.settle()

        assert bench.crashes == 1
        assert office.seen == [Identity("ada", ("clerk",), "clerk")] * 2
        rows = await bench.fetch_all(
            "SELECT workflow_uuid, status, authenticated_user, assumed_role FROM dbos.workflow_status"
        )
        assert rows == [("q", "SUCCESS", "ada", "clerk")]


async def test_what_a_workflow_enqueues_is_its_own_or_refused_and_remembered(database: str) -> None:
    office = Office()
    async with Bench(office.app, database) as bench:
        with acting_as(ADA):
            mine = await office.hand_in.start("a")
        nobodys = await office.hand_in.start("b")

        assert await mine.result() == "a"
        assert "requires: clerk" in await nobodys.result()
        assert [step.name for step in await nobodys.steps()] == ["file"]
        assert await bench.fetch_all("SELECT authenticated_user FROM dbos.workflow_status WHERE name = 'file'") == [
            ("ada",)
        ]


async def test_what_requires_roles_is_not_debounced(database: str) -> None:
    """Calls of several users become one run, which would be nobody's."""
    office = Office()
    async with Bench(office.app, database):
        with pytest.raises(ConfigurationError, match="is nobody's: start it"):
            office.file.debounce("k", wait=timedelta(seconds=1))
