"""The first rows of workflows, as one statement: columns of however many records one flush gives their rows. Pure.

Nearly every record's row comes with its success. Then most columns say the same of all rows of a flush, and are not
computed one by one: of a record in a batch of a thousand this costs a third of what a tuple a row did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.handlers import REFUSED
from engine.identity import NOBODY, Origin
from engine.rows import row_texts
from engine.runner import Ending, Row, Run
from engine.sealed_rows import outcome, sealed_texts
from engine.states import WorkflowStatus
from engine.store import workflow_status

if TYPE_CHECKING:
    from engine.flush import Work
    from engine.ids import ExecutorId
    from engine.store.statement import Statement

NOT_EMBEDDED = REFUSED | {"unstorable"}
"""Reasons of dead letters whose bytes are stored raw, since they are not what their topic says."""


def first_rows(works: Sequence[Work], executor_id: ExecutorId, inputs_inline_max: int) -> Statement[Any]:
    """The INSERT of these works' rows."""
    count = len(works)
    runs = [work.run for work in works]
    handlers = [run.inbox.handler for run in runs]
    seal = runs[0].home.seal
    texts = [_texts(work.run, work.ending) for work in works]
    if all(work.is_plain for work in works):
        statuses = [WorkflowStatus.SUCCESS.value] * count
        outputs = [work.ending.output for work in works]  # pyright: ignore[reportOptionalMemberAccess]  # it has succeeded
        errors = owners = attempts = wakes = [None] * count
    else:
        endings = [work.ending for work in works]
        statuses = [WorkflowStatus.PENDING if ending is None else ending.status for ending in endings]
        outputs = [ending and ending.output for ending in endings]
        errors = [ending and ending.error for ending in endings]
        owners = [_owner(work) for work in works]
        attempts = [ending and ending.attempt for ending in endings]
        wakes = [ending and ending.wake_at for ending in endings]
    origins = [_origin(run) for run in runs] if runs[0].home.engine.has_origins else None
    if seal is not None:
        sealed = [outcome(work.ending, seal) for work in works]
        outputs, errors = [output for output, _ in sealed], [error for _, error in sealed]
    return workflow_status.insert(
        executor_id=executor_id,
        ids=[run.id for run in runs],
        statuses=statuses,
        names=[handler.name for handler in handlers],
        versions=[handler.version for handler in handlers],
        requests=[request for request, _ in texts],
        inputs=[inputs for _, inputs in texts],
        outputs=outputs,
        errors=errors,
        owners=owners,
        sources=[run.inbox.source_name for run in runs],
        offsets=[run.offset for run in runs],
        keys=[run.key for run in runs],
        starts=[run.started_ms or None for run in runs],
        attempts=attempts,
        wakes=wakes,
        origins=origins,
        inputs_inline_max=inputs_inline_max,
    )


def _texts(run: Run, ending: Ending | None) -> tuple[str, str]:
    """`request` and `inputs`."""
    record, handler = run.record, run.inbox.handler
    assert record is not None, "a run without a row has its record"
    embeds = handler.format.embeds_json and (ending is None or ending.reason not in NOT_EMBEDDED)
    if (seal := run.home.seal) is not None:
        return sealed_texts(record, embeds_json=embeds, stored_headers=handler.stored_headers, seal=seal)
    return row_texts(record, embeds_json=embeds, stored_headers=handler.stored_headers)


def _origin(run: Run) -> Origin:
    record, origin = run.record, run.inbox.handler.origin
    return NOBODY if origin is None or record is None else origin(record)


def _owner(work: Work) -> str | None:
    is_open = work.ending is None or not work.ending.is_final
    return work.run.owner if is_open and work.row_after is Row.RUNNING else None
