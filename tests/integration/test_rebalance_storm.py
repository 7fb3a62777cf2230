"""Members come, go, crash and are thrown out while records flow: everything is recorded once, keys stay in order."""

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from functools import partial

import pytest
from confluent_kafka import KafkaError

from consumers.mock import Api, MockCluster
from consumers.settings import GroupProtocol, Subscription
from tests.conformance.members import produce
from tests.fixtures.kafka import unique
from tests.integration.members import Member, settled, until

DISOWNING = {
    GroupProtocol.CLASSIC: [
        (api, code)
        for api in (Api.HEARTBEAT, Api.OFFSET_COMMIT)
        for code in (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)
    ],
    GroupProtocol.CONSUMER: [
        (Api.CONSUMER_GROUP_HEARTBEAT, KafkaError.UNKNOWN_MEMBER_ID),
        (Api.CONSUMER_GROUP_HEARTBEAT, KafkaError.FENCED_MEMBER_EPOCH),
        (Api.OFFSET_COMMIT, KafkaError.STALE_MEMBER_EPOCH),
    ],
}
"""Answers by which a coordinator says that a member is none, or not any more, or not yet."""

KEYS, PARTITIONS, ROUNDS, PER_ROUND = 24, 6, 14, 12
MEMBERS_MAX = 3


class Witness:
    """Sees every run of every member: all live in this process."""

    def __init__(self) -> None:
        self.running: defaultdict[str, dict[object, tuple[int, str]]] = defaultdict(dict)
        self.begun: defaultdict[str, list[int]] = defaultdict(list)
        self.overlaps: list[tuple[int, str]] = []
        self.crashed: set[int] = set()

    async def run(self, member: int, text: str) -> None:
        """A record's handler, in the member of that number."""
        key, _, number = text.partition(":")
        running, this = self.running[key], object()
        self.overlaps += [(holder, f"{text} began in {member} while {other} ran") for holder, other in running.values()]
        running[this] = member, text
        self.begun[key].append(int(number))
        try:
            await asyncio.sleep(random.random() * 0.004)
        finally:
            del running[this]

    def unforgiven(self) -> list[str]:
        """Runs of a key at once, but for those beside a member that crashed: it holds nothing any more, and may still run."""
        return [overlap for holder, overlap in self.overlaps if holder not in self.crashed]


class Storm:
    """What happens to the members of one group."""

    def __init__(
        self, database: str, cluster: MockCluster, topic: str, protocol: GroupProtocol, choose: random.Random
    ) -> None:
        self.living: list[Member] = []
        self.witness = Witness()
        self._numbers: dict[Member, int] = {}
        self._group = unique("group")
        self._database, self._cluster, self._topic = database, cluster, topic
        self._protocol, self._choose = protocol, choose

    async def act(self) -> None:
        """One thing that may happen now."""
        acts = [self.lose_claims, self.disown, self.outage]
        if len(self.living) < MEMBERS_MAX:
            acts += [self.join, self.join]
        if len(self.living) > 1:
            acts += [self.leave, self.crash]
        await self._choose.choice(acts)()

    async def join(self) -> None:
        number = len(self._numbers)
        member = Member(
            self._database,
            self._cluster.bootstrap_servers,
            self._group,
            Subscription(topic=self._topic, handler="fulfil"),
            protocol=self._protocol,
            body=partial(self.witness.run, number),
        )
        self._numbers[member] = number
        self.living.append(await member.start())

    async def leave(self) -> None:
        await self._one().stop()

    async def crash(self) -> None:
        member = self._one()
        self.witness.crashed.add(self._numbers[member])
        await member.crash()

    async def lose_claims(self) -> None:
        for source in self._choose.choice(self.living).engine.sources.attached():
            source.drop("the storm")

    async def disown(self) -> None:
        self._cluster.push_errors(*self._choose.choice(DISOWNING[self._protocol]))

    async def outage(self) -> None:
        self._cluster.broker_down()
        await asyncio.sleep(0.3)
        self._cluster.broker_up()

    def _one(self) -> Member:
        return self.living.pop(self._choose.randrange(len(self.living)))


@pytest.fixture
async def storm(
    mock_cluster: MockCluster, database: str, protocol: GroupProtocol, choose: random.Random
) -> AsyncGenerator[tuple[Storm, str]]:
    """A storm over a topic, whose survivors are stopped at the end."""
    topic = unique("storm")
    mock_cluster.create_topic(topic, PARTITIONS)
    storm = Storm(database, mock_cluster, topic, protocol, choose)
    yield storm, topic
    await asyncio.gather(*(member.stop() for member in storm.living), return_exceptions=True)


@pytest.fixture(params=GroupProtocol, ids=lambda protocol: protocol.value)
def protocol(request: pytest.FixtureRequest) -> GroupProtocol:
    return request.param


@pytest.fixture
def choose() -> random.Random:
    """`STORM_SEED` repeats a run, as far as threads and brokers let it."""
    seed = int(os.environ.get("STORM_SEED") or random.SystemRandom().randrange(10**6))
    print(f"STORM_SEED={seed}")
    return random.Random(seed)


@pytest.mark.timeout(300)
async def test_a_storm_of_rebalances_records_everything_once_and_in_order(
    mock_cluster: MockCluster, database: str, storm: tuple[Storm, str], choose: random.Random
) -> None:
    """I1, I2, I3, I7; cases 2 to 6, 16, 30."""
    group, topic = storm
    next_number = dict.fromkeys(range(KEYS), 0)

    await group.join()
    for _ in range(ROUNDS):
        for _ in range(PER_ROUND):
            key = choose.randrange(KEYS)
            numbers = range(next_number[key], next_number[key] + choose.randrange(1, 8))
            next_number[key] = numbers.stop
            values = [f"{key}:{number}" for number in numbers]
            await asyncio.to_thread(
                produce, mock_cluster.bootstrap_servers, topic, values, partition=key % PARTITIONS, key=str(key)
            )
        await group.act()

    await settled(database, sum(next_number.values()), *group.living)
    await until(lambda: sum(len(member.partitions) for member in group.living) == PARTITIONS, *group.living)
    for key, count in next_number.items():
        first_runs = list(dict.fromkeys(group.witness.begun[str(key)]))
        assert first_runs == list(range(count)), f"key {key} ran out of order"
    assert group.witness.unforgiven() == []
