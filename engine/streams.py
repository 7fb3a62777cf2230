"""Streams: values that a workflow, or a step of it, writes one after the other, for whoever knows its ID (P31).

    write ─▶ checkpoint; effect: the value at the next offset ─▶ goes on at once
    read  ─▶ what is there from an offset on ─▶ else in memory or at rest until more is written
                                                ends where it is closed, or its workflow has ended

Offsets count from 0 without gaps: they are given in the commit, behind the lock of the workflow's row.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.clock import now_ms
from engine.current import CurrentStep
from engine.effects import Placed, Rows, add, admit
from engine.errors import StreamClosedError, WorkflowNotFoundError
from engine.events import signals_of
from engine.failures import decode_error
from engine.given_errors import record_error
from engine.messages import LARGE, UNDURABLE_MAX
from engine.sealed_rows import Seal
from engine.signals import FOREVER_MS, Signal
from engine.states import OPEN
from engine.step_writes import write
from engine.store import streams as store
from engine.store.operation_outputs import Checkpoint
from engine.store.statement import Statement, send
from engine.store.streams import StreamRow
from engine.timers import waits_of
from engine.unreadable import once_readable
from engine.weather import through_weather

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.reach import Reach
    from engine.runner import Run

WRITE_STREAM, CLOSE_STREAM, READ_STREAM = "DBOS.writeStream", "DBOS.closeStream", "DBOS.readStream"

CLOSED = "__DBOS_STREAM_CLOSED__"
"""The last value of a stream that was closed, as the seed's clients write and read it."""
CLOSED_TEXT = json.dumps(CLOSED)

CHUNK_MAX = 100
"""Values that are read at once; in a workflow, by one checkpoint."""
CHUNK_BYTES_MAX = 1 << 20
"""The same in bytes; one value may be larger."""


@dataclass(frozen=True, slots=True)
class Written:
    """A value that comes with a checkpoint of its workflow's."""

    workflow_id: str
    key: str
    text: str

    @property
    def touches(self) -> Sequence[str]:
        """Its workflow: the next offset is nobody else's, and whoever goes to rest until there is more has looked or is seen."""
        return (self.workflow_id,)

    @property
    def wakes(self) -> Sequence[Signal]:
        """Whoever reads."""
        return (Signal("stream", self.workflow_id, self.key),)

    @classmethod
    def statement(cls, engine: Engine, placed: Sequence[Placed]) -> Statement[Any]:
        """The next offsets, in order."""
        values = [each.effect for each in placed if isinstance(each.effect, Written)]
        return store.write_recorded(
            ids=[each.run.id for each in placed],
            function_ids=[each.function_id for each in placed],
            keys=[value.key for value in values],
            values=[_sealed(value.text, engine.payloads.seal) for value in values],
        )

    @classmethod
    def applied(cls, engine: Engine, placed: Sequence[Placed], rows: Rows) -> None:
        """Tell who reads elsewhere."""
        del rows
        engine.hints.brought(signal for each in placed for signal in each.effect.wakes)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some values of a stream, in order, as JSON texts; `is_last`: none will follow."""

    values: Sequence[str]
    is_last: bool

    def encode(self) -> str:
        """As a checkpoint has it."""
        return f'{{"values": [{", ".join(self.values)}], "is_last": {json.dumps(self.is_last)}}}'

    @classmethod
    def decode(cls, text: str) -> Chunk:
        """What a checkpoint says."""
        stored = json.loads(text)
        return cls([json.dumps(value, ensure_ascii=False) for value in stored["values"]], stored["is_last"])


# -- writing --


def write_stream(run: Run, key: str, text: str) -> Coroutine[Any, Any, None]:
    """Write from a workflow: remembered, and it goes on at once; the value comes with the next flush.

    Raises:
        StreamClosedError: This workflow has closed the stream.
        Suspended: The run may not go on here.
    """
    _require_open(run, key)
    return _written(run, run.next_function_id(WRITE_STREAM), WRITE_STREAM, Written(run.id, key, text))


def close_stream(run: Run, key: str) -> Coroutine[Any, Any, None]:
    """Close a stream from its workflow: remembered; whoever reads it comes to its end. Raises as `write_stream`."""
    _require_open(run, key)
    function_id = run.next_function_id(CLOSE_STREAM)
    run.closed_streams = {*(run.closed_streams or ()), key}
    return _written(run, function_id, CLOSE_STREAM, Written(run.id, key, CLOSED_TEXT))


async def _written(run: Run, function_id: int, name: str, value: Written) -> None:
    if run.history is not None and function_id in run.history:
        return
    started = now_ms()
    await admit(run, undurable_max=0 if len(value.text) > LARGE else UNDURABLE_MAX)
    add(run, function_id, value)
    run.checkpoint(Checkpoint(run.id, function_id, name, "null", None, started, now_ms()))


async def write_in_step(run: Run, step: CurrentStep, key: str, text: str) -> None:
    """Write from a step: durable when it returns, in a commit before the step's own, and again when the step runs again."""
    _require_open(run, key)
    value = _sealed(text, run.home.seal)
    writing = store.write_in_step(workflow_id=run.id, function_id=step.function_id, key=key, value=value)
    await write(run, writing, Signal("stream", run.id, key))


def _sealed(text: str, seal: Seal | None) -> str:
    """As its row has it. The end of a stream says nothing, and is readable."""
    return text if seal is None or text == CLOSED_TEXT else seal(text)


def _require_open(run: Run, key: str) -> None:
    """The code says so itself, in every replay: what is written behind the end would be read by nobody."""
    if run.closed_streams and key in run.closed_streams:
        raise StreamClosedError(run.id, key)


# -- reading --


def read_in_workflow(run: Run, workflow_id: str, key: str, offset: int) -> Coroutine[Any, Any, Chunk]:
    """What comes next of another workflow's stream, remembered.

    Raises:
        WorkflowNotFoundError: There is no such workflow; remembered as well.
        Suspended: The workflow rests until there is more, or may not go on here.
    """
    return _chunk_in_workflow(run, run.next_function_id(READ_STREAM), workflow_id, key, offset)


async def _chunk_in_workflow(run: Run, function_id: int, workflow_id: str, key: str, offset: int) -> Chunk:
    if run.history is not None and (recorded := run.history.get(function_id)) is not None:
        if recorded.error is not None:
            run.error_given = True
            raise decode_error(recorded.error)
        assert recorded.output is not None, "a chunk is recorded"
        return Chunk.decode(recorded.output)
    started = now_ms()
    try:
        chunk = await once_readable(run, lambda: _awaited(run, workflow_id, key, offset))
    except WorkflowNotFoundError as error:
        raise record_error(run, function_id, READ_STREAM, error, started) from None
    await admit(run, undurable_max=UNDURABLE_MAX)
    output = chunk.encode()
    run.checkpoint(Checkpoint(run.id, function_id, READ_STREAM, output, None, started, now_ms()))
    return Chunk.decode(output)  # what every replay gets


async def _awaited(run: Run, workflow_id: str, key: str, offset: int) -> Chunk:
    while True:
        if not run.is_ready():
            await run.ready()  # a child's row comes with a flush of ours
        if (chunk := await _look(run.home.engine, workflow_id, key, offset)) is not None:
            return chunk
        await waits_of(run).until(run, FOREVER_MS, signals_of(Signal("stream", workflow_id, key, offset)))


async def read_outside(reach: Reach, workflow_id: str, key: str, offset: int) -> Chunk:
    """What comes next of a stream, once there is more, or it has ended.

    Raises:
        WorkflowNotFoundError: There is no such workflow.
        UnreadablePayloadError: A value cannot be opened here.
    """
    while (chunk := await _look(reach, workflow_id, key, offset)) is None:
        await reach.waits.outside(signals_of(Signal("stream", workflow_id, key, offset)), None)
    return chunk


async def _look(reach: Reach, workflow_id: str, key: str, offset: int) -> Chunk | None:
    """What is there from an offset on; `None`: nothing yet."""
    reading = store.read(workflow_id=workflow_id, key=key, offset=offset, limit=CHUNK_MAX, bytes_max=CHUNK_BYTES_MAX)

    async def read() -> list[StreamRow]:
        async with reach.pool.connection() as connection:
            return await (await send(connection, reach.settings.schema, reading)).fetchall()

    while not (rows := await through_weather(read)):
        await reach.results.look(workflow_id)
    where = f"workflow {workflow_id}: stream {key!r}, offset"
    values = [reach.payloads.open(row.value, f"{where} {row.offset}") for row in rows if row.value is not None]
    if CLOSED_TEXT in values:
        return Chunk(values[: values.index(CLOSED_TEXT)], is_last=True)
    if values:
        return Chunk(values, is_last=False)
    return None if rows[0].status in OPEN else Chunk((), is_last=True)
