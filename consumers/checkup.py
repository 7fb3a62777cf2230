"""Whether brokers let us in, have the topics with our records in them, and agree about the time.

A broker's clock can be asked by nobody. The newest record of a topic says when its producer or broker believed it to be:
one from our future tells that a clock is ahead.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import KafkaException, libversion

from consumers.cluster import Cluster
from consumers.errors import Meaning, meaning_of
from consumers.settings import GroupSettings
from consumers.validation import Halt, Wait, judge
from engine.checkup import Check, fine, judge_clock, problem, problem_of, warning
from engine.errors import EngineError
from engine.partitions import Place
from engine.progress import Progress

AHEAD_S = 1.0


async def examine(
    settings: GroupSettings, topics: Iterable[str], progress: Mapping[tuple[str, int], Progress]
) -> list[Check]:
    """Look at a group's cluster.

    Args:
        settings: Of the group.
        topics: That must be there.
        progress: Of the group, by topic and partition.
    """
    cluster = Cluster(settings)
    try:
        await cluster.open(())
    except EngineError as error:
        return [problem_of("kafka", error)]
    try:
        said = f"{settings.bootstrap_servers} answers; client librdkafka {libversion()[0]}"
        checks = [fine("kafka", said)]
        checks += await _group(cluster, settings.group, sorted(topics))
        for topic in sorted({*topics, *(topic for topic, _ in progress)}):
            of_topic = {partition: each for (name, partition), each in progress.items() if name == topic}
            checks += await _topic(cluster, settings.group, topic, of_topic)
        return checks
    finally:
        cluster.close()


async def _group(cluster: Cluster, group: str, topics: Sequence[str]) -> list[Check]:
    for topic in topics:
        try:
            await cluster.committed(group, topic)
        except KafkaException as error:
            if meaning_of(error.args[0]) is Meaning.DENIED:
                advice = f"allow this user READ on group {group!r} and on its topics"
                return [problem("consumer group", f"{group!r}: {error.args[0].str()}", advice)]
            continue  # said of the topic
        return [fine("consumer group", f"{group!r} may be read")]
    return []


async def _topic(cluster: Cluster, group: str, topic: str, progress: Mapping[int, Progress]) -> list[Check]:
    subject = f"topic {topic}"
    try:
        state = await cluster.topic(topic)
        places = [(topic, partition) for partition in state.partitions]
        starts, ends = await cluster.starts(places), await cluster.ends(places)
    except KafkaException as error:
        if meaning_of(error.args[0]) is Meaning.DENIED:
            advice = "allow this user DESCRIBE and READ on it"
        else:
            advice = "create it (nothing is created by consuming), or correct the name"
        return [problem(subject, error.args[0].str(), advice)]
    checks = [fine(subject, f"{len(places)} partitions, {sum(ends.values()) - sum(starts.values()):,} offsets")]
    for partition, each in sorted(progress.items()):
        place = Place(group, f"{topic}-{partition}")
        if (topic, partition) not in ends:
            advice = f"`processor partitions cancel {place.arguments} --all --note WHY --yes` ends what is open of it"
            checks.append(problem(f"{subject}-{partition}", "has progress, and no such partition is there", advice))
            continue
        log = await cluster.log(topic, partition)
        verdict = judge(each, log, place=place)
        if isinstance(verdict, Halt | Wait):
            advice = "processor partitions list; docs/guides/operating.md says what each reason asks for"
            checks.append(problem(f"{subject}-{partition}", verdict.reason, advice))
    checks += await _clock(cluster, topic)
    return checks


async def _clock(cluster: Cluster, topic: str) -> list[Check]:
    newest_ms = await cluster.newest(topic)
    if newest_ms is None or (ahead_s := newest_ms / 1000 - time.time()) <= AHEAD_S:
        return []
    found = judge_clock(f"topic {topic} clock", ahead_s)
    message = f"its newest record is of a time {found.message}: a producer's or a broker's clock is ahead"
    return [warning(found.subject, message, found.advice)]
