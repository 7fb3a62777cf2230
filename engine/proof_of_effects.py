"""Whether what a user's query counts are the effects of the workflows that were proven: each there, none twice, none nobody's (I5).

    workflow ─▶ effects     missing, doubled      of the ranges that were proven
    effect ─▶ workflow      orphaned, nobody's    an effect names a workflow that stands, or one that retention deleted

Everything is compared where it is, in one snapshot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection

from engine.completeness import Kind, Standing, Tally
from engine.errors import ConfigurationError
from engine.failures import summary
from engine.ranges import Range
from engine.store import effects as store
from engine.store.completeness import read_only, without_time_out
from engine.store.effects import Owned
from engine.store.statement import send


@dataclass(frozen=True, slots=True)
class Proven:
    """What was proven of a partition, to compare with effects: offsets in [start, end).

    Attributes:
        standing: Of the partition.
        range: Which offsets.
        reaches_end: Whether nothing beyond can have an effect: no record is there, or nobody runs it.
    """

    standing: Standing
    range: Range
    reaches_end: bool


async def judge_effects(
    connection: AsyncConnection[Any],
    schema: str,
    proven: Sequence[Proven],
    *,
    query: str,
    each: int,
    name: str | None,
    is_whole: bool,
) -> Tally:
    """Compare what a user's query counts for workflows with the workflows of ranges (I5), in one snapshot.

    A workflow that succeeded has exactly `each` effects, any other at most as many.

    Args:
        connection: In autocommit mode.
        schema: Of the system tables.
        proven: Which offsets of which partitions.
        query: Its rows are a workflow's ID and a number. Runs in a read-only transaction, without a time-out.
        each: Effects that a workflow has.
        name: Only workflows of this handler.
        is_whole: Whether these are all offsets of all partitions, so that each effect must be somebody's.

    Raises:
        ConfigurationError: The query does not run, or has other columns; or nothing of this handler was proven.
    """
    tally = Tally()
    chosen = [each for each in proven if name in (None, each.standing.handler)]
    if name is not None and not chosen:
        known = ", ".join(sorted({each.standing.handler for each in proven})) or "none"
        raise ConfigurationError(f"effects of {name!r}: no such handler has a partition here; those that do: {known}")
    wrong = store.wrong_effects(
        query=query,
        each=each,
        sources=[of.standing.source for of in chosen],
        starts=[of.range[0] for of in chosen],
        ends=[of.range[1] for of in chosen],
        name=name,
    )
    owned = [
        Owned(of.standing.prefix, of.standing.source, of.range[0], None if of.reaches_end else of.range[1])
        for of in (proven if is_whole else chosen)
    ]
    if is_whole:
        owned += [Owned(prefix, source, 0, None) for of in proven for source, prefix in of.standing.former]
    unowned = store.unowned_effects(query=query, owned=owned, is_whole=is_whole)
    kinds = {
        "missing": (Kind.MISSING_EFFECT, f"workflows that succeeded with fewer than {each} effects"),
        "doubled": (Kind.DOUBLED_EFFECT, f"workflows with more than {each} effects"),
        "orphaned": (Kind.ORPHANED_EFFECT, "effects of records that have no row"),
        "nobodys": (Kind.NOBODYS_EFFECT, "effects of no workflow that stands, and of no partition that has progress"),
    }
    async with connection.transaction():
        await send(connection, schema, read_only())
        await send(connection, schema, without_time_out())
        for statement in (wrong, unowned):
            try:
                found = await (await send(connection, schema, statement)).fetchall()
            except (
                psycopg.ProgrammingError,
                psycopg.DataError,
                psycopg.InternalError,
                psycopg.NotSupportedError,
            ) as error:
                raise ConfigurationError(
                    f"the query of effects does not run: {summary(error)}\n"
                    f"  Its rows are a workflow's ID and a number: SELECT workflow_id, count(*) FROM sale GROUP BY 1"
                ) from error
            for row in found:
                kind, message = kinds[row.kind]
                known = tally.findings.get(kind)
                example = f"{'NULL' if row.workflow_id is None else row.workflow_id} ({row.effects})"
                tally.find(kind, message, example, count=row.total if known is None else 0)
    return tally
