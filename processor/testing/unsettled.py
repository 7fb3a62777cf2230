"""What a bench still waits for: every reason why it is not settled."""

from collections.abc import Iterable, Mapping

from engine.engine import Engine
from engine.ids import SourceRef
from engine.records import Record
from engine.runner import Phase
from engine.source import Source


def reasons(
    engine: Engine,
    sources: Mapping[SourceRef, Source],
    claiming: Iterable[SourceRef],
    log: Mapping[SourceRef, list[Record]],
) -> list[str]:
    """Nothing where all workflows have ended, or wait for an operator or a retry's time."""
    left: list[str] = []
    if waiting := list(claiming):
        left.append(f"claims of {', '.join(map(str, waiting))}")
    for ref, source in sources.items():
        if source.held is not None:
            continue
        if source.is_gone:
            left.append(f"{ref}: gone")
            continue
        left += _of(source)
        records = log.get(ref, [])
        if not left and records and source.progress.next <= records[-1].offset and not source.inbox.runs:
            left.append(f"{ref}: progress {source.progress.next} of {records[-1].offset + 1}")
    if len(engine.late):
        left.append(f"{len(engine.late)} late runs")
    commons = engine.commons
    left += [f"{run.id}: {run.phase.value}" for run in commons.runs.values()]
    if commons.has_work or commons.coming:
        left.append("workflows without a source wait for a flush")
    return left


async def due(engine: Engine) -> list[str]:
    """Workflows without a source that this engine runs, or takes at its next look, which comes now; ticks alike.

    What makes rows is asked before the rows are: a tick that becomes one meanwhile is met there.
    """
    if ticks := engine.scheduler.unsettled():
        engine.scheduler.hint()
    left = [f"schedule {name}: due" for name in ticks]
    queued = await engine.dispatcher.unsettled()
    left += [f"{workflow_id}: its queue's turn" for workflow_id in queued]
    rows = await engine.recovery.unsettled()
    left += [f"{workflow_id}: due" for workflow_id in rows]
    if queued or rows:
        engine.scan.hint()
    return left


def _of(source: Source) -> list[str]:
    inbox = source.inbox
    left: list[str] = []
    if inbox.backlog or inbox.rows.looking or inbox.group or source.has_work:
        why = f": {inbox.undecided.reason}" if inbox.undecided.reason else ""
        left.append(f"{source.ref}: {len(inbox.backlog)} records wait{why}")
    resting = {run.key for run in inbox.keys.holders() if run.phase is Phase.WAITING and run.wake_at}
    for run in inbox.runs.values():
        if run.key is not None and (run.key in inbox.keys.blocked or run.key in resting):
            continue
        if run.phase is Phase.WAITING and run.wake_at:
            continue
        left.append(f"{run.id}: {run.phase.value}")
    return left
