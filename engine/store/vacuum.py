"""What keeps Postgres from removing what was deleted. Postgres's own views; every role sees what is asked here."""

from typing import NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class HolderRow(NamedTuple):
    """Who keeps Postgres from removing what was deleted: a transaction, a replication slot."""

    kind: str
    name: str
    xid: str
    transactions: int
    """That began since."""


def holders(*, limit: int) -> Statement[HolderRow]:
    """Who holds the oldest snapshots of this database, oldest first. Vacuums themselves hold nothing back."""
    return Statement(
        """
        SELECT h.kind, h.name, h.xid::text, age(h.xid)::bigint
          FROM (SELECT 'transaction' AS kind,
                       format('pid %%s (%%s)', a.pid, COALESCE(NULLIF(a.application_name, ''), a.backend_type)) AS name,
                       CASE WHEN a.backend_xid IS NULL OR age(a.backend_xmin) > age(a.backend_xid)
                            THEN a.backend_xmin ELSE a.backend_xid END AS xid
                  FROM pg_stat_activity AS a
                 WHERE (a.datname = current_database() OR a.datname IS NULL)
                   AND a.pid <> pg_backend_pid()
                   AND COALESCE(a.backend_type, '') <> 'autovacuum worker'
                   AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
                UNION ALL
                SELECT 'prepared transaction', x.gid, x.transaction
                  FROM pg_prepared_xacts AS x
                 WHERE x.database = current_database()
                UNION ALL
                SELECT 'replication slot', s.slot_name::text, s.xmin FROM pg_replication_slots AS s) AS h
         WHERE h.xid IS NOT NULL
         ORDER BY age(h.xid) DESC
         LIMIT %(limit)s
        """,
        {"limit": limit},
        args_row(HolderRow),
    )
