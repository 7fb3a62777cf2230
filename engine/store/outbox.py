"""Statements of `outbox` and `outbox_relay`: rows in the commit of their cause, batches of them, the relay's claim (I9)."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from psycopg.rows import args_row

from engine.ids import ExecutorId
from engine.outgoing import Outgoing, headers_column
from engine.store.columns import packed
from engine.store.statement import Statement

STATEMENT_BYTES_MAX: Final = 32 << 20
"""Events of one statement: Postgres takes no parameter of a gigabyte, and a flush is of many workflows."""


class StandingRow(NamedTuple):
    """What stands of the relay: whose claim, what was published last, what comes next."""

    outbox_name: str
    epoch: int
    executor_id: ExecutorId | None
    is_gone: bool
    beat: int
    number: int
    token: str | None
    next_token: str | None
    floor: int
    adopts: bool
    halted: str | None


class FormedRow(NamedTuple):
    """What forming a batch has done, and what of the database it saw."""

    taken: int
    last_id: int | None
    is_cut: bool
    """Whether more was there than a batch takes."""
    xid: int
    """Of the forming transaction: newer than every transaction before its snapshot."""
    xmin: int
    """Every older transaction has ended."""
    taken_below_floor: bool


class OutboxRow(NamedTuple):
    """An event on its way."""

    outbox_id: int
    created_at: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: str | None


class DepthRow(NamedTuple):
    """What waits to be published."""

    waiting: int
    oldest_at: int | None
    halted: str | None


# -- writing --


def publishing(events: Sequence[Outgoing], *, keys: Sequence[bytes | None] | None = None) -> tuple[Statement[Any], ...]:
    """What a transaction's last statements are, where it publishes: behind everything else that waits.

    `keys`: of what else follows; those of the events are among them.
    """
    if not events and keys is None:
        return ()
    return (
        lock_keys(keys=[event.key for event in events] if keys is None else keys),
        *(append(part) for part in _parts(events)),
    )


def lock_keys(*, keys: Sequence[bytes | None]) -> Statement[Any]:
    """Before the rows of a transaction, and behind everything else that waits: their order is that of commits."""
    return Statement("SELECT {schema}.lock_outbox_keys(%(keys)b::bytea[])", {"keys": sorted(set(filter(None, keys)))})


def append(events: Sequence[Outgoing]) -> Statement[Any]:
    """Events, in order."""
    headers = [headers_column(event.headers) for event in events]
    return Statement(
        """
        INSERT INTO {schema}.outbox (created_at, topic, record_key, record_value, record_headers)
        SELECT c.now, t.topic, t.key, t.value, COALESCE(t.headers, %(one_headers)s)
          FROM (SELECT {schema}.now_ms() AS now) AS c,
               unnest(string_to_array(%(ids)s, %(separator)s, %(null)s), %(keys)b::bytea[], %(values)b::bytea[],
                      string_to_array(%(headers)s, %(separator)s, %(null)s))
                 AS t (topic, key, value, headers)
        """,
        {
            **packed([event.topic for event in events], {"headers": headers}),
            "keys": [event.key for event in events],
            "values": [event.value for event in events],
        },
    )


def append_recorded(checkpoints: Sequence[tuple[str, int]], events: Sequence[Outgoing]) -> tuple[Statement[Any], ...]:
    """Events that come with checkpoints (workflow and function ID of each), only where this transaction wrote those.

    A checkpoint of the same place that stood already is another run's, which published: its `xmin` says so (P7).
    """
    made: list[Statement[Any]] = []
    for part in _parts(events):
        places, checkpoints = checkpoints[: len(part)], checkpoints[len(part) :]
        made.append(
            Statement(
                """
                INSERT INTO {schema}.outbox (created_at, topic, record_key, record_value, record_headers)
                SELECT {schema}.now_ms(), t.topic, t.key, t.value, t.headers
                  FROM unnest(%(ids)b::text[], %(function_ids)b::integer[], %(topics)b::text[], %(keys)b::bytea[],
                              %(values)b::bytea[], %(headers)b::text[])
                         WITH ORDINALITY AS t (id, function_id, topic, key, value, headers, place)
                  JOIN {schema}.operation_outputs AS o
                    ON o.workflow_uuid = t.id AND o.function_id = t.function_id
                   AND o.xmin = pg_current_xact_id()::xid
                 ORDER BY t.place
                """,
                {
                    "ids": [id for id, _ in places],
                    "function_ids": [function_id for _, function_id in places],
                    "topics": [event.topic for event in part],
                    "keys": [event.key for event in part],
                    "values": [event.value for event in part],
                    "headers": [headers_column(event.headers) for event in part],
                },
            )
        )
    return tuple(made)


def append_dead_letters(
    *,
    ids: Sequence[str],
    statuses: Sequence[str],
    errors: Sequence[str],
    topics: Sequence[str],
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    headers: Sequence[str],
) -> Statement[Any]:
    """Dead letters for topics, only where the outcome was written, as `holds.bury` (P7)."""
    return Statement(
        """
        INSERT INTO {schema}.outbox (created_at, topic, record_key, record_value, record_headers)
        SELECT {schema}.now_ms(), t.topic, t.key, t.value, t.headers
          FROM unnest(%(ids)b::text[], %(statuses)b::text[], %(errors)b::text[], %(topics)b::text[], %(keys)b::bytea[],
                      %(values)b::bytea[], %(headers)b::text[])
                 WITH ORDINALITY AS t (id, status, error, topic, key, value, headers, place)
          JOIN {schema}.workflow_status AS w
            ON w.workflow_uuid = t.id AND w.status = t.status AND w.error = t.error
         ORDER BY t.place
        """,
        {
            "ids": ids,
            "statuses": statuses,
            "errors": errors,
            "topics": topics,
            "keys": keys,
            "values": values,
            "headers": headers,
        },
    )


def _parts(events: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """In order, of `STATEMENT_BYTES_MAX` each but for one event alone."""
    start = size = 0
    for place, event in enumerate(events):
        size += event.size
        if size > STATEMENT_BYTES_MAX and place > start:
            yield events[start:place]
            start, size = place, event.size
    if start < len(events):
        yield events[start:]


# -- the relay --

_STANDING = """
    r.outbox_name, r.epoch, r.executor_id,
    r.executor_id IS NULL OR {schema}.executor_is_gone(r.executor_id),
    r.beat, r.number, r.token, r.next_token, r.floor, r.adopts, r.halted
"""


def standing() -> Statement[StandingRow]:
    """What stands. No row in a table that somebody emptied: a claim makes another."""
    return Statement(
        "SELECT" + _STANDING + "FROM {schema}.outbox_relay AS r WHERE r.is_only",
        {},
        args_row(StandingRow),
    )


def claim(*, executor_id: ExecutorId, stuck_epoch: int, stuck_beat: int) -> Statement[StandingRow]:
    """Take the relay, epoch + 1, from nobody, from a dead executor, or from the one whose beat was seen to stand still."""
    return Statement(
        "INSERT INTO {schema}.outbox_relay AS r (epoch, executor_id) VALUES (1, %(executor)s)"
        """
            ON CONFLICT (is_only) DO UPDATE
               SET epoch = r.epoch + 1, executor_id = %(executor)s, beat = r.beat + 1
             WHERE r.executor_id IS NULL
                OR r.executor_id = %(executor)s
                OR {schema}.executor_is_gone(r.executor_id)
                OR (r.epoch = %(stuck_epoch)s AND r.beat = %(stuck_beat)s)
        RETURNING
        """ + _STANDING,
        {"executor": executor_id, "stuck_epoch": stuck_epoch, "stuck_beat": stuck_beat},
        args_row(StandingRow),
    )


def beat(*, epoch: int) -> Statement[StandingRow]:
    """Say that the relay gets on, and read what stands. No row: the claim is another's."""
    return Statement(
        "UPDATE {schema}.outbox_relay AS r SET beat = r.beat + 1 WHERE r.epoch = %(epoch)s RETURNING" + _STANDING,
        {"epoch": epoch},
        args_row(StandingRow),
    )


def release(*, epoch: int) -> Statement[Any]:
    """Give the claim up: another takes it at once."""
    return Statement(
        "UPDATE {schema}.outbox_relay SET executor_id = NULL WHERE epoch = %(epoch)s",
        {"epoch": epoch},
    )


def has_rows(*, above: int, refused: Sequence[str]) -> Statement[tuple[bool]]:
    """Whether anything waits, but for topics that Kafka refuses just now. Reads only."""
    return Statement(
        """
        -- No EXISTS, which drops the order: a table that is empty but for what a reader still sees is then read whole.
        SELECT count(*) > 0
          FROM (SELECT FROM {schema}.outbox AS o
                 WHERE o.outbox_id > %(above)s AND o.topic <> ALL (%(refused)b::text[])
                 ORDER BY o.outbox_id
                 LIMIT 1) AS first
        """,
        {"above": above, "refused": list(refused)},
    )


def fence(*, epoch: int, token: str | None, next_token: str | None) -> Statement[Any]:
    """Raises KP004 unless the claim is ours, the table is where we left it, and nothing halts it."""
    return Statement(
        "SELECT {schema}.fence_relay(%(epoch)s, %(token)s, %(next_token)s)",
        {"epoch": epoch, "token": token, "next_token": next_token},
    )


_IN_BATCH = """
        o.outbox_id >= (SELECT lower(r.batch) FROM {schema}.outbox_relay AS r)
    AND o.outbox_id < (SELECT upper(r.batch) FROM {schema}.outbox_relay AS r)
    AND o.outbox_id <@ (SELECT r.batch FROM {schema}.outbox_relay AS r)
"""
# Bounds first: the planner knows no index for the multirange.


def delete_batch() -> Statement[Any]:
    """The rows of the batch: it is published."""
    return Statement("DELETE FROM {schema}.outbox AS o WHERE" + _IN_BATCH, {})


def form(
    *,
    is_published: bool,
    token: str,
    above: int,
    floor: int,
    refused: Sequence[str],
    rows_max: int,
    bytes_max: int,
) -> Statement[FormedRow]:
    """Put the next rows, in the order of their IDs, into a batch of this token.

    Args:
        is_published: Whether the batch that stands is, and its rows are deleted; else it is formed anew.
        token: Of the new batch.
        above: Rows at or below it are not looked for.
        floor: To be stored.
        refused: Topics that Kafka refuses just now.
        rows_max: Most rows.
        bytes_max: Most bytes, unless one row alone has more.
    """
    return Statement(
        """
        UPDATE {schema}.outbox_relay AS r
           SET number = r.number + %(published)s::integer,
               token = CASE WHEN %(published)s THEN r.next_token ELSE r.token END,
               next_token = CASE WHEN n.count > 0 THEN %(token)s END,
               batch = n.batch,
               floor = %(floor)s,
               beat = r.beat + 1
          FROM (SELECT count(*)::integer AS count,
                       max(t.outbox_id) AS last_id,
                       min(t.outbox_id) AS first_id,
                       COALESCE(range_agg(int8range(t.outbox_id, t.outbox_id, '[]')), '{}') AS batch,
                       bool_or(t.found = %(rows_max)s) OR count(*) < max(t.found) AS is_cut
                  FROM (SELECT s.outbox_id, s.place, s.bytes, s.found
                          FROM (SELECT l.outbox_id,
                                       row_number() OVER (ORDER BY l.outbox_id) AS place,
                                       sum(l.size) OVER (ORDER BY l.outbox_id) AS bytes,
                                       count(*) OVER () AS found
                                  FROM (SELECT o.outbox_id,
                                               octet_length(COALESCE(o.record_key, ''))
                                               + octet_length(COALESCE(o.record_value, ''))
                                               + octet_length(COALESCE(o.record_headers, '')) AS size
                                          FROM {schema}.outbox AS o
                                         WHERE o.outbox_id > %(above)s
                                           AND o.topic <> ALL (%(refused)b::text[])
                                         ORDER BY o.outbox_id
                                         LIMIT %(rows_max)s) AS l) AS s
                         WHERE s.place = 1 OR s.bytes <= %(bytes_max)s) AS t) AS n
         WHERE r.is_only
        RETURNING n.count, n.last_id, COALESCE(n.is_cut, false), pg_current_xact_id()::text::bigint,
                  pg_snapshot_xmin(pg_current_snapshot())::text::bigint, COALESCE(n.first_id <= %(floor)s, false)
        """,
        {
            "published": is_published,
            "token": token,
            "above": above,
            "floor": floor,
            "refused": list(refused),
            "rows_max": rows_max,
            "bytes_max": bytes_max,
        },
        args_row(FormedRow),
    )


def batch() -> Statement[OutboxRow]:
    """The rows of the batch, in order."""
    return Statement(
        """
        SELECT o.outbox_id, o.created_at, o.topic, o.record_key, o.record_value, o.record_headers
          FROM {schema}.outbox AS o
         WHERE
        """
        + _IN_BATCH
        + "ORDER BY o.outbox_id",
        {},
        args_row(OutboxRow),
    )


def adopt(*, number: int, token: str | None) -> Statement[Any]:
    """Go on from Kafka's position, whatever the table said: every row that stands is to be published."""
    return Statement(
        """
        UPDATE {schema}.outbox_relay
           SET number = %(number)s, token = %(token)s, next_token = NULL, batch = '{}', floor = 0, adopts = false
        """,
        {"number": number, "token": token},
    )


def halt(*, epoch: int, reason: str) -> Statement[tuple[str]]:
    """Write why it does not go on. No row: the claim is another's."""
    return Statement(
        """
        UPDATE {schema}.outbox_relay
           SET halted = %(reason)s, halted_at = {schema}.now_ms()
         WHERE epoch = %(epoch)s AND halted IS NULL
        RETURNING halted
        """,
        {"epoch": epoch, "reason": reason},
    )


# -- for operators --


def depth(*, count_max: int) -> Statement[DepthRow]:
    """Rows that wait, at most `count_max` of them, and since when the first does. A batch under way counts as well."""
    return Statement(
        """
        SELECT (SELECT count(*)
                  FROM (SELECT FROM {schema}.outbox AS o WHERE o.outbox_id >= f.first LIMIT %(count_max)s) AS counted),
               (SELECT o.created_at FROM {schema}.outbox AS o WHERE o.outbox_id >= f.first
                 ORDER BY o.outbox_id LIMIT 1),
               f.halted
          FROM (SELECT LEAST(r.floor + 1, lower(r.batch)) AS first, r.halted
                  FROM {schema}.outbox_relay AS r) AS f
        """,
        {"count_max": count_max},
        args_row(DepthRow),
    )


def rows(*, topic: str | None, after: int, limit: int) -> Statement[OutboxRow]:
    """What waits, oldest first."""
    return Statement(
        """
        SELECT o.outbox_id, o.created_at, o.topic, o.record_key, o.record_value, o.record_headers
          FROM {schema}.outbox AS o
         WHERE o.outbox_id > %(after)s
           AND (%(topic)s::text IS NULL OR o.topic = %(topic)s)
         ORDER BY o.outbox_id
         LIMIT %(limit)s
        """,
        {"topic": topic, "after": after, "limit": limit},
        args_row(OutboxRow),
    )


def discard(*, ids: Sequence[int]) -> Statement[tuple[int, str]]:
    """Delete rows, and take them out of the batch; a claim behind it sees to it that no relay holds them in memory."""
    return Statement(
        """
        WITH dropped AS (
            DELETE FROM {schema}.outbox AS o
             WHERE o.outbox_id = ANY (%(ids)b::bigint[])
            RETURNING o.outbox_id, o.topic
        ), taken_out AS (
            UPDATE {schema}.outbox_relay AS r
               SET batch = r.batch - d.ids, epoch = r.epoch + 1, executor_id = NULL
              FROM (SELECT COALESCE(range_agg(int8range(x.outbox_id, x.outbox_id, '[]')), '{}') AS ids
                      FROM dropped AS x) AS d
        )
        SELECT x.outbox_id, x.topic FROM dropped AS x ORDER BY x.outbox_id
        """,
        {"ids": list(ids)},
    )


def rename() -> Statement[tuple[str]]:
    """Another name in Kafka, under which nothing was ever published. What stands in the table is."""
    return Statement(
        """
        UPDATE {schema}.outbox_relay
           SET outbox_name = gen_random_uuid()::text, epoch = epoch + 1, executor_id = NULL, number = 0, token = NULL,
               next_token = NULL, batch = '{}', floor = 0, adopts = false, halted = NULL, halted_at = NULL
        RETURNING outbox_name
        """,
        {},
    )


def resume() -> Statement[tuple[str]]:
    """Lift a halt: whoever claims next adopts Kafka's position."""
    return Statement(
        """
        UPDATE {schema}.outbox_relay AS r
           SET halted = NULL, halted_at = NULL, adopts = true, epoch = r.epoch + 1, executor_id = NULL
          FROM (SELECT o.halted FROM {schema}.outbox_relay AS o FOR UPDATE) AS former
         WHERE r.halted IS NOT NULL
        RETURNING former.halted
        """,
        {},
    )
