"""What commits publish: events of workflows, which come with a checkpoint (P31), of fused handlers, and dead letters.

    publish in a workflow ─▶ checkpoint; effect: its event ─▶ the workflow goes on at once ─▶ flush: both, or neither

The rows are a transaction's last statements, all behind one lock of all their keys: those lanes are held until COMMIT,
and nothing may be waited for behind them (decision 0008).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from engine.clock import now_ms
from engine.dead_letter_events import dead_letter_event
from engine.effects import Placed, Rows, add, admit
from engine.errors import NotYet
from engine.failures import decode_error
from engine.given_errors import record_error
from engine.outgoing import EventTopic, GivenHeaders, Outgoing, PublishError, headers_column, outgoing
from engine.sealed_rows import outcome
from engine.store import outbox
from engine.store.operation_outputs import Checkpoint
from engine.timers import waits_of

if TYPE_CHECKING:
    from engine.effects import Extras
    from engine.engine import Engine
    from engine.flush import Flush, Work
    from engine.runner import Run
    from engine.signals import Signal
    from engine.store.statement import Statement

E = TypeVar("E")

UNDURABLE_MAX = 1_000
"""Checkpoints of one workflow that may wait for their flush before it publishes more (I10)."""

LARGE = 16 << 10
"""Bytes of an event that waits until all before it is durable, so that events in memory are few or small (I10)."""


@dataclass(frozen=True, slots=True)
class Publication:
    """An event that comes with a checkpoint."""

    event: Outgoing
    touches: Sequence[str] = ()
    wakes: Sequence[Signal] = ()

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> None:
        """None here: events come behind everything else of their transaction, with its others (`of_flush`)."""

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """The relay has something to do."""
        del placed, rows
        engine.outbox_hints.published()


def publish(
    run: Run, topic: EventTopic[E], event: E, *, headers: GivenHeaders, key: bytes | str | None
) -> Coroutine[Any, Any, None]:
    """Publish from a workflow: remembered, and it goes on at once; the event comes with the next flush.

    Raises:
        PublishError: It is refused; remembered as well.
        Suspended: The run may not go on here.
    """
    name = f"publish to {topic.name}"
    engine = run.home.engine
    bytes_max, tracing = engine.settings.event_bytes_max, engine.tracing
    encoded = partial(outgoing, topic, event, headers=headers, key=key, bytes_max=bytes_max, tracing=tracing)
    return _published(run, run.next_function_id(name), name, encoded)


async def _published(run: Run, function_id: int, name: str, encoded: Callable[[], Outgoing]) -> None:
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        return
    started = now_ms()
    try:
        event = await _once_encoded(run, encoded)
    except PublishError as error:
        await admit(run, undurable_max=UNDURABLE_MAX)
        given = record_error(run, function_id, name, error, started)
        raise given from given.__cause__
    await admit(run, undurable_max=0 if event.size > LARGE else UNDURABLE_MAX)
    add(run, function_id, Publication(event))
    run.checkpoint(Checkpoint(run.id, function_id, name, "null", None, started, now_ms()))


async def _once_encoded(run: Run, encoded: Callable[[], Outgoing]) -> Outgoing:
    """The event, once what its format needs is here: a schema registry may be away (decision 0011)."""
    while True:
        try:
            return encoded()
        except NotYet as signal:
            again_ms = max(1, int(signal.again_in.total_seconds() * 1000))
            await waits_of(run).until(run, now_ms() + again_ms)


def of_flush(flush: Flush) -> Sequence[Statement[Any]]:
    """What a flush publishes: by its fused handler, by its workflows, and dead letters."""
    buried = [work for work in flush.works if work.ending is not None and work.ending.reason]
    return publishing(buried, flush.extras, () if flush.group is None else flush.group.published())


def publishing(
    buried: Sequence[Work], extras: Extras | None = None, events: Sequence[Outgoing] = ()
) -> Sequence[Statement[Any]]:
    """The last statements of a transaction that writes these outcomes and checkpoints, and publishes these events."""
    placed: Sequence[Placed] = () if extras is None else extras.of(Publication)
    letters = [(work, event) for work in buried if (event := dead_letter_event(work)) is not None]
    if not (placed or letters):
        return outbox.publishing(events)
    recorded = [each.effect.event for each in placed if isinstance(each.effect, Publication)]
    keys = [event.key for event in (*events, *recorded, *(event for _, event in letters))]
    made = list(outbox.publishing(events, keys=keys))
    if placed:
        made += outbox.append_recorded([(each.run.id, each.function_id) for each in placed], recorded)
    if letters:
        made.append(
            outbox.append_dead_letters(
                ids=[work.run.id for work, _ in letters],
                statuses=[work.ending.status if work.ending else "" for work, _ in letters],
                errors=[outcome(work.ending, work.run.home.seal)[1] or "{}" for work, _ in letters],
                topics=[event.topic for _, event in letters],
                keys=[event.key for _, event in letters],
                values=[event.value for _, event in letters],
                headers=[headers_column(event.headers) or "[]" for _, event in letters],
            )
        )
    return made
