"""Methods as workflows: of objects that have names, found again by them (P29, I8)."""

import asyncio
from typing import Any

import pytest

from engine.inspection import list_stranded
from engine.pool import connect
from processor import App, ConfigurationError, Topic, Transaction, WorkflowConflictError
from processor.testing import Bench
from tests.integration.protocol import FAST, Order, until
from tests.integration.shipping import until_announced


class Gates:
    """An app whose workflows are methods; `calls` says on which object which step ran."""

    def __init__(self, *names: str) -> None:  # noqa: C901  # many small methods
        self.app = app = App("gates")
        self.calls: list[str] = []
        calls = self.calls
        self.shut = asyncio.Event()
        self.shut.set()
        shut = self.shut

        class Gate:
            def __init__(self, place: str) -> None:
                self.place = place

            @app.step()
            async def unlock(self, n: int) -> str:
                calls.append(f"unlock {self.place} {n}")
                await shut.wait()
                return f"{self.place} {n}"

            @app.transaction()
            async def note(self, tx: Transaction, n: int, *, twice: bool = False) -> int:
                for _ in range(1 + twice):
                    await tx.execute("INSERT INTO opened VALUES (%s, %s)", (self.place, n))
                return n

            @app.workflow(version="1")
            async def open(self, n: int) -> str:
                unlocked = await self.unlock(n)
                await self.note(n, twice=n > 1)
                return unlocked

            @app.workflow(version="1")
            async def open_both(self, n: int) -> list[str]:
                child = await self.open.start(n)
                return [await child.result(), await self.open(n + 1)]

            @app.step()
            def ring(self) -> str:
                return f"{self.place} rings"

            @app.workflow(version="1")
            def call(self) -> str:
                return self.ring()

            @app.workflow(version="1")
            async def visit(self) -> str:
                return await app.run_step(self.ring)

            @staticmethod
            @app.workflow(version="1")
            async def count(n: int) -> int:
                return n + 1

        self.Gate = Gate
        self.gates = {name: app.instance(name, Gate(f"place of {name}")) for name in names}


async def test_a_method_runs_on_its_object_here_and_after_a_crash(database: str) -> None:
    """I4, I8: the row names class and object; whoever takes it calls the object of that name, from its last step on."""
    gates = Gates("eu", "us")
    async with Bench(gates.app, database) as bench:
        await bench.execute("CREATE TABLE opened (place text, n integer)")
        eu, us = gates.gates["eu"], gates.gates["us"]
        # One by one: a crash under the one repeats what the other has called and not yet stored (P17).
        bench.crash(after=gates.Gate.note)
        first = await eu.open.start(1, id="e")
        await until(lambda: bench.crashes == 1)
        await bench.settle()
        assert await first.result() == "place of eu 1"
        bench.crash(after=gates.Gate.note)
        second = await us.open.start(2, id="u")
        await until(lambda: bench.crashes == 2)
        await bench.settle()
        assert await second.result() == "place of us 2"

        assert gates.calls == ["unlock place of eu 1", "unlock place of us 2"]
        assert await bench.fetch_all("SELECT * FROM opened ORDER BY 1") == [
            ("place of eu", 1),
            ("place of us", 2),
            ("place of us", 2),
        ]
        rows = await bench.fetch_all("SELECT name, class_name, config_name FROM dbos.workflow_status ORDER BY 3")
        assert rows == [("Gate.open", "Gate", "eu"), ("Gate.open", "Gate", "us")]
        info = await first.status()
        assert (info.class_name, info.instance) == ("Gate", "eu")


async def test_a_process_takes_what_it_has_an_object_for(database: str) -> None:
    """P29: the others wait for who has theirs, and are listed with that reason."""
    one, two = Gates("eu", "us"), Gates("us")
    one.shut.clear()
    async with Bench(two.app, database, executor="two", settings=FAST) as other:
        await other.execute("CREATE TABLE opened (place text, n integer)")
        async with Bench(one.app, database, executor="one", settings=FAST) as dying:
            for name, gate in one.gates.items():
                await gate.open.start(1, id=name)
            await until(lambda: len(one.calls) == 2)
            dying.cut()
            await dying.engine.abort()
            await until(lambda: two.calls)
            assert await two.gates["us"].open.retrieve("us").result() == "place of us 1"
            async with await connect(other.settings, "test") as connection:
                stranded = await list_stranded(connection, "dbos")
        assert [(row.workflow_id, row.instance) for row in stranded] == [("eu", "eu")]
        assert stranded[0].reason == "it is of the object 'eu', which no live executor has; they have 'us'"
        assert two.calls == ["unlock place of us 1"]
    three = Gates("eu")
    async with Bench(three.app, database, executor="three", settings=FAST) as bench:
        await until_announced(bench)
        assert await three.gates["eu"].open.retrieve("eu").result() == "place of eu 1"


async def test_methods_call_methods_of_their_object(database: str) -> None:
    """Children, steps and transactions; sync ones, and ones in a thread; static methods are functions."""
    gates = Gates("eu")
    async with Bench(gates.app, database) as bench:
        await bench.execute("CREATE TABLE opened (place text, n integer)")
        eu = gates.gates["eu"]

        assert await eu.open_both(1) == ["place of eu 1", "place of eu 2"]
        assert await asyncio.to_thread(eu.call) == "place of eu rings"
        assert await eu.visit() == "place of eu rings"
        assert await gates.Gate.count(1) == 2
        rows = await bench.fetch_all(
            "SELECT DISTINCT name, class_name, config_name FROM dbos.workflow_status ORDER BY 1"
        )
        assert rows == [
            ("Gate.call", "Gate", "eu"),
            ("Gate.count", "Gate", None),
            ("Gate.open", "Gate", "eu"),
            ("Gate.open_both", "Gate", "eu"),
            ("Gate.visit", "Gate", "eu"),
        ]
        handle = await eu.open.start(3)
        assert await handle.result() == "place of eu 3"
        assert [step.name for step in await handle.steps()] == ["Gate.unlock", "Gate.note"]


async def test_a_fork_is_of_the_same_object_and_an_id_of_one(database: str) -> None:
    """The object is part of what an ID stands for."""
    gates = Gates("eu", "us")
    async with Bench(gates.app, database) as bench:
        await bench.execute("CREATE TABLE opened (place text, n integer)")
        eu, us = gates.gates["eu"], gates.gates["us"]
        handle = await eu.open.start(1, id="w")
        await handle.result()
        fork = await handle.fork(from_step=1)

        assert await fork.result() == "place of eu 1"
        with pytest.raises(WorkflowConflictError, match=r"it is of the object 'eu', this is of 'us'"):
            await us.open.start(1, id="w")
        assert await (await eu.open.start(1, id="w")).result() == "place of eu 1"


async def test_a_subclass_has_the_workflows_of_its_class(database: str) -> None:
    """Found under the class in which they are defined."""
    gates = Gates()

    class Portcullis(gates.Gate): ...

    low = gates.app.instance("low", Portcullis("the castle"))
    async with Bench(gates.app, database) as bench:
        await bench.execute("CREATE TABLE opened (place text, n integer)")
        assert await low.open(1) == "the castle 1"


async def test_what_nobody_could_find_again_is_refused(database: str) -> None:
    """At registration or at the call, by name, with the remedy."""
    gates = Gates("eu")
    app, gate = gates.app, gates.Gate("nowhere")
    with pytest.raises(ConfigurationError, match=r"its Gate has no name, by which it is found after a crash"):
        _ = gate.open
    with pytest.raises(ConfigurationError, match=r"instance 'eu': another Gate has that name"):
        app.instance("eu", gate)
    with pytest.raises(ConfigurationError, match=r"instance 'x': the object is 'eu' already"):
        app.instance("x", gates.gates["eu"])
    with pytest.raises(ConfigurationError, match=r"instance 'x': dict has no method that is a workflow of this app"):
        app.instance("x", dict[str, str]())
    with pytest.raises(ConfigurationError, match=r"instance '': a name of 1 to 255 characters"):
        app.instance("", gate)
    with pytest.raises(ConfigurationError, match=r"a method; nobody says of which object a record or request is"):
        decorate: Any = app.workflow(on=Topic("orders", Order))

        class Handler:  # pyright: ignore[reportUnusedClass]
            @decorate
            async def handle(self, order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=r"a class method. Make it a static one, or a function"):

        class Maker:  # pyright: ignore[reportUnusedClass]
            @app.workflow()
            async def make(cls: Any) -> None: ...  # noqa: N805

    async with Bench(app, database):
        with pytest.raises(ConfigurationError, match=r"instance 'late': the app runs already"):
            app.instance("late", gate)
        unbound: Any = gates.Gate.open
        with pytest.raises(ConfigurationError, match=r"a method, called without its object"):
            await unbound.start(gate, 1)
