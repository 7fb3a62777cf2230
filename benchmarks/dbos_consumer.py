"""The peer: dbos's own Kafka consumer with a workflow of one step. Runs in an environment of its own, without our code.

python benchmarks/dbos_consumer.py TOPIC GROUP        (KAFKA and POSTGRES: addresses)
"""

import os
import sys
import threading

from dbos import DBOS, KafkaMessage  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

DBOS(
    config={
        "name": "benchmark",
        "system_database_url": os.environ["POSTGRES"],
        "run_admin_server": False,
        "log_level": "ERROR",
    }
)


@DBOS.step()  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator]
async def charge(order: bytes) -> str:  # noqa: ARG001  # as ours takes one
    return "receipt"


@DBOS.kafka_consumer(  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator]
    {"bootstrap.servers": os.environ["KAFKA"], "group.id": sys.argv[2], "auto.offset.reset": "earliest"}, [sys.argv[1]]
)
@DBOS.workflow()  # pyright: ignore[reportUnknownMemberType, reportUntypedFunctionDecorator]
async def fulfil(message: KafkaMessage) -> None:  # pyright: ignore[reportUnknownParameterType]
    await charge(message.value)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


DBOS.launch()  # pyright: ignore[reportUnknownMemberType]
threading.Event().wait()  # until it is killed; what counts is in the database
