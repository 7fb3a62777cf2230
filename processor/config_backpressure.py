"""From where on fewer records are taken in. A section of `processor.config.Settings`."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, WithJsonSchema

from processor.section import Section, positive
from processor.units import duration

NEVER: Final = "never"


def _limit(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == NEVER:
        return NEVER
    try:
        return positive(limit) if isinstance(limit := duration(value), timedelta) else limit
    except ValueError as error:
        raise ValueError(f"{error}; or {NEVER}") from None


Limit = Annotated[
    timedelta | Literal["never"],
    BeforeValidator(_limit),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}],
            "examples": ["1s", "5m", NEVER],
        }
    ),
]


def limit_of(limit: timedelta | Literal["never"]) -> timedelta | None:
    """As the engine has it."""
    return None if limit == NEVER else limit


class BackpressureSettings(Section):
    """From where on fewer records are taken in because the database cannot follow. The rest stays in Kafka."""

    commit_max: Limit = timedelta(seconds=1)
    """Mean time of a commit. Half as many workflows are in flight for every second in which it is longer, down to a
    sixteenth; as many as ever where that does not help. `never`: not for this."""

    replica_lag_max: Limit = NEVER
    """How far the slowest standby's replay is behind. Half as many are in flight every five seconds in which it is
    further, down to 16. Needs membership of `pg_monitor`."""

    vacuum_held_max: Limit = NEVER
    """For how long somebody has been seen to keep Postgres from removing deleted rows; as above, every second."""
