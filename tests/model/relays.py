"""The relay's protocol in small, every interleaving of it (decision 0008): two relays, one outbox, one Kafka, one restore.

A state is the table, Kafka, what each relay knows, and what the world has done. Each step of `consumers.relay` that another
can come between is a transition; at any moment a relay may die, a reply may be lost, the other may claim (as if the owner
counted as dead), the database may go back to a backup. What must hold is checked in every state that can be reached.

A rule can be taken away, to see that it is needed.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple


class Rule(Enum):
    """What the protocol rests on."""

    FENCE = "a batch is formed only under the claim"
    TOKENS = "a position is that of a batch, not only of a number"
    INIT_FIRST = "older producers are fenced before the position is read"
    LOOK = "what stands is read again under the claim once they are"
    IN_TRANSACTION = "the position is committed with the batch"


class Event(NamedTuple):
    """A row of the outbox: its number, its key, and when it was committed."""

    number: int
    key: str
    at: int


COMMITS = (Event(2, "a", 1), Event(1, "b", 2), Event(3, "a", 3))
"""In the order in which they commit: the sequence's numbers are not in it, but within a key they are (lanes)."""

AFTER_RESTORE = 4
"""When one more is committed, under the number that the restored sequence draws: a lost one's again."""


class Table(NamedTuple):
    """`outbox` and `outbox_relay`."""

    rows: frozenset[Event] = frozenset()
    epoch: int = 0
    number: int = 0
    token: int = 0
    next_token: int = 0
    batch: tuple[Event, ...] = ()
    is_halted: bool = False


class Kafka(NamedTuple):
    """What readers of committed records have, the position, and the newest producer."""

    published: tuple[Event, ...] = ()
    number: int = 0
    token: int = 0
    producer: int = 0


class Phase(Enum):
    """Where a relay is."""

    IDLE = 0
    CLAIMED = 1
    INITIALISED = 2
    POSITIONED = 3
    TO_PUBLISH = 4
    TO_FORM = 5


class Stands(NamedTuple):
    """What a relay has read of the table."""

    epoch: int = 0
    number: int = 0
    token: int = 0
    next_token: int = 0


class Relay(NamedTuple):
    """What one relay knows."""

    phase: Phase = Phase.IDLE
    stands: Stands = Stands()
    producer: int = 0
    position: tuple[int, int] = (0, 0)
    batch: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """Everything."""

    table: Table
    kafka: Kafka
    relays: tuple[Relay, Relay]
    committed: frozenset[Event] = frozenset()
    """By the history that the table has now."""
    tokens: int = 0
    claims: int = 0
    refusals: int = 0
    backup: tuple[Table, frozenset[Event]] | None = None
    is_restored: bool = False


class ViolationError(AssertionError):
    """A state that must not be."""


def check(state: State) -> None:
    """What must hold in every state."""
    published = state.kafka.published
    if len(set(published)) != len(published):
        raise ViolationError(f"published twice: {published}")
    for key in {event.key for event in published}:
        order = [event.at for event in published if event.key == key]
        if order != sorted(order):
            raise ViolationError(f"out of order: {published}")
    gone = state.committed - state.table.rows - set(published)
    if gone:
        raise ViolationError(f"lost: {gone}, published {published}")
    if state.table.is_halted and not state.is_restored:
        raise ViolationError("halted, and nothing was lost")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much happens at most."""

    commits: int = 3
    claims: int = 2
    refusals: int = 0
    restores: bool = False


def reachable(bounds: Bounds, without: Rule | None = None) -> int:
    """Visit every state; returns how many. Raises `ViolationError` for the first that must not be."""
    first = State(Table(), Kafka(), (Relay(), Relay()))
    seen = {first}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        for following in steps(state, bounds, without):
            if following not in seen:
                check(following)
                seen.add(following)
                queue.append(following)
    return len(seen)


def steps(state: State, bounds: Bounds, without: Rule | None) -> Iterator[State]:
    """What can happen next."""
    table = state.table
    if (event := _next_commit(state, bounds)) is not None:
        yield replace(state, table=table._replace(rows=table.rows | {event}), committed=state.committed | {event})
    if bounds.restores and state.backup is None and state.committed:
        yield replace(state, backup=(table, state.committed))
    if state.backup is not None and not state.is_restored:
        old, committed = state.backup
        yield replace(state, table=old, committed=committed, is_restored=True)
    for place in (0, 1):
        for relay, changed in of_relay(state, state.relays[place], bounds, without):
            relays = (relay, state.relays[1]) if place == 0 else (state.relays[0], relay)
            yield replace(changed, relays=relays)


def _next_commit(state: State, bounds: Bounds) -> Event | None:
    if not state.is_restored:
        return next((event for event in COMMITS[: bounds.commits] if event not in state.committed), None)
    if any(event.at == AFTER_RESTORE for event in state.committed):
        return None
    return Event(1 + max(event.number for event in state.committed), "a", AFTER_RESTORE)


def of_relay(  # noqa: C901  # a list of cases
    state: State, relay: Relay, bounds: Bounds, without: Rule | None
) -> Iterator[tuple[Relay, State]]:
    """What one relay can do next, with and without hearing of it."""
    table, kafka, stands = state.table, state.kafka, relay.stands
    if relay.phase is not Phase.IDLE:
        yield Relay(), state  # it dies
    match relay.phase:
        case Phase.IDLE:
            if state.claims < bounds.claims:
                claimed = table._replace(epoch=table.epoch + 1)
                yield Relay(Phase.CLAIMED, _stands(claimed)), replace(state, table=claimed, claims=state.claims + 1)
        case Phase.CLAIMED:
            if without is Rule.INIT_FIRST and relay.position == (0, 0):
                yield relay._replace(position=(kafka.number, kafka.token or -1)), state
            initialised = kafka._replace(producer=kafka.producer + 1)
            if initialised.producer <= bounds.claims + 1:
                yield (
                    relay._replace(phase=Phase.INITIALISED, producer=initialised.producer),
                    replace(state, kafka=initialised),
                )
        case Phase.INITIALISED:
            number, token = relay.position
            if without is not Rule.INIT_FIRST or not token:
                number, token = kafka.number, kafka.token
            yield relay._replace(phase=Phase.POSITIONED, position=(number, max(token, 0))), state
        case Phase.POSITIONED:
            yield _judged(state, relay, without)
        case Phase.TO_PUBLISH:
            if kafka.producer == relay.producer:
                published = kafka._replace(published=kafka.published + relay.batch)
                at = published._replace(number=stands.number + 1, token=stands.next_token)
                if without is Rule.IN_TRANSACTION:
                    yield Relay(Phase.CLAIMED, stands), replace(state, kafka=published)
                yield relay._replace(phase=Phase.TO_FORM, batch=()), replace(state, kafka=at)
                yield Relay(Phase.CLAIMED, stands), replace(state, kafka=at)  # the reply is lost
            yield Relay(Phase.CLAIMED, stands), state  # it failed
            if kafka.producer == relay.producer and state.refusals < bounds.refusals:
                yield from _anew(state, relay, without)
        case Phase.TO_FORM:
            yield from _formed(state, relay, without)


def _judged(state: State, relay: Relay, without: Rule | None) -> tuple[Relay, State]:
    """Read what stands under the claim, and compare it with the position."""
    table = state.table
    if without is Rule.LOOK:
        stands = relay.stands
    elif table.epoch != relay.stands.epoch:
        return Relay(), state
    else:
        stands = _stands(table)
    if table.is_halted:
        return Relay(), state
    number, token = relay.position
    if without is Rule.TOKENS:
        is_published, is_not = number == stands.number + 1 and bool(stands.next_token), number == stands.number
    else:
        is_published, is_not = bool(token) and token == stands.next_token, token == stands.token
    if is_published:
        return relay._replace(phase=Phase.TO_FORM, stands=stands), state
    if is_not and not stands.next_token:
        return relay._replace(phase=Phase.TO_FORM, stands=stands), state
    if is_not:
        return relay._replace(phase=Phase.TO_PUBLISH, stands=stands, batch=table.batch), state
    if table.epoch != stands.epoch:
        return Relay(), state  # whoever has the claim sees for itself
    return Relay(), replace(state, table=table._replace(is_halted=True))


def _formed(state: State, relay: Relay, without: Rule | None) -> Iterator[tuple[Relay, State]]:
    """One commit: the rows of the published batch go, the next are taken."""
    table, stands = state.table, relay.stands
    if _is_fenced(table, stands, without) or table.is_halted:
        yield Relay(), state
        return
    rows = table.rows - set(table.batch)
    if not rows and not stands.next_token:
        return  # nothing to do
    taken = tuple(sorted(rows))
    token = state.tokens + 1 if taken else 0
    formed = table._replace(
        rows=rows,
        number=stands.number + bool(stands.next_token),
        token=stands.next_token or stands.token,
        next_token=token,
        batch=taken,
    )
    following = replace(state, table=formed, tokens=state.tokens + bool(taken))
    phase = Phase.TO_PUBLISH if taken else Phase.TO_FORM
    yield relay._replace(phase=phase, stands=_stands(formed)._replace(epoch=stands.epoch), batch=taken), following
    yield Relay(Phase.CLAIMED, stands), following  # the reply is lost


def _anew(state: State, relay: Relay, without: Rule | None) -> Iterator[tuple[Relay, State]]:
    """Kafka refuses a topic for now (here: the first row's key): another batch without it, in the place of this one."""
    table, stands = state.table, relay.stands
    if _is_fenced(table, stands, without) or table.is_halted:
        yield Relay(), state
        return
    refused = relay.batch[0].key if relay.batch else ""
    taken = tuple(sorted(event for event in table.rows if event.key != refused))
    token = state.tokens + 1 if taken else 0
    formed = table._replace(next_token=token, batch=taken)
    following = replace(state, table=formed, tokens=state.tokens + bool(taken), refusals=state.refusals + 1)
    phase = Phase.TO_PUBLISH if taken else Phase.TO_FORM
    yield relay._replace(phase=phase, stands=_stands(formed)._replace(epoch=stands.epoch), batch=taken), following
    yield Relay(Phase.CLAIMED, stands), following  # the reply is lost


def _is_fenced(table: Table, stands: Stands, without: Rule | None) -> bool:
    if without is Rule.FENCE:
        return False
    return (table.epoch, table.token, table.next_token) != (stands.epoch, stands.token, stands.next_token)


def _stands(table: Table) -> Stands:
    return Stands(table.epoch, table.number, table.token, table.next_token)
