"""A worker is killed with SIGKILL at every crash point of its handler's path, one after the other (I1, I2, I4, I5, I7).

Each death comes with work in flight: the point stands in the way of a record, and more orders follow. The successor,
under the same name, goes on from what is durable; the last of them finishes 1,000 orders more.
"""

import asyncio
import signal

import pytest

from engine.crashpoints import CrashPoint
from tests.fixtures.kafka import Kafka
from tests.system.field import Field
from tests.system.points import POINTS

PASSES = {
    CrashPoint.STEP_CALLED: 60,
    CrashPoint.CHECKPOINTED: 70,
    CrashPoint.TRANSACTION_OPEN: 50,
    CrashPoint.TRANSACTION_WRITTEN: 5,
    CrashPoint.TRANSACTION_DURABLE: 5,
}
"""Which pass kills: of points that every record meets a later one, so that the path was gone before."""


@pytest.mark.kafka
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", POINTS)
async def test_a_worker_killed_at_every_point_loses_doubles_and_reorders_nothing(
    kafka: Kafka, database: str, kind: str
) -> None:
    async with Field(kafka.bootstrap_servers, database, kind) as field:
        for point in POINTS[kind]:
            worker = field.worker(
                "one", CRASH_AT=f"{point}:{PASSES.get(point, 3)}", PROCESSOR_KAFKA_GROUP_INSTANCE_ID="one"
            )
            ended = asyncio.ensure_future(worker.ended())
            if point is CrashPoint.RELEASED:
                await field.feed_until(asyncio.ensure_future(field.at_work(worker)))
                worker.process.send_signal(signal.SIGTERM)
            await field.feed_until(ended)
            assert ended.result() == -signal.SIGKILL, f"{point}\n{field.logs()}"

        field.worker("one", PROCESSOR_KAFKA_GROUP_INSTANCE_ID="one")
        await field.finish()
