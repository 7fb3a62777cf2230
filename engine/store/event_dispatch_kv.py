"""Statements of `event_dispatch_kv`: progress rows of partitions (service names `kafka:…`; others are not ours)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg.rows import args_row

from engine.store.statement import Statement


class ProgressRow(NamedTuple):
    """A progress row as stored."""

    service_name: str
    key: str
    handler: str
    epoch: int
    value: str


def fence(
    *,
    services: Sequence[str],
    keys: Sequence[str],
    epochs: Sequence[int],
    held: Sequence[str],
    written: Sequence[str],
) -> Statement[Any]:
    """Advance progress by compare-and-set; raises KP001 (P5, P6). Sorted by key, so that locks have one order."""
    return Statement(
        """
        SELECT {schema}.fence_partitions(%(services)b::text[], %(keys)b::text[], %(epochs)b::bigint[],
                                         %(held)b::text[], %(written)b::text[])
        """,
        {"services": services, "keys": keys, "epochs": epochs, "held": held, "written": written},
    )


def lock(*, service: str, key: str) -> Statement[ProgressRow]:
    """One progress row, locked: a claim waits here for the flush under way (P9)."""
    return Statement(
        """
        SELECT k.service_name, k.key, k.workflow_fn_name, k.update_seq::bigint, k.value
          FROM {schema}.event_dispatch_kv AS k
         WHERE k.service_name = %(service)s AND k.service_name LIKE 'kafka:%%' AND k.key = %(key)s
           FOR UPDATE
        """,
        {"service": service, "key": key},
        args_row(ProgressRow),
    )


def read(*, services: Sequence[str], keys: Sequence[str]) -> Statement[ProgressRow]:
    """Progress rows by key."""
    return Statement(
        """
        SELECT k.service_name, k.key, k.workflow_fn_name, k.update_seq::bigint, k.value
          FROM unnest(%(services)b::text[], %(keys)b::text[]) AS t (service, key)
          JOIN {schema}.event_dispatch_kv AS k
            ON k.service_name = t.service AND k.service_name LIKE 'kafka:%%' AND k.key = t.key
        """,
        {"services": services, "keys": keys},
        args_row(ProgressRow),
    )


def of_topic(*, service: str, topic: str) -> Statement[ProgressRow]:
    """All partitions of a topic: `key` is the topic, a dash and digits only."""
    return Statement(
        """
        SELECT k.service_name, k.key, k.workflow_fn_name, k.update_seq::bigint, k.value
          FROM {schema}.event_dispatch_kv AS k
         WHERE k.service_name = %(service)s
           AND starts_with(k.key, %(prefix)s)
           AND substr(k.key, length(%(prefix)s) + 1) ~ '^[0-9]+$'
        """,
        {"service": service, "prefix": f"{topic}-"},
        args_row(ProgressRow),
    )


def write(*, service: str, key: str, handler: str, epoch: int, value: str) -> Statement[Any]:
    """Write a locked row: a claim, a seek, a renamed handler."""
    return Statement(
        """
        UPDATE {schema}.event_dispatch_kv AS k
           SET update_seq = %(epoch)s,
               value = %(value)s,
               workflow_fn_name = %(handler)s,
               update_time = EXTRACT(EPOCH FROM clock_timestamp())
         WHERE k.service_name = %(service)s AND k.service_name LIKE 'kafka:%%' AND k.key = %(key)s
        """,
        {"service": service, "key": key, "handler": handler, "epoch": epoch, "value": value},
    )


def begin(*, service: str, handler: str, keys: Sequence[str], values: Sequence[str]) -> Statement[tuple[str]]:
    """First rows of partitions; one that stands already stays as it is. Returns the keys of those that are new."""
    return Statement(
        """
        INSERT INTO {schema}.event_dispatch_kv AS k
               (service_name, workflow_fn_name, key, value, update_seq, update_time)
        SELECT %(service)s, %(handler)s, t.key, t.value, 0, EXTRACT(EPOCH FROM clock_timestamp())
          FROM unnest(%(keys)b::text[], %(values)b::text[]) AS t (key, value)
            ON CONFLICT (service_name, key) WHERE service_name LIKE 'kafka:%%' DO NOTHING
        RETURNING k.key
        """,
        {"service": service, "handler": handler, "keys": keys, "values": values},
    )


def raise_epochs(
    *, services: Sequence[str], keys: Sequence[str], epochs: Sequence[int], tokens: Sequence[str]
) -> Statement[ProgressRow]:
    """Epoch + 1 in place where it is still ours: waits for our own lost transaction, and ends its right to commit (P23).

    One epoch higher under the token of our claim is ours as well: the reply of this very statement was lost before.
    """
    return Statement(
        """
        UPDATE {schema}.event_dispatch_kv AS k
           SET update_seq = t.epoch + 1
          FROM unnest(%(services)b::text[], %(keys)b::text[], %(epochs)b::bigint[], %(tokens)b::text[])
                 AS t (service, key, epoch, token)
         WHERE k.service_name = t.service
           AND k.service_name LIKE 'kafka:%%'
           AND k.key = t.key
           AND (k.update_seq = t.epoch OR (k.update_seq = t.epoch + 1 AND k.value::json ->> 'token' = t.token))
        RETURNING k.service_name, k.key, k.workflow_fn_name, k.update_seq::bigint, k.value
        """,
        {"services": services, "keys": keys, "epochs": epochs, "tokens": tokens},
        args_row(ProgressRow),
    )
