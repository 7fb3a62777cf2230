"""Sealed payloads of messages, events and streams (decision 0012, P31)."""

import asyncio
from datetime import timedelta
from typing import Any

from engine import unreadable
from engine.payloads import PayloadKeys, Payloads
from engine.resealing import reseal
from engine.telemetry import PayloadUnreadable
from processor import (
    App,
    Transaction,
    close_stream,
    get_event,
    read_stream,
    recv,
    send,
    set_event,
    write_stream,
)
from processor.testing import Bench
from tests.integration.protocol import PATIENCE_S
from tests.integration.talking import at_rest
from tests.integration.test_sealed_payloads import CANARY, NEW, OLD, readable, rekey, sealed


class Talk:
    """Workflows that say what nobody may read."""

    def __init__(self) -> None:
        self.app = app = App("talk")

        @app.step()
        async def tells() -> None:
            await set_event("of a step", CANARY)
            await write_stream("lines", f"step {CANARY}")

        @app.transaction()
        async def books(tx: Transaction) -> None:
            await send("listener", f"booked {CANARY}", tx=tx)

        @app.workflow(version="1")
        async def speaker() -> None:
            await send("listener", f"sent {CANARY}")
            await books()
            await set_event("state", CANARY)
            await tells()
            await write_stream("lines", f"flow {CANARY}")
            await close_stream("lines")

        @app.workflow(version="1")
        async def listener(count: int) -> list[Any]:
            return sorted([await recv(model=str) for _ in range(count)])

        @app.workflow(version="1")
        async def asker() -> list[Any]:
            lines = [line async for line in read_stream("speaker", "lines", model=str)]
            return [await get_event("speaker", "state"), await get_event("speaker", "of a step"), *lines]

        self.speaker, self.listener, self.asker = speaker, listener, asker


SAID = [CANARY, CANARY, f"step {CANARY}", f"flow {CANARY}"]


async def test_nothing_that_workflows_tell_each_other_is_readable(database: str) -> None:
    """Sent from workflows, transactions and outside; told by workflows and steps; waiting, received and recorded."""
    talk = Talk()
    async with Bench(talk.app, database, settings=sealed()) as bench:
        handle = await talk.listener.start(4, id="listener")
        await at_rest(bench)
        await talk.app.send("listener", f"outside {CANARY}")
        await (await talk.speaker.start(id="speaker")).result()
        await talk.app.send("listener", f"waits {CANARY}", "nobody asks for")
        asked = await talk.asker.start(id="asker")
        assert await asked.result() == SAID
        await talk.app.send("listener", f"last {CANARY}")

        assert await handle.result() == [f"{word} {CANARY}" for word in ("booked", "last", "outside", "sent")]
        assert await talk.app.get_event("speaker", "state") == CANARY
        assert [line async for line in talk.app.read_stream("speaker", "lines")] == SAID[2:]
        assert await readable(bench) == []


async def test_who_lacks_the_key_of_a_message_waits_for_it(database: str) -> None:
    """Nothing is received, recorded or failed meanwhile; the message is still there when the key is."""
    talk = Talk()
    async with Bench(talk.app, database, settings=sealed(current="old")) as bench:
        await talk.listener.start(1, id="listener")
        await at_rest(bench)
        rekey(bench, new=NEW)
        await bench.restart()
        key = Payloads(PayloadKeys({"old": OLD}, "old"))
        assert key.seal is not None
        # The row's inputs are opened when it wakes: they were never sealed.
        await bench.execute("UPDATE dbos.workflow_status SET inputs = '{\"args\": [1]}'")
        await bench.execute(
            "INSERT INTO dbos.notifications (destination_uuid, topic, message) VALUES ('listener', '__null__topic__', %s)",
            (key.seal(f'"{CANARY}"'),),
        )
        async with asyncio.timeout(PATIENCE_S):
            while not [event for event in bench.events if isinstance(event, PayloadUnreadable)]:
                await asyncio.sleep(0.01)
        assert await bench.fetch_all("SELECT count(*) FROM dbos.operation_outputs") == [(0,)]
        rekey(bench, new=NEW, old=OLD)
        await bench.restart()
        await bench.advance(timedelta(milliseconds=unreadable.AGAIN_MS))

        assert await talk.listener.retrieve("listener").result() == [CANARY]


async def test_what_was_told_is_sealed_anew(database: str) -> None:
    """Messages that wait, events with their history, streams to their end."""
    talk = Talk()
    async with Bench(talk.app, database, settings=sealed(current="old")) as bench:
        await talk.listener.start(2, id="listener")
        await at_rest(bench)
        await (await talk.speaker.start(id="speaker")).result()
        await talk.app.send("listener", CANARY, "kept")
        await bench.settle()
        connect = bench.engine.pool.connection
        async with connect() as connection:
            await reseal(connection, "dbos", Payloads(PayloadKeys({"old": OLD, "new": NEW}, "new")))
        rekey(bench, new=NEW)
        await bench.restart()

        assert [line async for line in talk.app.read_stream("speaker", "lines")] == SAID[2:]
        assert await talk.app.get_event("speaker", "state") == CANARY
        kept = await bench.fetch_all("SELECT message FROM dbos.notifications")
        assert [Payloads(PayloadKeys({"new": NEW})).open(text, "row") for (text,) in kept] == [f'"{CANARY}"']
