"""What brokers know about topics, groups and logs, asked without blocking the loop.

One `AdminClient` for the life of a group, because its futures die with it. Every request has a timeout; an answer that
does not come is a `KafkaException`, and the caller tries again. Where no answer came for long the client is replaced:
it may have lost sight of its brokers for good (consumers/contact.py).

Topic IDs tell a topic from its successor of the same name. Brokers without them (librdkafka's mock cluster, which names
no controller to ask; brokers that answer with zeros) give '' and leave leader epochs as the only check.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import (  # public by its documentation
    ClusterMetadata,  # pyright: ignore[reportPrivateImportUsage]
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from consumers.client import Withheld, new_admin
from consumers.errors import TIMED_OUT, UNREACHED, Meaning, meaning_of
from consumers.handover import Place
from consumers.settings import GroupSettings
from consumers.validation import Log
from engine.errors import ConfigurationError

_T = TypeVar("_T")

CONNECT_TRY_S = 2.0
"""One try to read the cluster's metadata at start; between two the client's errors are looked at."""

REPLACE_AFTER_S = 30.0
"""Without any answer for so long, another client asks."""

ERRORS_MAX = 50
"""Errors of the client that are kept to explain a failed start."""

NO_TOPIC_ID = str(Uuid(0, 0))


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as brokers describe it. `topic_id` is '' where they have none."""

    topic_id: str
    partitions: tuple[int, ...]
    sent_at: float
    """When brokers were asked."""


class Cluster:
    """A Kafka cluster, as far as a consumer group needs to ask about it."""

    replace_after_s = REPLACE_AFTER_S

    def __init__(self, settings: GroupSettings) -> None:
        self._settings = settings
        self._timeout_s = settings.request_max.total_seconds()
        self._errors: list[KafkaError] = []
        # Any: the client's stubs leave its futures without a type.
        self._admin: Any = None
        self._can_describe = False
        self._has_described = False
        """Whether brokers ever told a topic's ID: then one that cannot be had now is not one that there is none of."""
        self._silent_since: float | None = None
        self._topics: dict[str, TopicState] = {}
        self._describing: dict[str, asyncio.Lock] = {}

    async def open(self, topics: Iterable[str]) -> None:
        """Make sure that brokers answer, let us in, and have these topics.

        Raises:
            ConfigurationError: Within `startup_max`: which of these is not so, and what to do.
        """
        lines = Withheld()
        self._admin = await asyncio.to_thread(new_admin, self._settings, on_error=self._on_error, lines=lines)
        existing = await self._reach()
        lines.release()
        missing = sorted(set(topics) - existing)
        if missing:
            raise ConfigurationError(
                f"topics {missing} do not exist on {self._settings.bootstrap_servers}, "
                f"or this user may not describe them.\n"
                f"  Create them (they are never created by consuming), correct the name, or allow DESCRIBE and READ."
            )

    async def topic(self, topic: str) -> TopicState:
        """A topic's ID and partitions, as they are now: asked after this call began.

        One request answers all who asked before it was sent, such as the partitions of one assignment. No older answer
        will do: a topic can be deleted and created again between two assignments of its partitions.
        """
        asked_at = time.monotonic()
        async with self._describing.setdefault(topic, asyncio.Lock()):
            known = self._topics.get(topic)
            if known is None or known.sent_at < asked_at:
                known = self._topics[topic] = await self._describe(topic)
            return known

    async def log(self, topic: str, partition: int) -> Log:
        """Where a partition's log starts and ends (its high watermark: a transaction still open is in the log)."""
        place = (topic, partition)
        state = await self.topic(topic)
        starts, ends = await asyncio.gather(self.starts([place]), self.ends([place]))
        return Log(state.topic_id, starts[place], ends[place])

    async def starts(self, places: Sequence[Place]) -> dict[Place, int]:
        """First offsets."""
        return await self._offsets(dict.fromkeys(places, OffsetSpec.earliest()))

    async def ends(
        self, places: Sequence[Place], *, committed_only: bool = False, partial: bool = False
    ) -> dict[Place, int]:
        """Next offsets.

        Args:
            places: Of these.
            committed_only: What a reader of committed records can reach now (last stable offset).
            partial: Leave out those that cannot be had, such as of a topic that was deleted, instead of failing.
        """
        isolation = IsolationLevel.READ_COMMITTED if committed_only else IsolationLevel.READ_UNCOMMITTED
        return await self._offsets(dict.fromkeys(places, OffsetSpec.latest()), isolation, partial=partial)

    async def at_time(self, places: Sequence[Place], timestamp_ms: int) -> dict[Place, int]:
        """First offsets not older than a time; the end where there is none."""
        found = await self._offsets(dict.fromkeys(places, OffsetSpec.for_timestamp(timestamp_ms)))
        beyond = [place for place, offset in found.items() if offset < 0]
        return found | (await self.ends(beyond, committed_only=True) if beyond else {})

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's offsets in Kafka, for a migration; partitions without one are missing."""
        state = await self.topic(topic)
        wanted = [TopicPartition(topic, partition) for partition in state.partitions]
        request = ConsumerGroupTopicPartitions(group, wanted)
        futures = self._admin.list_consumer_group_offsets([request], request_timeout=self._timeout_s)
        answer = await self._answer(cast("Future[ConsumerGroupTopicPartitions]", futures[group]))
        found: Sequence[TopicPartition] = answer.topic_partitions or []
        return {each.partition: each.offset for each in found if each.error is None and each.offset >= 0}

    async def compacts(self, topic: str) -> bool | None:
        """Whether a topic's log is compacted; `None`: brokers do not say, or not to this user (DESCRIBE_CONFIGS)."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            (future,) = self._admin.describe_configs([resource], request_timeout=self._timeout_s).values()
            configuration = await self._answer(cast("Future[Any]", future))
        except KafkaException:
            return None
        policy = configuration.get("cleanup.policy")
        return None if policy is None else "compact" in str(policy.value)

    async def newest(self, topic: str) -> int | None:
        """The latest time that any record of a topic has, epoch ms; `None`: brokers do not say, or there is none."""
        state = await self.topic(topic)
        request = {TopicPartition(topic, number): OffsetSpec.max_timestamp() for number in state.partitions}
        try:
            futures = self._admin.list_offsets(request, request_timeout=self._timeout_s)
            answers = await asyncio.gather(*(self._answer(cast("Future[Any]", each)) for each in futures.values()))
        except KafkaException:
            return None
        times = [int(answer.timestamp) for answer in answers if answer.offset >= 0 and answer.timestamp > 0]
        return max(times, default=None)

    def close(self) -> None:
        """Let the client go, which may take a moment."""
        self._admin = None

    def serve(self) -> None:
        """Let the client hand over what it has to log. Called now and then; takes microseconds."""
        self._admin.poll(0)

    async def _reach(self) -> set[str]:
        deadline = time.monotonic() + self._settings.startup_max.total_seconds()
        while True:
            try:
                return set((await self._metadata(CONNECT_TRY_S)).topics)
            except KafkaException as error:
                self.serve()
                refused = next((e for e in self._errors if meaning_of(e) is Meaning.DENIED), None)
                if refused is not None:
                    raise ConfigurationError(
                        f"Kafka at {self._settings.bootstrap_servers} does not let us in: {refused.str()}\n"
                        f"  Check kafka.sasl (mechanism {self._settings.security.mechanism}, "
                        f"user {self._settings.security.username}), kafka.ssl, and the broker's listener."
                    ) from error
                if time.monotonic() >= deadline:
                    last = self._errors[-1].str() if self._errors else str(error)
                    raise ConfigurationError(
                        f"Kafka at {self._settings.bootstrap_servers} did not answer within "
                        f"{self._settings.startup_max.total_seconds():.0f} s: {last}\n"
                        f"  Check kafka.bootstrap_servers, the network, and whether the listener wants TLS or SASL "
                        f"(kafka.security_protocol)."
                    ) from error

    async def _metadata(self, timeout_s: float) -> ClusterMetadata:
        """All topics: asking for one by name would create it on a broker that does so."""
        metadata = await self._asked(asyncio.to_thread(self._admin.list_topics, timeout=timeout_s))
        self._can_describe = metadata.controller_id in metadata.brokers
        return metadata

    async def _describe(self, topic: str) -> TopicState:
        sent_at = time.monotonic()
        if not self._can_describe:
            metadata = await self._metadata(self._timeout_s)
            if topic not in metadata.topics:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"topic {topic!r} does not exist"))
            if not self._can_describe:
                if self._has_described:
                    raise KafkaException(KafkaError(TIMED_OUT, "the brokers name no controller at this moment"))
                return TopicState("", tuple(sorted(metadata.topics[topic].partitions)), sent_at)
        futures = self._admin.describe_topics(TopicCollection([topic]), request_timeout=self._timeout_s)
        try:
            described = await self._answer(cast("Future[Any]", futures[topic]))
        except KafkaException as error:
            if error.args[0].code() == TIMED_OUT:
                # The client may know of no controller, since a broker was restarted, and does not ask by itself.
                self._can_describe = False
            raise
        self._has_described = True
        topic_id = str(described.topic_id)
        return TopicState(
            "" if topic_id == NO_TOPIC_ID else topic_id,
            tuple(sorted(partition.id for partition in described.partitions)),
            sent_at,
        )

    async def _offsets(
        self,
        wanted: Mapping[Place, Any],
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
        *,
        partial: bool = False,
    ) -> dict[Place, int]:
        if not wanted:
            return {}
        request = {TopicPartition(*place): spec for place, spec in wanted.items()}
        futures = cast(
            "Mapping[TopicPartition, Future[Any]]",
            self._admin.list_offsets(request, isolation_level=isolation, request_timeout=self._timeout_s),
        )
        answers = await asyncio.gather(*(self._answer(each) for each in futures.values()), return_exceptions=True)
        offsets: dict[Place, int] = {}
        for each, answer in zip(futures, answers, strict=True):
            if not isinstance(answer, BaseException):
                offsets[each.topic, each.partition] = int(answer.offset)
            elif not partial or not isinstance(answer, KafkaException):
                raise answer
        return offsets

    async def _answer(self, future: "Future[_T]") -> _T:
        return await self._asked(self._in_time(future))

    async def _in_time(self, future: "Future[_T]") -> _T:
        # The client's own timeout covers a request that was sent; ours one that waits for metadata as well.
        # `timeout`, not `wait_for`, which swallows a cancellation that meets the answer (Python 3.11).
        try:
            async with asyncio.timeout(self._timeout_s + 1):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise KafkaException(KafkaError(TIMED_OUT, "no answer from the brokers")) from error

    async def _asked(self, answer: Awaitable[_T]) -> _T:
        """Note whether brokers answer at all; after a long silence another client asks the next time."""
        try:
            answered = await answer
        except KafkaException as error:
            if error.args[0].code() in UNREACHED:
                await self._unanswered()
            else:
                self._silent_since = None
            raise
        self._silent_since = None
        return answered

    async def _unanswered(self) -> None:
        now = time.monotonic()
        self._silent_since = since = self._silent_since or now
        if now - since > self.replace_after_s and self._admin is not None:
            self._silent_since = None
            former = [self._admin]
            self._admin = await asyncio.to_thread(new_admin, self._settings, on_error=self._on_error)
            await asyncio.to_thread(former.clear)  # its end waits for its threads

    def _on_error(self, error: KafkaError) -> None:
        self._errors.append(error)
        del self._errors[:-ERRORS_MAX]
