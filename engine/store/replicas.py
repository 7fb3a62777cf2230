"""Statements about standbys."""

from engine.store.statement import Statement


def lag() -> Statement[tuple[float | None]]:
    """Seconds by which the replay of the slowest standby is behind; NULL: there is none, or all have everything.

    Only members of `pg_monitor` are told; others read NULL.
    """
    return Statement("SELECT EXTRACT(EPOCH FROM max(r.replay_lag))::double precision FROM pg_stat_replication AS r", {})
