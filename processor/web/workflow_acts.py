"""The admin API's acts that put workflows right: resume, restart, fork, delete; and the versions of their code."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from pydantic import Field
from starlette.requests import Request

from engine import acts, forks, inspection
from engine.acts import Acted, Refusal
from engine.engine import Engine
from engine.errors import WorkflowNotFoundError
from processor.web.admin import Limit, Text
from processor.web.guard import caller_of
from processor.web.models import Done, Reason
from processor.web.models_services import Forked, KnownVersion
from processor.web.problems import Problem
from processor.web.statements import Statements

NewId = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
Version = Annotated[str, Field(min_length=1, max_length=200)]


class Resumption(Reason):
    """Which code is to go on with it: that which it had, unless it is said."""

    version: Version | None = None


class Fork(Resumption):
    """From which step on, and under which ID: a UUID, unless it is said; the same again is the same fork."""

    from_step: int = Field(ge=1, le=2**31 - 1)
    new_id: NewId | None = None


class WorkflowActs:
    """Answers operators who put workflows right.

    Args:
        engine: Which looks for what is put back to work.
        statements: Through which the database is acted on.
    """

    def __init__(self, engine: Callable[[], Engine], statements: Statements) -> None:
        self._engine = engine
        self._db = statements

    async def versions(self, name: Text | None = None, limit: Limit = 100) -> list[KnownVersion]:
        """Versions of the code, who has them, and how many workflows are under way in each."""
        rows = await self._db.read(lambda c, schema: inspection.list_versions(c, schema, name=name, limit=limit))
        return [KnownVersion.of(row) for row in rows]

    async def resume(self, workflow_id: str, http__request: Request, resumption: Resumption) -> Done:
        """Put one that was cancelled, failed or given up back to work, behind its recorded steps."""
        actor = caller_of(http__request).actor
        acted = await self._db.act(
            lambda c, schema: acts.resume(
                c, schema, [workflow_id], version=resumption.version, actor=actor, note=resumption.note
            )
        )
        self._engine().look_for_rows()
        return _done(workflow_id, acted)

    async def restart(self, workflow_id: str, http__request: Request, resumption: Resumption) -> Forked:
        """Begin one anew under another ID, by the newest code."""
        actor = caller_of(http__request).actor
        new_id = await self._db.act(
            lambda c, schema: forks.restart(
                c, schema, workflow_id, version=resumption.version, actor=actor, note=resumption.note
            )
        )
        self._engine().look_for_rows()
        return Forked(workflow_id=new_id)

    async def fork(self, workflow_id: str, http__request: Request, fork: Fork) -> Forked:
        """Begin one once more from a step on, under another ID."""
        actor = caller_of(http__request).actor
        new_id = await self._db.act(
            lambda c, schema: forks.fork(
                c,
                schema,
                workflow_id,
                from_step=fork.from_step,
                new_id=fork.new_id,
                version=fork.version,
                actor=actor,
                note=fork.note,
            )
        )
        self._engine().look_for_rows()
        return Forked(workflow_id=new_id)

    async def delete(self, workflow_id: str, http__request: Request, reason: Reason, children: bool = False) -> Done:
        """Delete one that has ended, with its history; not one of a record. `children`: also what it started, all or none."""
        actor = caller_of(http__request).actor
        acted = await self._db.act(
            lambda c, schema: acts.delete(c, schema, [workflow_id], children=children, actor=actor, note=reason.note)
        )
        return _done(workflow_id, acted)


def _done(workflow_id: str, acted: Acted) -> Done:
    if (refusal := acted.refused.get(workflow_id)) is Refusal.UNKNOWN:
        raise WorkflowNotFoundError(workflow_id)
    if acted.refused:
        said = refusal or next(iter(acted.refused.values()))
        raise Problem(HTTPStatus.CONFLICT, f"workflow {workflow_id}: {said}")
    return Done(bool(acted.done))


__all__ = ["WorkflowActs"]
