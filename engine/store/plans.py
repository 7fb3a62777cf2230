"""How Postgres is to find the rows of a flush: by their IDs, whatever it believes of the table.

A plan is made once a connection and kept. Made while a table was small, or while its statistics said that next to nothing
was open, it reads the whole table, or everything that is open and every dead entry of that index, at each commit: 90 to
140 µs a row after 20,000 rows instead of 4 to 9, and more with every further row.

So these statements say `status IS NOT DISTINCT FROM 'PENDING'`, for which no index of open rows is asked: the row is found by
its ID, and then looked at. And their transaction says that tables are not read.
"""

from typing import Any

from engine.store.statement import Statement


def by_id() -> Statement[Any]:
    """Have this transaction's plans go from the rows that are given to the tables, one index look-up each.

    Without compilation: a plan that has no other way than what is switched off here counts as an expensive one.
    """
    return Statement(
        """
        SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
               set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
               set_config('jit', 'off', true)
        """,
        {},
    )
