"""Statements of `notifications` and `message_key`: messages on their way to a workflow, oldest first.

Whoever sends has locked the receiver's row first (or does at COMMIT: the trigger `processor_wake_receiver`), and so has
whoever puts it to rest: either it sees the message, or the sender sees that it rests.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement

QUIET: Final = """
    -- Read by the triggers' WHEN: this process notifies afterwards, gathered. In a FROM it is evaluated before any row is.
    WITH quiet AS MATERIALIZED (
        SELECT set_config('processor.quiet', 'on', true) AS says
    )
"""


class OldestRow(NamedTuple):
    """The message that a workflow receives next."""

    number: int
    """Which of those asked for, from 1."""
    message_id: str
    message: str


def oldest(*, destinations: Sequence[str], topics: Sequence[str]) -> Statement[OldestRow]:
    """The oldest message of each topic of each workflow, where there is one."""
    return Statement(
        """
        SELECT t.number::integer, n.message_uuid, n.message
          FROM unnest(%(destinations)b::text[], %(topics)b::text[]) WITH ORDINALITY AS t (destination, topic, number)
         CROSS JOIN LATERAL (
               SELECT n.message_uuid, n.message
                 FROM {schema}.notifications AS n
                WHERE n.destination_uuid = t.destination AND n.topic = t.topic
                ORDER BY n.kafka_place
                LIMIT 1) AS n
        """,
        {"destinations": destinations, "topics": topics},
        args_row(OldestRow),
    )


def consume(*, ids: Sequence[str], function_ids: Sequence[int], messages: Sequence[str]) -> Statement[Any]:
    """Take messages that checkpoints say are received, where this transaction wrote those (P7, P31)."""
    return Statement(
        """
        DELETE FROM {schema}.notifications AS n
         USING unnest(%(ids)b::text[], %(function_ids)b::integer[], %(messages)b::text[])
                 AS t (id, function_id, message),
               {schema}.operation_outputs AS o
         WHERE n.message_uuid = t.message AND n.destination_uuid = t.id
           AND o.workflow_uuid = t.id AND o.function_id = t.function_id AND o.xmin = pg_current_xact_id()::xid
        """,
        {"ids": ids, "function_ids": function_ids, "messages": messages},
    )


_RECORDED: Final = """
    , sent AS MATERIALIZED (
        SELECT t.destination, t.topic, t.message, t.key, t.number
          FROM unnest(%(ids)b::text[], %(function_ids)b::integer[], %(destinations)b::text[], %(topics)b::text[],
                      %(messages)b::text[], %(keys)b::text[])
                 WITH ORDINALITY AS t (id, function_id, destination, topic, message, key, number)
          JOIN {schema}.operation_outputs AS o
            ON o.workflow_uuid = t.id AND o.function_id = t.function_id AND o.xmin = pg_current_xact_id()::xid
          JOIN {schema}.workflow_status AS w ON w.workflow_uuid = t.destination
    )
"""

_GIVEN: Final = """
    , sent AS MATERIALIZED (
        SELECT w.workflow_uuid AS destination, %(topic)s AS topic, %(message)s AS message, %(key)s AS key, 1 AS number
          FROM {schema}.workflow_status AS w
         WHERE w.workflow_uuid = %(destination)s
           FOR KEY SHARE OF w
    )
"""

_KEYS: Final = """
    , first AS (
        INSERT INTO {schema}.message_key (destination_uuid, idempotency_key)
        SELECT DISTINCT s.destination, s.key
          FROM sent AS s
         WHERE s.key IS NOT NULL
         ORDER BY s.destination, s.key
            ON CONFLICT DO NOTHING
        RETURNING destination_uuid, idempotency_key
    )
"""

_SEND: Final = """
    INSERT INTO {schema}.notifications (destination_uuid, topic, message, created_at_epoch_ms)
    SELECT s.destination, s.topic, s.message, {schema}.now_ms()
      FROM quiet AS q
      JOIN sent AS s ON q.says IS NOT NULL
     WHERE s.key IS NULL
        OR s.number IN (SELECT min(x.number)
                          FROM first AS f
                          JOIN sent AS x ON x.destination = f.destination_uuid AND x.key = f.idempotency_key
                         GROUP BY x.destination, x.key)
     ORDER BY s.number
"""

_SEND_ONE: Final = (
    _GIVEN + _KEYS + ", written AS (" + _SEND + ") SELECT EXISTS (SELECT FROM sent), pg_current_xact_id()::text"
)


def send_recorded(
    *,
    ids: Sequence[str],
    function_ids: Sequence[int],
    destinations: Sequence[str],
    topics: Sequence[str],
    messages: Sequence[str],
    keys: Sequence[str | None],
) -> Statement[Any]:
    """Messages that come with checkpoints, in order, only where this transaction wrote those (P7, P31).

    One to a workflow that was deleted meanwhile goes the way of those it had. Under a key that was used, none is sent.
    """
    return Statement(
        QUIET + _RECORDED + _KEYS + _SEND,
        {
            "ids": ids,
            "function_ids": function_ids,
            "destinations": destinations,
            "topics": topics,
            "messages": messages,
            "keys": keys,
        },
    )


def send_one(*, destination: str, topic: str, message: str, key: str | None) -> Statement[tuple[bool, str]]:
    """A message from outside, unless its key was used. Returns whether it has a receiver, and the transaction."""
    return Statement(QUIET + _SEND_ONE, {"destination": destination, "topic": topic, "message": message, "key": key})


def send_aloud(*, destination: str, topic: str, message: str, key: str | None) -> Statement[tuple[bool, str]]:
    """The same in a transaction of the user's, which tells nobody afterwards: the triggers do, at its COMMIT."""
    return Statement(
        "WITH quiet AS (SELECT 'no' AS says)" + _SEND_ONE,
        {"destination": destination, "topic": topic, "message": message, "key": key},
    )


def committed(*, xid: str) -> Statement[tuple[str | None]]:
    """What became of a transaction: `committed`, `aborted`, `in progress`; NULL: too old to be known."""
    return Statement("SELECT pg_xact_status(%(xid)s::xid8)", {"xid": xid})
