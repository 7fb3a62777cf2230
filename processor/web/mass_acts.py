"""The admin API's acts on many: workflows and dead letters that pass a filter, or are named. And another payload for a dead letter.

Without `yes` an act only says which they would be. Bodies bound how many; whoever has more asks again: the oldest come first, and what was
done fits no more.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AwareDatetime, BaseModel, Field, model_validator
from starlette.requests import Request

from engine import acts
from engine.dead_letters import opened, show
from engine.edits import edit
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.listing import WorkflowFilter
from engine.states import WorkflowStatus
from processor.edits import check_of
from processor.mass_acts import Act, LetterAct, act_on_letters, act_on_workflows, fitting, open_letters
from processor.web.admin import BIGINT_MAX, Whole, given
from processor.web.guard import caller_of
from processor.web.models import Asked, Reason
from processor.web.problems import Problem
from processor.web.statements import Statements
from processor.web.workflow_acts import Version

if TYPE_CHECKING:
    from processor.app import App

MANY_MAX = 1_000
"""Of one request: two transactions of workflows, whose locks others wait for."""

LETTERS_MAX = 200
"""Of one request: one transaction, whose locks keep a key's owner waiting."""

Text = Annotated[str, Field(max_length=512)]


class Workflows(Asked):
    """Those named, or those that pass everything that is given; a filter that says nothing chooses nobody, but for `every`."""

    ids: list[Text] = Field(default=[], max_length=MANY_MAX)
    status: list[WorkflowStatus] | None = Field(default=None, max_length=len(WorkflowStatus))
    name: Text | None = None
    version: Text | None = None
    queue: Text | None = None
    executor: Text | None = None
    user: Text | None = None
    prefix: Text | None = None
    parent: Text | None = None
    forked_from: Text | None = None
    created_from: AwareDatetime | None = None
    created_before: AwareDatetime | None = None
    every: bool = False

    def filter(self) -> WorkflowFilter:
        """For the list."""
        names = set(type(self).model_fields) - {"ids", "every"}
        return WorkflowFilter(**{name: getattr(self, name) for name in names})


class OnMany(Reason):
    """To which, at most how many, and whether it is to be done."""

    which: Workflows
    limit: int = Field(default=100, ge=1, le=MANY_MAX)
    yes: bool = False


class CancelMany(OnMany):
    """`interrupt`: also async steps that run; `children`: also what they started."""

    interrupt: bool = False
    children: bool = False


class ResumeMany(OnMany):
    """`version`: of the code that is to go on with them."""

    version: Version | None = None


class DeleteMany(OnMany):
    """`children`: also what they started."""

    children: bool = False


class Letters(Asked):
    """Those named, or the open ones that pass everything that is given; a filter that says nothing chooses nobody, but for `every`."""

    ids: list[Annotated[int, Field(ge=1, le=BIGINT_MAX)]] = Field(default=[], max_length=LETTERS_MAX)
    group: Text | None = None
    topic: Text | None = None
    handler: Text | None = None
    reason: Text | None = None
    every: bool = False


class OnLetters(Reason):
    """To which, at most how many, and whether it is to be done."""

    which: Letters
    limit: int = Field(default=100, ge=1, le=LETTERS_MAX)
    yes: bool = False


class Refused(BaseModel):
    """One that it was not done to, and why."""

    id: str
    why: str


class Acted(BaseModel):
    """To whom it was done, or would be; and whoever was refused. `new_ids`: of those begun anew."""

    done: bool
    ids: Sequence[str]
    refused: Sequence[Refused]
    new_ids: dict[str, str] = {}


class Payload(Reason):
    """One of `value` (text), `value_base64` (bytes) or `tombstone`. `check`: by the handler's own type, which also says its key."""

    value: str | None = None
    value_base64: str | None = None
    tombstone: bool = False
    check: bool = True
    keep_steps: bool = False
    dry_run: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.value is not None) + (self.value_base64 is not None) + self.tombstone != 1:
            raise ValueError("one of value, value_base64 and tombstone")
        return self

    def given(self) -> bytes | None:
        """The payload."""
        if self.value is not None:
            return self.value.encode()
        try:
            return None if self.value_base64 is None else b64decode(self.value_base64, validate=True)
        except Base64Error as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"value_base64: {error}") from None


class EditedLetter(BaseModel):
    """A workflow that is back to work with another payload, or would be; `steps`: that had succeeded with the former one."""

    done: bool
    workflow_id: str
    steps: int


class MassActs:
    """Answers operators who act on many.

    Args:
        app: Whose handlers check payloads.
        engine: Which looks for what is put back to work.
        statements: Through which the database is acted on.
    """

    def __init__(self, app: "App", engine: Callable[[], Engine], statements: Statements) -> None:
        self._app = app
        self._engine = engine
        self._db = statements

    # -- workflows --

    async def cancel(self, http__request: Request, many: CancelMany) -> Acted:
        """Cancel those that have not ended."""
        return await self._on(Act.CANCEL, http__request, many, interrupt=many.interrupt, children=many.children)

    async def resume(self, http__request: Request, many: ResumeMany) -> Acted:
        """Put those that were cancelled, failed or given up back to work, behind their recorded steps."""
        return await self._on(Act.RESUME, http__request, many, version=many.version)

    async def restart(self, http__request: Request, many: ResumeMany) -> Acted:
        """Begin them anew under other IDs, by the newest code."""
        return await self._on(Act.RESTART, http__request, many, version=many.version)

    async def delete(self, http__request: Request, many: DeleteMany) -> Acted:
        """Delete those that have ended, with their histories; not those of records."""
        return await self._on(Act.DELETE, http__request, many, children=many.children)

    async def _on(
        self,
        act: Act,
        request: Request,
        many: OnMany,
        *,
        interrupt: bool = False,
        children: bool = False,
        version: str | None = None,
    ) -> Acted:
        note, actor, which, chosen = given(many), caller_of(request).actor, many.which, many.which.filter()
        _check_one_way(named=bool(which.ids), chosen=bool(chosen.given() or which.every))
        ids = which.ids or await self._db.read(lambda c, schema: fitting(c, schema, act, chosen, limit=many.limit))
        if not many.yes:
            return Acted(done=False, ids=ids, refused=())
        if act is Act.CANCEL and children and ids:
            ids = await self._db.read(lambda c, schema: acts.family(c, schema, ids))
        acted, new_ids = await self._db.act(
            lambda c, schema: act_on_workflows(
                c,
                schema,
                act,
                ids,
                actor=actor,
                note=note,
                interrupt=interrupt,
                children=children,
                version=version,
            )
        )
        self._engine().look_for_rows()
        refused = [Refused(id=each, why=why) for each, why in acted.refused.items()]
        return Acted(done=bool(acted.done), ids=acted.done, refused=refused, new_ids=new_ids)

    # -- dead letters --

    async def retry(self, http__request: Request, many: OnLetters) -> Acted:
        """Put them back to work, behind what is open of their keys, with their recorded steps."""
        return await self._on_letters(LetterAct.RETRY, http__request, many)

    async def discard(self, http__request: Request, many: OnLetters) -> Acted:
        """Give them up for good; a key that one blocks goes on."""
        return await self._on_letters(LetterAct.DISCARD, http__request, many)

    async def _on_letters(self, act: LetterAct, request: Request, many: OnLetters) -> Acted:
        note, actor, which = given(many), caller_of(request).actor, many.which
        named = {"group": which.group, "topic": which.topic, "handler": which.handler, "reason": which.reason}
        chosen = {name: value for name, value in named.items() if value is not None}
        _check_one_way(named=bool(which.ids), chosen=bool(chosen or which.every))
        ids = which.ids or await self._db.read(lambda c, schema: open_letters(c, schema, chosen, limit=many.limit))
        if not many.yes:
            return Acted(done=False, ids=[*map(str, ids)], refused=())
        refused = await self._db.act(
            lambda c, schema: act_on_letters(c, schema, act, ids, actor=actor, note=note, all_or_none=bool(which.ids))
        )
        done = [str(each) for each in ids if each not in refused]
        why = [Refused(id=str(each), why=reason) for each, reason in refused.items()]
        return Acted(done=bool(done), ids=done, refused=why)

    async def edit(self, dead_letter_id: Whole, http__request: Request, payload: Payload) -> EditedLetter:
        """Put one back to work with another payload, under the same ID. The letter keeps the record as it came."""
        note, actor, value = given(payload), caller_of(http__request).actor, payload.given()
        settings, payloads = self._engine().settings, self._engine().payloads
        letter = opened(await self._db.read(lambda c, schema: show(c, schema, dead_letter_id)), payloads)
        if value == letter.record_value:
            raise Problem(HTTPStatus.CONFLICT, "the payload is what it was: retry runs it again")
        try:
            check = check_of(self._app, letter.handler, unchecked="say check: false") if payload.check else None
            done = await self._db.act(
                lambda c, schema: edit(
                    c,
                    schema,
                    dead_letter_id,
                    value,
                    payloads=payloads,
                    inputs_inline_max=settings.inputs_inline_max,
                    note=note,
                    actor=actor,
                    check=check,
                    keep_steps=payload.keep_steps,
                    dry_run=payload.dry_run,
                )
            )
        except ConfigurationError as error:
            raise Problem(HTTPStatus.CONFLICT, str(error)) from None
        return EditedLetter(done=not payload.dry_run, workflow_id=done.workflow_id, steps=done.steps)


def _check_one_way(*, named: bool, chosen: bool) -> None:
    if named == chosen:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "which: IDs or a filter, not both; or say `every`")


__all__ = ["MassActs"]
