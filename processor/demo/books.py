"""A run's tables: a schema of its own in Postgres, made, watched, read for the audit, and dropped.

The table of effects has no unique constraint and an insertion sequence: a duplicate or a disorder would show.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigurationError
from engine.failures import summary
from engine.migrations import migrate
from engine.pool import connect
from engine.settings import EngineSettings
from processor.demo.audit import Audit, Effect, audit
from processor.demo.ledger import Entry

_SEQUENCE = re.compile(rb'"sequence": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is.

    Attributes:
        next: Sum of the partitions' progress: records that are persisted or decided.
        open: Workflows persisted and not finished.
        dead_letters: Orders given up.
        holds: Keys and partitions that wait for an operator; there should be none.
    """

    next: int
    open: int
    dead_letters: int
    holds: tuple[str, ...]

    @property
    def done(self) -> int:
        """Records that are finished, or fewer: those above a partition's progress are not counted."""
        return max(0, self.next - self.open)


class Books:
    """The tables of one run.

    Args:
        dsn: Database.
        schema: Schema of the system tables and of the effects.
    """

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.table = f'"{schema}".effect'

    async def reach(self) -> None:
        """Make sure that the database answers, and lets us in.

        Raises:
            ConfigurationError: It does not; says what to look at.
        """
        try:
            await self.query("SELECT 1")
        except Exception as error:  # noqa: BLE001  # the driver's, which is the engine's to import
            raise ConfigurationError(
                f"Postgres as given cannot be used: {summary(error)}\n"
                f"  Check the address, that the server runs, and that this user may connect and create a schema."
            ) from None

    async def open(self) -> None:
        """Make the schema and its tables."""
        await migrate(self.dsn, self.schema)
        await self.make_table()

    async def make_table(self) -> None:
        """Make the table of effects, in a schema that is there."""
        await self.query(
            f"""
            CREATE TABLE {self.table} (
                id       bigint GENERATED ALWAYS AS IDENTITY,
                customer text   NOT NULL,
                sequence bigint NOT NULL,
                receipt  text   NOT NULL
            )
            """
        )

    async def drop(self) -> None:
        """Remove the schema with all that is in it."""
        await self.query(f'DROP SCHEMA IF EXISTS "{self.schema}" CASCADE')

    async def standing(self) -> Standing:
        """How far the run is now."""
        found = await self.query(
            f"""
            SELECT (SELECT coalesce(sum((value::json ->> 'next')::bigint), 0)::bigint
                      FROM "{self.schema}".event_dispatch_kv WHERE service_name LIKE 'kafka:%'),
                   (SELECT count(*) FROM "{self.schema}".workflow_status WHERE status IN ('PENDING', 'ENQUEUED')),
                   (SELECT count(*) FROM "{self.schema}".dead_letter),
                   (SELECT coalesce(array_agg(key || ': ' || reason), '{{}}') FROM "{self.schema}".hold)
            """
        )
        at, unfinished, dead_letters, holds = found[0]
        return Standing(at, unfinished, dead_letters, tuple(holds))

    async def audit(self, ledger: Iterable[Entry], *, steps_of: str | None = None) -> Audit:
        """The ledger against the tables.

        Args:
            ledger: What was produced.
            steps_of: Topic whose handler has no transaction: its effects are the recorded steps of its successful
                workflows, by the time of their call. A customer's orders are all in it, or none.
        """
        effects = await self.effects()
        if steps_of is not None:
            effects += await self.steps(steps_of)
        return audit(ledger, effects, await self.dead_letters())

    async def effects(self) -> list[Effect]:
        """The table of effects, in the order of insertion."""
        return [
            (row[0], row[1]) for row in await self.query(f"SELECT customer, sequence FROM {self.table} ORDER BY id")
        ]

    async def steps(self, topic: str) -> list[Effect]:
        """The recorded step of every successful workflow of a topic, by the time at which it was called."""
        found = await self.query(
            f"""
            SELECT w.inputs::json #>> '{{args,0,customer}}', (w.inputs::json #>> '{{args,0,sequence}}')::bigint
              FROM "{self.schema}".workflow_status AS w
              JOIN "{self.schema}".operation_outputs AS o ON o.workflow_uuid = w.workflow_uuid AND o.error IS NULL
             WHERE w.status = 'SUCCESS'
               AND w.request::json ->> 'topic' = %s
             ORDER BY o.started_at_epoch_ms, w.kafka_offset
            """,
            topic,
        )
        return [(row[0], row[1]) for row in found]

    async def dead_letters(self) -> list[int]:
        """The sequences of all dead letters, from their raw bytes; -1 for one that is no order."""
        found = await self.query(f'SELECT record_value FROM "{self.schema}".dead_letter ORDER BY dead_letter_id')
        matches = [_SEQUENCE.search(row[0] or b"") for row in found]
        return [int(match[1]) if match else -1 for match in matches]

    async def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own."""
        async with await connect(EngineSettings(conninfo=self.dsn), "onceflow demo") as connection:
            cursor = await connection.execute(statement.encode(), values or None)
            return await cursor.fetchall() if cursor.description else []
