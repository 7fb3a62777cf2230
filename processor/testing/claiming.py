"""How a bench comes to a partition: as a consumer does, which tries again."""

import asyncio
from functools import partial

from engine.engine import Engine
from engine.ids import SourceRef
from engine.sources import Busy, Source, Start
from engine.weather import through_weather


async def claim(engine: Engine, ref: SourceRef, renamed_from: str | None) -> Source:
    """The claim, once it is free and Postgres answers; the partition begins at 0 if it has no progress."""
    sources = engine.sources
    await through_weather(partial(sources.first_start, ref.group, ref.handler, ref.topic, {ref.partition: Start(0)}))
    while True:
        claimed = await through_weather(partial(sources.claim, ref, generation=1, renamed_from=renamed_from))
        if not isinstance(claimed, Busy):
            return claimed
        await asyncio.sleep(claimed.retry_s / 10)
