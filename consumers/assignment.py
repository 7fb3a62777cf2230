"""The life of an assigned partition, as a table. Pure.

              claim          claimed            opened            attach
    ASSIGNED ───────▶ CLAIMING ──────▶ OPENING ──────▶ VALIDATING ──────▶ ATTACHED
        ▲                │ busy            │ held            │ halt            │
        │◀───────────────┘                 ▼                 ▼                 │
        │                                HELD             HALTED               │
        └──── drop: the engine ended the claim, Kafka refused the offset, ◀────┘
              Postgres or Kafka did not answer

    any of them ── revoke, lose ──▶ LEAVING ── released ──▶ GONE

Kafka decides ASSIGNED and LEAVING, the engine the rest. Only in ATTACHED does the client fetch. A partition that comes
back while it is LEAVING begins a new life, which waits for the end of this one.
"""

from enum import Enum


class State(Enum):
    """Where an assigned partition stands."""

    ASSIGNED = "assigned"
    """Kafka gave it to us; no claim yet, or the last one ended."""
    CLAIMING = "claiming"
    """Asking for the claim; another owner may have to release it first (P9)."""
    OPENING = "opening"
    """Claimed; the engine reads its open rows and holds (P10)."""
    VALIDATING = "validating"
    """Its open workflows run; topic ID, log start and end are being compared with the progress."""
    ATTACHED = "attached"
    """The client fetches it."""
    HELD = "held"
    """Claimed, not fetched: an operator or a handler's policy holds it."""
    HALTED = "halted"
    """Not fetched: the log is not what the progress says, or the progress is not this handler's."""
    LEAVING = "leaving"
    """Kafka took it; its open records are being persisted (P11)."""
    GONE = "gone"
    """Released."""


class Event(Enum):
    """What happens to it."""

    CLAIM = "claim"
    BUSY = "busy"
    CLAIMED = "claimed"
    OPENED = "opened"
    HELD = "held"
    HALT = "halt"
    ATTACH = "attach"
    DROP = "drop"
    REVOKE = "revoke"
    LOSE = "lose"
    RELEASED = "released"


_ENGINE: dict[tuple[State, Event], State] = {
    (State.ASSIGNED, Event.CLAIM): State.CLAIMING,
    (State.ASSIGNED, Event.HALT): State.HALTED,
    (State.CLAIMING, Event.BUSY): State.ASSIGNED,
    (State.CLAIMING, Event.CLAIMED): State.OPENING,
    (State.CLAIMING, Event.HALT): State.HALTED,
    (State.OPENING, Event.OPENED): State.VALIDATING,
    (State.OPENING, Event.HELD): State.HELD,
    (State.OPENING, Event.HALT): State.HALTED,
    (State.VALIDATING, Event.HALT): State.HALTED,
    (State.VALIDATING, Event.ATTACH): State.ATTACHED,
}
_OURS = [state for state in State if state not in (State.LEAVING, State.GONE)]
_TABLE = {
    **_ENGINE,
    **{(state, Event.DROP): State.ASSIGNED for state in _OURS},
    **{(state, event): State.LEAVING for state in _OURS for event in (Event.REVOKE, Event.LOSE)},
    **{(State.LEAVING, event): State.LEAVING for event in Event},
    (State.LEAVING, Event.RELEASED): State.GONE,
}


def after(state: State, event: Event) -> State:
    """The next state. Once Kafka has taken a partition, nothing but its release counts.

    Raises:
        AssertionError: The event cannot happen there: a bug of ours.
    """
    following = _TABLE.get((state, event))
    assert following is not None, f"a partition that is {state.value} cannot {event.value}"
    return following
