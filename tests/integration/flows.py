"""A flow of two nodes, and what tests of executions do with it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from engine.execution_events import ExecutionEvent, ExecutionEventBus
from engine.execution_queue import FlowCall, enqueue
from engine.execution_rows import Execution, ExecutionStatus
from engine.executions import ExecutionStore
from engine.settings import EngineSettings
from processor import App, SyncTransaction, TerminalError, Transaction, WorkflowFunction, sleep
from tests.integration.protocol import PATIENCE_S


class Summarising:
    """`fetch`, `ask` and a transaction `keep`; each process has its own, in the same code."""

    def __init__(self) -> None:
        self.app = app = App("summarising")
        self.calls: Counter[str] = Counter()
        self.at_work = self.most_at_work = 0
        self.gate = asyncio.Event()
        self.gate.set()

        @app.step()
        async def fetch(place: int) -> int:
            self.calls[f"fetch {place}"] += 1
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
            try:
                await asyncio.sleep(0.001)
                await self.gate.wait()
            finally:
                self.at_work -= 1
            return place

        @app.step()
        async def ask(question: str) -> str:
            self.calls["ask"] += 1
            if question == "nonsense":
                raise TerminalError("no answer")
            return question.upper()

        @app.transaction()
        async def keep(tx: Transaction, answer: str) -> None:
            self.calls["keep"] += 1
            await tx.execute("SELECT %s::text", (answer,))
            await self.gate.wait()

        @app.workflow(version="1")
        async def summarise(execution: Execution) -> str:
            await fetch(1)
            answer = await ask((execution.integration or {}).get("question", "why"))
            await keep(answer)
            return answer

        @app.workflow(version="1")
        async def gather(execution: Execution) -> list[int]:
            del execution
            return list(await asyncio.gather(*(fetch(place) for place in range(6))))

        @app.workflow(version="1")
        async def wait_long(execution: Execution) -> None:
            del execution
            from datetime import timedelta

            await fetch(1)
            await sleep(timedelta(days=1))

        self.summarise = summarise
        self.in_a_thread = self._sync_flow()
        self.fetch, self.ask, self.keep = fetch, ask, keep

    def _sync_flow(self) -> WorkflowFunction[[Execution], int]:
        app = self.app

        @app.step()
        def weigh(stone: int) -> int:
            self.calls[f"weigh {stone}"] += 1
            return stone * 2

        @app.transaction()
        def note(tx: SyncTransaction, weight: int) -> None:
            self.calls["note"] += 1
            tx.execute("SELECT %s::integer", (weight,))

        @app.workflow(version="1")
        def in_a_thread(execution: Execution) -> int:
            del execution
            weight = weigh(1) + weigh(2)
            note(weight)
            return weight

        return in_a_thread

    def call(self, execution: Execution, queue: str | None = None) -> FlowCall:
        registration = self.app.workflows[execution.flow_id]
        assert registration.arguments is not None
        inputs = registration.arguments.encode((execution,), {})
        return FlowCall(registration.name, registration.code_version, inputs, queue)

    async def run(self, store: ExecutionStore, execution: Execution) -> None:
        """Create it, and have it run at once."""
        await store.create(execution)
        assert await enqueue(store, execution.id, self.call(execution))


@asynccontextmanager
async def store_of(database: str) -> AsyncGenerator[ExecutionStore]:
    async with ExecutionStore(EngineSettings(conninfo=database)) as store:
        yield store


async def until_event(store: ExecutionStore, execution_id: str, **wanted: object) -> ExecutionEvent:
    """Wait for an event with this type, or these data."""
    bus = ExecutionEventBus(store)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for event in await bus.history(execution_id):
                if {"type": event.type, **event.data}.items() >= wanted.items():
                    return event
            await asyncio.sleep(0.02)


async def ended(store: ExecutionStore, execution_id: str) -> Execution:
    """Wait for its end."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await store.get(execution_id)
            assert found is not None
            if ExecutionStatus(found.status).is_terminal:
                return found
            await asyncio.sleep(0.02)
