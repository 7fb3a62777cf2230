"""Whether a partition's progress and its log belong together. Pure.

Judged after every claim, before the first fetch, because the client notices none of it by itself (a consumer at offset
30 of a topic that was deleted and created again goes on at 30 of the new one, without an error):

    topic ID differs              another topic under the same name: offsets name other records    (case 19)
    topic ID is a former one      a broker that lags: the IDs of deleted topics never come back
    log ends below what we have   truncated: an unclean leader election, a restored broker         (case 20)
    log starts above progress     retention passed it: records are gone                            (case 21)
    the client refuses the offset nothing of the above, and still: leader epochs say it was cut    (case 20)
"""

from dataclasses import dataclass

from consumers.errors import is_truncation
from consumers.settings import OnGap, OnRecreated
from engine.partitions import Place
from engine.progress import Progress

REFUSALS_MAX = 3
"""Times the client may refuse an offset that the log seems to have, before that is no passing trouble."""


@dataclass(frozen=True, slots=True)
class Log:
    """A partition's log as brokers describe it. `topic_id` is '' where they have none; `end` is the next offset."""

    topic_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the client said about the offset it was to fetch from, and how often in a row."""

    error: str
    times: int


@dataclass(frozen=True, slots=True)
class Attach:
    """Fetch from `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class SkipGap:
    """Record [progress, to) as gone, and go on at `to`."""

    to: int


@dataclass(frozen=True, slots=True)
class BeginIncarnation:
    """Begin a new incarnation at `start`, if a second look sees the same topic."""

    topic_id: str
    start: int


@dataclass(frozen=True, slots=True)
class Halt:
    """Somebody has to decide. `certain`: no second look could come out otherwise."""

    reason: str
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Wait:
    """It cannot be told yet; look again."""

    reason: str


Verdict = Attach | SkipGap | BeginIncarnation | Halt | Wait


def judge(
    progress: Progress,
    log: Log,
    *,
    place: Place,
    on_recreated: OnRecreated = OnRecreated.HALT,
    on_gap: OnGap = OnGap.HALT,
    refusal: Refusal | None = None,
) -> Verdict:
    """Compare a partition's progress with its log. `place` is filled into the commands that a reason names."""
    if log.topic_id in progress.former:
        return Wait(
            f"brokers tell the topic's former ID {log.topic_id}, its last one was {progress.topic_id or 'not told'}: one "
            f"that lags, and is waited for. If the cluster was restored to what it was before: "
            f"{_begin_anew(place, 'OFFSET', forced=True)}."
        )
    if progress.topic_id and not log.topic_id:
        return Wait("the brokers do not tell the topic's ID, which they did before: no controller, or older brokers")
    if progress.topic_id and progress.topic_id != log.topic_id:
        if on_recreated is OnRecreated.NEW_INCARNATION:
            return BeginIncarnation(log.topic_id, log.start)
        return Halt(
            f"the topic was deleted and created again: its ID was {progress.topic_id}, now it is {log.topic_id}. "
            f"The same offsets name other records, so none is fetched from here on. {_what_ran(refusal)} "
            f"To begin it from its start ({log.start}) under new workflow IDs: {_begin_anew(place, 'earliest')}, or start "
            f"with the setting partitions.on_topic_recreated: new_incarnation; then {_release(place)}.",
            certain=False,  # a broker that lags may tell an ID that was never seen here
        )
    if log.end < max(progress.next, progress.high):
        return Halt(
            f"the log was truncated: it ends at {log.end}, but records up to {max(progress.next, progress.high)} "
            f"were processed. New records would come under offsets that are taken. "
            f"To give them workflow IDs of their own: {_begin_anew(place, 'OFFSET')}; then {_release(place)}.",
            certain=False,  # a new leader's high watermark may lag for a moment
        )
    if log.start > progress.next:
        if on_gap is OnGap.SKIP:
            return SkipGap(log.start)
        return Halt(
            f"retention passed the progress: offsets [{progress.next}, {log.start}) are gone from the log. "
            f"To go on behind the gap, which is then recorded: start with the setting "
            f"partitions.on_retention_loss: skip, then {_release(place)}."
        )
    if refusal is not None and (is_truncation(refusal.error) or refusal.times >= REFUSALS_MAX):
        return Halt(
            f"Kafka does not give offset {progress.next} although the log is [{log.start}, {log.end}): {refusal.error}. "
            f"The log was probably cut by an unclean leader election and grew again: "
            f"compare the records around that offset, then {_begin_anew(place, 'OFFSET')}, or without --new-incarnation; "
            f"then {_release(place)}."
        )
    return Attach(progress.next)


def _what_ran(refusal: Refusal | None) -> str:
    """What became of the new topic's records until it was known: a client at an offset goes on there (case 19)."""
    if refusal is not None:
        return "It was attached when that was noticed: what came within 5 s before may have run under the former topic's IDs."
    return "If some process had it when that happened, what came within 5 s may have run under the former topic's IDs."


def _begin_anew(place: Place, where: str, *, forced: bool = False) -> str:
    """What an operator does where offsets name other records than before."""
    if forced:
        return f"`processor partitions seek {place.arguments} --to {where} --new-incarnation --force --note WHY --yes`"
    return f"`processor partitions seek {place.arguments} --to {where} --new-incarnation --note WHY --yes`"


def _release(place: Place) -> str:
    return f"`processor partitions release {place.arguments}`"
