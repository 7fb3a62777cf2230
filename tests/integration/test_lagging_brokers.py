"""Brokers that tell a former ID, and members that are slow about what they judged: each record runs once (case 19, P30)."""

import asyncio
import time
from collections import Counter

import pytest

from consumers import telemetry
from consumers.cluster import Cluster, TopicState
from consumers.mock import MockCluster
from consumers.settings import OnGap, OnRecreated, Subscription
from engine.ids import SourceRef
from engine.partitions import Place
from engine.seeks import Anew, seek
from engine.source import Source
from engine.sources import Busy
from tests.conformance.members import produce
from tests.integration.members import Member, Members, fetch, ids, settled, texts, until


class Told:
    """The topic's ID as brokers tell it: the mock cluster has none of its own."""

    def __init__(self) -> None:
        self.topic_id = "first"
        self.once: list[str] = []
        """Told before it, one for each question."""
        self.questions = 0

    async def describe(self, cluster: Cluster, topic: str) -> TopicState:
        del cluster, topic
        self.questions += 1
        return TopicState(self.once.pop(0) if self.once else self.topic_id, (0,), time.monotonic())

    async def after_questions(self, count: int, member: Member) -> None:
        asked = self.questions
        await until(lambda: self.questions >= asked + count, member)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()

    async def describe(cluster: Cluster, topic: str) -> TopicState:
        return await told.describe(cluster, topic)

    monkeypatch.setattr(Cluster, "_describe", describe)
    return told


def begun_anew(topic: str) -> Subscription:
    return Subscription(topic=topic, handler="fulfil", on_recreated=OnRecreated.NEW_INCARNATION)


async def made_anew(mock_cluster: MockCluster, topic: str, database: str, members: Members, told: Told) -> Member:
    """Five records of the first topic have run; the second one has ten, and nobody has seen it yet."""
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("old", 5))
    first = await members(mock_cluster, begun_anew(topic))
    await settled(database, 5, first)
    await first.stop()
    mock_cluster.delete_topic(topic)
    mock_cluster.create_topic(topic, 1)
    told.topic_id = "second"
    produce(mock_cluster.bootstrap_servers, topic, texts("new", 10))
    return first


async def test_an_old_answer_of_a_broker_that_lags_neither_stops_a_partition_nor_begins_anything(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, told: Told
) -> None:
    """I1, I2: the former ID while it is attached; one never seen, once; the former ID at a claim."""
    again = begun_anew(topic)
    first = await made_anew(mock_cluster, topic, database, members, told)
    second = await members(mock_cluster, again)
    await settled(database, 15, second)

    told.topic_id = "first"
    await told.after_questions(3, second)
    assert second.states == {0: "attached"}
    assert not second.told(telemetry.OffsetRefused)
    told.topic_id, told.once = "second", ["never seen", "never seen"]
    await until(lambda: second.told(telemetry.OffsetRefused), second)
    await until(lambda: second.states == {0: "attached"}, second)
    await second.stop()
    told.topic_id = "first"
    third = await members(mock_cluster, again)
    await until(lambda: third.partitions and "former ID first" in third.partitions[0].reason, third)
    told.topic_id = "second"
    produce(mock_cluster.bootstrap_servers, topic, ["last"])
    await settled(database, 16, third)

    ran = first.ran + second.ran + third.ran
    assert ran == Counter([*texts("old", 5), *texts("new", 10), "last"])
    assert [event.topic_id for event in second.told(telemetry.TopicRecreated)] == ["second"]
    assert not third.told(telemetry.TopicRecreated)


async def test_a_member_that_lost_the_partition_does_not_begin_an_incarnation_that_another_has_begun(
    mock_cluster: MockCluster, topic: str, database: str, members: Members, told: Told
) -> None:
    """I2, I6: one judges "created again", releases, and stalls; another does all of it and stops; the one goes on."""
    again = begun_anew(topic)
    first = await made_anew(mock_cluster, topic, database, members, told)
    stalled, goes_on = asyncio.Event(), asyncio.Event()
    begun: list[bool] = []

    def stall(member: Member) -> None:
        sources, real = member.engine.sources, member.engine.sources.new_incarnation

        async def new_incarnation(*arguments: object, **named: object) -> bool:
            stalled.set()
            await goes_on.wait()
            begun.append(await real(*arguments, **named))  # type: ignore[arg-type]  # handed on as they come
            return begun[-1]

        sources.new_incarnation = new_incarnation  # type: ignore[method-assign]  # a gap between two commits

    slow = await members(mock_cluster, again, prepare=stall)
    await until(stalled.is_set, slow)
    quick = await members(mock_cluster, again, group=slow.group.snapshot().group)
    await slow.group._poller.close(10)  # type: ignore[union-attr]  # Kafka takes the partition from it
    await settled(database, 15, quick)
    await quick.stop()
    goes_on.set()
    await until(lambda: begun, slow)

    assert begun == [False]
    assert first.ran + slow.ran + quick.ran == Counter([*texts("old", 5), *texts("new", 10)])
    assert f"{topic}~2-0-9" in await ids(database)


async def test_a_gap_is_skipped_by_the_claim_behind_the_one_that_found_it_or_judged_anew(
    mock_cluster: MockCluster, topic: str, database: str, members: Members
) -> None:
    """I1: between the two the topic was made anew, and an operator began it: [5, 8) is nothing of the log there is now."""
    skip = Subscription(topic=topic, handler="fulfil", on_gap=OnGap.SKIP)
    mock_cluster.create_topic(topic, 1)
    produce(mock_cluster.bootstrap_servers, topic, texts("old", 5))
    first = await members(mock_cluster, skip)
    await settled(database, 5, first)
    await first.stop()
    produce(mock_cluster.bootstrap_servers, topic, texts("lost", 5))
    mock_cluster.delete_records(topic, 0, before=8)
    claims: list[SourceRef] = []

    def between(member: Member) -> None:
        sources, real = member.engine.sources, member.engine.sources.claim

        async def claim(ref: SourceRef, *, generation: int, renamed_from: str | None = None) -> Source | Busy:
            claims.append(ref)
            if len(claims) == 2:
                mock_cluster.delete_topic(topic)
                mock_cluster.create_topic(topic, 1)
                produce(mock_cluster.bootstrap_servers, topic, texts("new", 10))
                async with member.engine.pool.connection() as connection:
                    place = Place(ref.group, ref.key)
                    await seek(connection, "dbos", place, to=0, note="x", actor="x", anew=Anew("", 0))
            return await real(ref, generation=generation, renamed_from=renamed_from)

        sources.claim = claim  # type: ignore[method-assign]  # a gap between two commits

    second = await members(mock_cluster, skip, prepare=between)
    await settled(database, 15, second)

    assert second.ran == Counter(texts("new", 10))
    assert await fetch(database, "SELECT from_offset, to_offset FROM dbos.gap") == []
