"""Fixtures of the conformance suites: a topic, a protocol, members as tests drive them, the poll thread itself."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from consumers.settings import GroupProtocol
from tests.conformance.members import Broker, Members
from tests.conformance.poll_thread import PATIENCE_S, Thread, Threads
from tests.fixtures.kafka import unique

MOCK_CANNOT = {
    "test_records_of_an_aborted_transaction_are_not_delivered": "it delivers them: it keeps no transaction index",
    "test_a_static_member_is_fenced_by_its_successor": "it lets two members share a group.instance.id",
    "test_a_re_created_topic_has_another_id": "it does not answer DescribeTopics: it names no controller",
    "test_offsets_for_a_time_are_found": "it answers -1 for every timestamp",
}
"""The whole list of what the mock cluster does not do. Its tests run there too and must fail: a release of librdkafka
that learns one of them shows up here."""


@pytest.fixture(autouse=True)
def known_to_fail_on_the_mock_cluster(request: pytest.FixtureRequest) -> None:
    reason = MOCK_CANNOT.get(request.node.originalname)
    if reason and "mock" in request.node.callspec.id:
        request.applymarker(pytest.mark.xfail(reason=f"mock cluster: {reason}", strict=True))


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic of four partitions."""
    name = unique("conformance")
    broker.create_topic(name, 4)
    return name


@pytest.fixture(params=GroupProtocol, ids=lambda protocol: protocol.value)
def protocol(request: pytest.FixtureRequest) -> GroupProtocol:
    """Both group protocols: cooperative-sticky, and KIP-848."""
    return request.param


@pytest.fixture
def admin(broker: Broker) -> Any:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})


@pytest.fixture
def members(broker: Broker, topic: str) -> Generator[Members]:
    made = Members(broker, topic)
    yield made
    made.close()


@pytest.fixture
async def threads(broker: Broker, topic: str) -> AsyncGenerator[Threads]:
    """Makes members of one group, and closes them at the end."""
    made: list[Thread] = []
    group = unique("group")

    def make(**options: Any) -> Thread:
        made.append(Thread(broker.bootstrap_servers, group, topic, **options))
        return made[-1]

    yield make
    for thread in made:
        assert await thread.poller.close(PATIENCE_S)
