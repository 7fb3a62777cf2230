"""Acts on members of queues, and methods and versions in them (P29, decisions 0013, 0018)."""

import asyncio

import pytest

from processor import App, ConfigurationError, Queue, WorkflowStatus
from processor.testing import Bench
from tests.integration.protocol import FAST, until

one_at_a_time = Queue("one", concurrency=1)


class Line:
    """A queue of one; a workflow that waits at a gate, and one that is a method."""

    def __init__(self, version: str = "1", continues: tuple[str, ...] = ()) -> None:
        self.app = app = App("line")
        app.register_queue(one_at_a_time)
        self.calls: list[str] = []
        self.at_gate: list[str] = []
        self.gate = asyncio.Event()

        @app.step()
        async def note(what: str) -> str:
            self.calls.append(what)
            return what

        @app.step()
        async def wait(what: str) -> None:
            self.at_gate.append(what)  # the step before it is durable
            await self.gate.wait()
            self.calls.append(f"{what} went")

        @app.workflow(version=version, continues=continues)
        async def work(what: str) -> str:
            await note(what)
            await wait(what)
            return what

        class Gate:
            def __init__(self, place: str) -> None:
                self.place = place

            @app.workflow(version="1")
            async def open(self, n: int) -> str:
                return await note(f"{self.place} {n}")

        self.work = work
        self.gates = {name: app.instance(name, Gate(f"gate {name}")) for name in ("eu", "us")}


async def test_a_resumed_member_waits_for_its_turn_again(database: str) -> None:
    """Its place went with its end: the limit holds for what comes back, and for its fork, as for anything else."""
    line = Line()
    async with Bench(line.app, database, settings=FAST) as bench:
        first = await line.work.enqueue("a", queue=one_at_a_time, id="a")
        await until(lambda: line.at_gate)
        second = await line.work.enqueue("b", queue=one_at_a_time, id="b")
        await first.cancel()
        await until(lambda: "b" in line.at_gate)
        await first.resume()
        fork = await first.fork(from_step=2, id="f")
        states = {info.id: info.status for info in await bench.app.list_workflows()}
        assert states == {"a": WorkflowStatus.ENQUEUED, "b": WorkflowStatus.PENDING, "f": WorkflowStatus.ENQUEUED}
        line.gate.set()

        assert [await each.result() for each in (first, second, fork)] == ["a", "b", "a"]
        assert line.calls.count("a") == 1


async def test_methods_wait_for_their_turn_and_run_on_their_object(database: str) -> None:
    """Each on its own; debounced they cannot be, and say so."""
    line = Line()
    async with Bench(line.app, database, settings=FAST):
        handles = [await gate.open.enqueue(n, queue=one_at_a_time) for n in range(2) for gate in line.gates.values()]
        results = [await handle.result() for handle in handles]
        assert results == ["gate eu 0", "gate us 0", "gate eu 1", "gate us 1"]
        assert line.calls == results
        assert {(await handle.status()).instance for handle in handles} == {"eu", "us"}
        with pytest.raises(ConfigurationError, match="a method is not debounced"):
            line.gates["eu"].open.debounce("key", wait=FAST.scan)


async def test_code_that_goes_on_with_a_version_takes_it_from_the_queue_too(database: str) -> None:
    """A place that a dead process's workflow has is taken over with it, and is of the new version from then on."""
    old, new = Line("1"), Line("2", ("1",))
    new.gate.set()
    async with Bench(old.app, database, executor="old", settings=FAST) as bench:
        await old.work.enqueue("a", queue=one_at_a_time, id="a")
        await old.work.enqueue("b", queue=one_at_a_time, id="b")
        await until(lambda: old.at_gate == ["a"])
        bench.cut()
        await bench.engine.abort()
        async with Bench(new.app, database, executor="new", settings=FAST) as other:
            assert [await new.work.retrieve(id).result() for id in ("a", "b")] == ["a", "b"]
            assert new.calls == ["a went", "b", "b went"]
            versions = {info.id: info.version for info in await other.app.list_workflows()}
            assert versions == {"a": "2", "b": "2"}
