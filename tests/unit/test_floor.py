"""From where the relay looks for rows: never above one that can still come (I9; decision 0008)."""

from random import Random

from engine.floor import LOOK_BELOW_S, Floor
from engine.store.outbox import FormedRow


def formed(last: int | None, *, xid: int, xmin: int, cut: bool = False, below: bool = False) -> FormedRow:
    return FormedRow(0 if last is None else 1, last, cut, xid, xmin, below)


def test_it_rises_when_everything_older_than_the_next_forming_has_ended() -> None:
    floor = Floor()
    floor.formed(formed(500, xid=10, xmin=5), has_refused=False)
    assert floor.at == 0
    floor.formed(formed(600, xid=12, xmin=5), has_refused=False)
    floor.formed(formed(700, xid=13, xmin=11), has_refused=False)
    assert floor.at == 0

    floor.formed(formed(800, xid=14, xmin=12), has_refused=False)

    assert floor.at == 500


def test_a_forming_that_was_cut_raises_it_no_further_than_it_took() -> None:
    floor = Floor()
    floor.formed(formed(500, xid=10, xmin=9), has_refused=False)
    floor.formed(formed(600, xid=12, xmin=9), has_refused=False)

    floor.formed(formed(300, xid=14, xmin=13, cut=True), has_refused=False)

    assert floor.at == 300


def test_refused_topics_keep_it_where_it_is() -> None:
    floor = Floor()
    floor.formed(formed(500, xid=10, xmin=9), has_refused=False)
    floor.formed(formed(600, xid=12, xmin=9), has_refused=False)

    floor.formed(formed(700, xid=14, xmin=13), has_refused=True)

    assert floor.at == 0


def test_a_batch_that_is_formed_anew_takes_it_back_to_where_it_was_before() -> None:
    """What Kafka refused is in no batch again, and is to be found."""
    floor = Floor(100)
    floor.formed(formed(500, xid=10, xmin=9), has_refused=False)
    floor.formed(formed(600, xid=12, xmin=9), has_refused=False)
    floor.formed(formed(700, xid=14, xmin=13), has_refused=False)
    assert floor.at == 500

    floor.dissolved()

    assert floor.at == 100
    floor.formed(formed(800, xid=16, xmin=15), has_refused=True)
    assert floor.at == 100


def test_it_looks_below_at_first_and_once_a_minute() -> None:
    floor = Floor(500)
    assert floor.look_from(0.0) == 0
    assert floor.form_from(0.0) == 0
    assert floor.form_from(1.0) == 500
    assert floor.look_from(LOOK_BELOW_S - 1) == 500

    assert floor.look_from(LOOK_BELOW_S) == 0
    assert floor.look_from(LOOK_BELOW_S + 1) == 0, "until a forming has looked"
    assert floor.form_from(LOOK_BELOW_S + 1) == 0
    assert floor.form_from(LOOK_BELOW_S + 2) == 500


def test_a_row_found_below_takes_it_back() -> None:
    floor = Floor(500)

    floor.formed(formed(400, xid=10, xmin=9, below=True), has_refused=False)

    assert floor.at == 0


def test_no_row_ever_appears_at_or_below_it_whatever_the_order_of_commits() -> None:
    """I9: random runs of transactions as Postgres has them: xid first, then numbers, then commit; the relay's too."""
    risen = sum(_run(Random(seed), seed) for seed in range(300))

    assert risen > 100, "it hardly ever rose: nothing was shown"


def _run(random: Random, seed: int) -> bool:
    floor = Floor()
    next_xid, next_id = 1, 1
    open_: dict[int, list[int]] = {}
    relay: int | None = None
    visible: set[int] = set()
    for _ in range(200):
        match random.randrange(5):
            case 0:
                open_[next_xid] = []
                next_xid += 1
            case 1 if open_:
                open_[random.choice(list(open_))].append(next_id)
                next_id += 1
            case 2 if open_:
                ids = open_.pop(random.choice(list(open_)))
                if random.random() < 0.8:
                    assert all(i > floor.at for i in ids), f"seed {seed}: {ids} at or below {floor.at}"
                    visible |= set(ids)
            case 3 if relay is None:
                relay, next_xid = next_xid, next_xid + 1  # its fence; the snapshot that forms comes later
            case 4 if relay is not None:
                there = sorted(i for i in visible if i > floor.at)  # from the floor on, at most three
                taken = there[:3]
                visible -= set(taken)
                floor.formed(
                    formed(taken[-1] if taken else None, xid=relay, xmin=min([*open_, relay]), cut=len(there) >= 3),
                    has_refused=False,
                )
                relay = None
                assert all(i > floor.at for i in visible), f"seed {seed}: {visible} left below {floor.at}"
            case _:
                pass
    return floor.at > 0
