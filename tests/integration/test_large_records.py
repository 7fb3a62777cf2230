"""Records of 10 MiB through a real Kafka: larger than what a fetch of a partition asks for."""

from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from processor import App, Record, Settings, Topic
from tests.fixtures.kafka import Kafka, unique
from tests.integration.test_running import running

SIZE = 10 * 1024 * 1024


class Document(BaseModel):
    text: str


@pytest.mark.kafka
@pytest.mark.parametrize("prefetch", ["16MiB", "1MiB"])
async def test_a_record_of_10_mib_is_processed_and_its_bytes_are_kept(
    kafka: Kafka, database: str, prefetch: str
) -> None:
    """I1, bad input: one that can be decoded, one that cannot, and small ones around them that do not wait for a decision."""
    topic = unique("documents")
    kafka.create_topic(topic, 1, max_message_bytes=str(2 * SIZE))
    documents = Topic(topic, Document)
    app = App(topic)
    lengths: list[int] = []

    @app.step()
    async def measure(document: Document) -> int:
        lengths.append(len(document.text))
        return len(document.text)

    @app.workflow(on=documents)
    async def read(document: Record[Document]) -> int:
        return await measure(document.event)

    garbage = b"\x00\xff" * (SIZE // 2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.max.bytes": 2 * SIZE})
    for key, value in [
        ("small", Document(text="before").model_dump_json().encode()),
        ("large", Document(text="x" * SIZE).model_dump_json().encode()),
        ("garbage", garbage),
        ("small", Document(text="behind").model_dump_json().encode()),
    ]:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0
    del producer  # it would complain about brokers that are gone

    settings = Settings.model_validate(
        {
            "postgres": {"dsn": database},
            "kafka": {"bootstrap_servers": kafka.bootstrap_servers, "prefetch_bytes_max": prefetch},
        }
    )
    async with running(app, settings) as (_, finished):
        await finished.until(lambda: finished.count() == 4)

    assert sorted(lengths) == [6, 6, SIZE]
    assert await rows(database, "SELECT kafka_offset, status, output FROM dbos.workflow_status ORDER BY 1") == [
        (0, "SUCCESS", "6"),
        (1, "SUCCESS", str(SIZE)),
        (2, "ERROR", None),
        (3, "SUCCESS", "6"),
    ]
    assert await rows(database, "SELECT reason, record_value FROM dbos.dead_letter") == [("undecodable", garbage)]


async def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        return await (await connection.execute(query.encode())).fetchall()
