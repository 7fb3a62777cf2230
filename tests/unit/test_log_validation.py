"""Whether a partition's progress and its log belong together."""

from dataclasses import replace
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from consumers.settings import OnGap, OnRecreated
from consumers.validation import (
    REFUSALS_MAX,
    Attach,
    BeginIncarnation,
    Halt,
    Log,
    Refusal,
    SkipGap,
    Wait,
)
from consumers.validation import judge as judge_at
from engine.incarnations import FORMER_MAX, another
from engine.partitions import Place
from engine.progress import Progress

judge = partial(judge_at, place=Place("shop", "orders-3"))
HERE = Progress(next=30, high=32, topic_id="A")


def test_a_log_that_reaches_from_below_to_beyond_is_attached_at_next() -> None:
    assert judge(HERE, Log("A", 0, 40)) == Attach(30)


def test_a_log_that_ends_where_progress_is_is_attached() -> None:
    """Nothing to do is no truncation."""
    assert judge(HERE, Log("A", 30, 32)) == Attach(30)


def test_another_topic_id_halts_even_if_the_offset_is_there() -> None:
    """Case 19: at offset 30 of a topic created again, records 0 to 29 would never be seen."""
    verdict = judge(HERE, Log("B", 0, 40))

    assert isinstance(verdict, Halt)
    assert "deleted and created again" in verdict.reason
    assert "partitions.on_topic_recreated: new_incarnation" in verdict.reason


def test_what_is_said_of_records_that_ran_depends_on_who_noticed() -> None:
    """Case 19: found at a claim, or under an attached partition, where some of the new topic's records may have run."""
    at_a_claim = judge(HERE, Log("B", 0, 40))
    attached = judge(HERE, Log("B", 0, 40), refusal=Refusal("the topic has another ID now: B", times=1))

    assert isinstance(at_a_claim, Halt)
    assert isinstance(attached, Halt)
    assert "If some process had it when that happened" in at_a_claim.reason
    assert "It was attached when that was noticed" in attached.reason
    assert "nothing was fetched" not in at_a_claim.reason + attached.reason


def test_another_topic_id_begins_a_new_incarnation_by_policy() -> None:
    """Case 19: from the start of the new log, so that none of its records is skipped."""
    verdict = judge(HERE, Log("B", 3, 40), on_recreated=OnRecreated.NEW_INCARNATION)

    assert verdict == BeginIncarnation("B", 3)


def test_an_id_that_the_topic_had_formerly_is_waited_for_whatever_the_policy() -> None:
    """Case 19: IDs never come back; a broker that is cut off from its controller tells the last one it heard of."""
    for here in (replace(HERE, former=("Z", "Y")), replace(HERE, topic_id="", former=("Z", "Y"))):
        for policy in OnRecreated:
            verdict = judge(here, Log("Y", 0, 40), on_recreated=policy)

            assert isinstance(verdict, Wait)
            assert "former ID Y" in verdict.reason
            assert "--new-incarnation --force" in verdict.reason


def test_the_ids_of_former_topics_are_kept_the_last_ones() -> None:
    """Case 19: they never come back, so that a broker that tells one lags; an operator's word that one did counts."""
    held = Progress(next=1, high=1, topic_id="0")
    for n in range(1, FORMER_MAX + 3):
        held = another(held, topic_id=str(n), start=0, token="t", released=True)
    assert held.former == tuple(str(n) for n in range(2, FORMER_MAX + 2))
    assert Progress.decode(held.encode()) == held

    back = another(held, topic_id="3", start=0, token="t", released=True)
    assert (back.topic_id, "3" in back.former, held.topic_id in back.former) == ("3", False, True)


def test_a_topic_id_that_is_not_told_any_more_is_waited_for() -> None:
    """Case 19: no answer is not the same answer."""
    assert isinstance(judge(HERE, Log("", 0, 40)), Wait)


def test_a_broker_without_topic_ids_leaves_the_other_checks() -> None:
    without = Progress(next=30, high=32)

    assert judge(without, Log("", 0, 40)) == Attach(30)
    assert isinstance(judge(without, Log("", 0, 29)), Halt)


def test_a_log_that_ends_below_high_halts_after_a_second_look() -> None:
    """Case 20: records up to 32 were persisted; new ones would come under their offsets."""
    verdict = judge(HERE, Log("A", 0, 31))

    assert isinstance(verdict, Halt)
    assert "truncated" in verdict.reason
    assert not verdict.certain


def test_retention_beyond_progress_halts_and_names_the_gap() -> None:
    """Case 21."""
    verdict = judge(HERE, Log("A", 35, 40))

    assert isinstance(verdict, Halt)
    assert "[30, 35)" in verdict.reason
    assert "partitions.on_retention_loss: skip" in verdict.reason


def test_retention_beyond_progress_skips_to_the_log_by_policy() -> None:
    """Case 21: the gap is recorded by whoever carries the verdict out."""
    assert judge(HERE, Log("A", 35, 40), on_gap=OnGap.SKIP) == SkipGap(35)


def test_a_truncation_that_the_client_noticed_halts_although_the_log_grew_again() -> None:
    """Case 20: offsets fit, leader epochs do not."""
    refusal = Refusal("Partition log truncation detected at offset 30", times=1)

    assert isinstance(judge(HERE, Log("A", 0, 40), refusal=refusal), Halt)


def test_an_offset_that_is_refused_without_a_visible_reason_is_tried_again_a_few_times() -> None:
    log = Log("A", 0, 40)

    assert judge(HERE, log, refusal=Refusal("out of range", REFUSALS_MAX - 1)) == Attach(30)
    assert isinstance(judge(HERE, log, refusal=Refusal("out of range", REFUSALS_MAX)), Halt)


_ids = st.sampled_from(["", "A", "B"])


_offsets = st.integers(0, 50)


def _progress(at: int, ahead: int, topic_id: str) -> Progress:
    return Progress(next=at, high=at + ahead, topic_id=topic_id)


def _log(topic_id: str, start: int, length: int) -> Log:
    return Log(topic_id, start, start + length)


@given(
    progress=st.builds(_progress, _offsets, _offsets, _ids),
    log=st.builds(_log, _ids, _offsets, _offsets),
    on_gap=st.sampled_from(OnGap),
    on_recreated=st.sampled_from(OnRecreated),
)
def test_what_is_attached_is_in_the_log_and_of_the_same_topic(
    progress: Progress, log: Log, on_gap: OnGap, on_recreated: OnRecreated
) -> None:
    """I1: no verdict skips a record that nobody decided about."""
    match judge(progress, log, on_gap=on_gap, on_recreated=on_recreated):
        case Attach(offset):
            assert offset == progress.next
            assert log.start <= offset <= log.end
            assert progress.topic_id in ("", log.topic_id)
        case SkipGap(to):
            assert on_gap is OnGap.SKIP
            assert to == log.start > progress.next
        case BeginIncarnation(new_id, at):
            assert on_recreated is OnRecreated.NEW_INCARNATION
            assert new_id == log.topic_id != progress.topic_id
            assert at == log.start
        case Halt() | Wait():
            pass
