"""From where on fewer records are taken in. A section of `processor.config.Settings`."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from processor.section import Section, duration_or

NEVER: Final = "never"


Limit = Annotated[timedelta | Literal["never"], *duration_or(NEVER, "1s", "5m")]


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
