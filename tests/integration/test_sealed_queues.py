"""Sealed payloads of workflows that wait in queues, and of debounced calls (decision 0012)."""

from datetime import timedelta

from processor import App, Queue
from processor.testing import Bench
from tests.integration.test_sealed_payloads import CANARY, readable, sealed


async def test_inputs_of_what_waits_are_sealed(database: str) -> None:
    """In a queue, under a key, from a workflow or not; who takes them opens them."""
    app = App("mails")
    queue = app.register_queue(Queue("q", concurrency=1))

    @app.workflow()
    async def mail(text: str) -> str:
        return text

    @app.workflow()
    async def both(text: str) -> list[str]:
        queued = await queue.enqueue(mail, f"{text} queued")
        waits = await mail.debounce("k", wait=timedelta(hours=1)).start(f"{text} waits")
        return [await queued.result(), waits.id]

    async with Bench(app, database, settings=sealed()) as bench:
        later = mail.debounce("k", wait=timedelta(hours=1))
        outside = await later.start(f"{CANARY} first")
        queued, id = await (await both.start(CANARY)).result()
        assert await readable(bench) == []
        await bench.advance(timedelta(hours=1))

        assert queued == f"{CANARY} queued"
        assert id == outside.id
        assert await outside.result() == f"{CANARY} waits"
        assert await readable(bench) == []
