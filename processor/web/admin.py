"""The admin API: what stands in the database, for operators, and their acts on it. Each act is a row of `audit` with who did it.

    viewer     lists, statuses, histories without payloads          GET /admin/workflows, /admin/workflows/{id}, …
    operator   payloads; cancel, retry, pause, resume, recover      POST /admin/workflows/{id}/cancel, …
    admin      discard, release; the audit                          POST /admin/dead-letters/{id}/discard, GET /admin/audit

More acts on workflows are in `workflow_acts.py`; partitions are moved in `moves.py`; queues, schedules, retention and the outbox are in
`services.py`.

And the paths of DBOS's admin server: `/dbos-healthz` (open), `/dbos-perf`, `/dbos-workflow-recovery`.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Body, Path, Query
from pydantic import AwareDatetime, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from engine import acts, audited, dead_letters, handles, inspection, partitions
from engine.acts import Refusal, through_pool
from engine.engine import Engine
from engine.errors import WorkflowNotFoundError
from engine.listing import After, WorkflowFilter, list_workflows
from engine.partitions import Place
from engine.shown import ShownPayloads, shown_letter
from engine.states import WorkflowStatus
from processor.web.guard import caller_of
from processor.web.models import (
    Done,
    ListedWorkflow,
    Reason,
    ShownAct,
    ShownDeadLetter,
    ShownPartition,
    ShownStep,
    ShownWorkflow,
    StrandedWorkflow,
    WorkflowPage,
)
from processor.web.perf import LoopClock, Utilization
from processor.web.problems import Problem
from processor.web.statements import Statements

Value = TypeVar("Value")

PAGE_MAX = 1_000
"""Workflows, or rows of another kind, of one page."""

EXECUTORS_MAX = 1_000
BIGINT_MAX = 2**63 - 1

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Text = Annotated[str, Query(max_length=512)]
Whole = Annotated[int, Path(ge=1, le=BIGINT_MAX)]
Named = Annotated[str, Path(max_length=300)]
WithPayloads = Annotated[bool, Query(description="Also what is of users: for operators.")]


class Admin:
    """Answers operators.

    Args:
        engine: Of this process.
        statements: Through which the database is read and acted on.
    """

    def __init__(self, engine: Callable[[], Engine], statements: Statements) -> None:
        self._engine = engine
        self._clock = LoopClock()
        self._db = statements

    # -- DBOS's paths --

    async def healthz(self) -> PlainTextResponse:
        """Whether this process answers. Open to everybody."""
        return PlainTextResponse("healthy")

    async def perf(self) -> Utilization:
        """How busy the event loop of this process was since the last call, by the CPU time of its thread."""
        return self._clock.lap()

    async def recover(
        self,
        http__request: Request,
        executors: Annotated[list[Annotated[str, Field(max_length=300)]], Body(max_length=EXECUTORS_MAX)],
    ) -> list[str]:
        """Take over now what these executors ran, if they are dead: the IDs of the workflows that this process took.

        It happens by itself within a lease. One that lives keeps what it runs.
        """
        if not executors:
            return []
        return await audited.recover(self._engine(), executors, actor=caller_of(http__request).actor)

    # -- workflows --

    async def workflows(
        self,
        *,
        status: Annotated[list[WorkflowStatus] | None, Query(max_length=len(WorkflowStatus))] = None,
        name: Text | None = None,
        version: Text | None = None,
        queue: Text | None = None,
        executor: Text | None = None,
        user: Text | None = None,
        prefix: Text | None = None,
        parent: Text | None = None,
        forked_from: Text | None = None,
        created_from: AwareDatetime | None = None,
        created_before: AwareDatetime | None = None,
        after: Text | None = None,
        limit: Limit = 100,
    ) -> WorkflowPage:
        """Workflows that pass all that is given, the newest first. `prefix`: of their IDs; `after`: as the page before says."""
        behind = None if after is None else _decoded(after)
        chosen = WorkflowFilter(
            status=status,
            name=name,
            version=version,
            queue=queue,
            executor=executor,
            user=user,
            prefix=prefix,
            parent=parent,
            forked_from=forked_from,
            created_from=created_from,
            created_before=created_before,
        )
        found = await self._db.read(
            lambda c, schema: list_workflows(
                c, schema, chosen, limit=limit, after=behind, newest_first=True, payloads=None
            )
        )
        last = found[-1] if len(found) == limit else None
        return WorkflowPage(
            workflows=[ListedWorkflow.of(info) for info in found],
            after=None if last is None else _encoded(After.of(last)),
        )

    async def stranded(self, limit: Limit = 100) -> list[StrandedWorkflow]:
        """Open workflows that no live executor can run, the oldest first, and why."""
        rows = await self._db.read(lambda connection, schema: inspection.list_stranded(connection, schema, limit=limit))
        return [StrandedWorkflow.of(row) for row in rows]

    async def workflow(self, workflow_id: str, http__request: Request, payloads: WithPayloads = False) -> ShownWorkflow:
        """A workflow, as its row says. A payload whose key is not here is `{"unreadable": why}`."""
        schema, opens = self._engine().settings.schema, self._opens(http__request, payloads=payloads)
        info = await handles.read(self._db.connection, schema, opens, workflow_id)
        return ShownWorkflow.of(info, payloads=payloads)

    async def steps(self, workflow_id: str, http__request: Request, payloads: WithPayloads = False) -> list[ShownStep]:
        """What a workflow has recorded, in order. As with workflows where a key is not here."""
        schema, opens = self._engine().settings.schema, self._opens(http__request, payloads=payloads)
        found = await handles.steps(self._db.connection, schema, opens, workflow_id)
        if not found:
            await handles.read(self._db.connection, schema, None, workflow_id)  # or it does not exist
        return [ShownStep.of(step, payloads=payloads) for step in found]

    async def cancel(
        self,
        workflow_id: str,
        http__request: Request,
        reason: Reason,
        interrupt: bool = False,
        children: bool = False,
    ) -> Done:
        """Cancel a workflow, unless it has ended. `interrupt`: also its async steps, where they wait next; `children`: also
        what it started, and so on, as far as it has not ended.
        """
        note, actor, chosen = reason.note, caller_of(http__request).actor, [workflow_id]
        if children:
            chosen = await self._db.read(lambda c, schema: acts.family(c, schema, [workflow_id])) or chosen
        acted = await through_pool(
            self._engine(),
            lambda c, schema: acts.cancel(c, schema, chosen, interrupt=interrupt, actor=actor, note=note),
        )
        if acted.refused.get(workflow_id) is Refusal.UNKNOWN:
            raise WorkflowNotFoundError(workflow_id)
        return Done(bool(acted.done))

    # -- dead letters --

    async def dead_letters(
        self,
        *,
        state: Annotated[str | None, Query(pattern="^(OPEN|RETRIED|DISCARDED)$")] = "OPEN",
        group: Text | None = None,
        topic: Text | None = None,
        handler: Text | None = None,
        reason: Text | None = None,
        after: Annotated[int, Query(ge=0, le=BIGINT_MAX)] = 0,
        limit: Limit = 100,
    ) -> list[ShownDeadLetter]:
        """Dead letters, the oldest first, with an ID above `after`."""
        rows = await self._db.read(
            lambda connection, schema: dead_letters.list_dead_letters(
                connection,
                schema,
                state=state,
                group=group,
                topic=topic,
                handler=handler,
                reason=reason,
                after=after,
                limit=limit,
            )
        )
        return [ShownDeadLetter.of(row, payloads=False) for row in rows]

    async def dead_letter(
        self, dead_letter_id: Whole, http__request: Request, payloads: WithPayloads = False
    ) -> ShownDeadLetter:
        """A dead letter; with its record, as the bytes that came. As with workflows where a key is not here."""
        opens = self._opens(http__request, payloads=payloads)
        try:
            row = await self._db.read(lambda connection, schema: dead_letters.show(connection, schema, dead_letter_id))
        except dead_letters.DeadLetterError as error:
            raise Problem(HTTPStatus.NOT_FOUND, str(error)) from None
        return ShownDeadLetter.of(
            row if opens is None else shown_letter(row, self._engine().payloads), payloads=payloads
        )

    async def retry(self, dead_letter_id: Whole, http__request: Request, reason: Reason) -> Done:
        """Put the workflow of a dead letter back to work, with a reason, as the act on many does."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(
            lambda connection, schema: dead_letters.retry(connection, schema, [dead_letter_id], note=note, actor=actor)
        )
        return Done(done=True)

    async def discard(self, dead_letter_id: Whole, http__request: Request, reason: Reason) -> Done:
        """Give a dead letter up, with a reason; a key that it blocks goes on."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(
            lambda connection, schema: dead_letters.discard(
                connection, schema, [dead_letter_id], note=note, actor=actor
            )
        )
        return Done(done=True)

    # -- partitions --

    async def partitions(self, group: Text | None = None) -> list[ShownPartition]:
        """Every partition with progress, by group and name."""
        rows = await self._db.read(
            lambda connection, schema: inspection.list_partitions(connection, schema, group=group)
        )
        return [ShownPartition.of(row) for row in rows]

    async def pause(self, group: Named, partition: Named, http__request: Request, reason: Reason) -> Done:
        """Stop a partition (`topic-partition`) until it is resumed, whoever owns it."""
        note, actor = given(reason), caller_of(http__request).actor
        place = Place(group, partition)
        return Done(await self._db.act(lambda c, schema: partitions.pause(c, schema, place, note=note, actor=actor)))

    async def resume(self, group: Named, partition: Named, http__request: Request, reason: Reason) -> Done:
        """Take an operator's pause away; what else holds the partition stays."""
        note, actor, place = reason.note, caller_of(http__request).actor, Place(group, partition)
        count = await self._db.act(lambda c, schema: partitions.resume(c, schema, place, note=note, actor=actor))
        return Done(done=count > 0)

    async def release(self, group: Named, partition: Named, http__request: Request, reason: Reason) -> Done:
        """Lift every hold of a partition and of its keys."""
        note, actor, place = reason.note, caller_of(http__request).actor, Place(group, partition)
        count = await self._db.act(lambda c, schema: partitions.release(c, schema, place, note=note, actor=actor))
        return Done(done=count > 0)

    # -- the audit --

    async def audit(
        self, before: Annotated[int | None, Query(ge=0, le=BIGINT_MAX)] = None, limit: Limit = 100
    ) -> list[ShownAct]:
        """Acts of operators, by whichever way, the newest first, with an ID below `before`."""
        rows = await self._db.read(
            lambda connection, schema: audited.list_audit(connection, schema, before=before, limit=limit)
        )
        return [ShownAct.of(row) for row in rows]

    # -- inside --

    def _opens(self, request: Request, *, payloads: bool) -> ShownPayloads | None:
        """What opens payloads for a caller who asked for them; `None`: nobody did. Raises `Problem`: it is not for them."""
        if not payloads:
            return None
        check_payloads(request, payloads=payloads)
        return ShownPayloads(self._engine().payloads)


def check_payloads(request: Request, *, payloads: bool) -> None:
    """Refuse payloads to whom they are not for."""
    if payloads and not caller_of(request).sees_payloads():
        raise Problem(HTTPStatus.FORBIDDEN, "payloads take the access of operator: web.access")


def given(reason: Reason) -> str:
    """Why it is done, which must be said."""
    if not reason.note.strip():
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "note: say why; it is recorded")
    return reason.note


def _encoded(after: After) -> str:
    return urlsafe_b64encode(json.dumps(after).encode()).decode().rstrip("=")


def _decoded(text: str) -> After:
    try:
        created_ms, workflow_id = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not (isinstance(created_ms, int) and isinstance(workflow_id, str) and abs(created_ms) <= BIGINT_MAX):
            raise ValueError(text)
    except (ValueError, TypeError):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "after: as `after` of the page before has it") from None
    return After(created_ms, workflow_id)
