"""The admin API of `processor lag`, `executors`, `doctor`, `verify` and `payloads`: what looks at everything, and its few acts.

    viewer     lag, executors                                   GET /admin/lag, /admin/executors
    operator   what asks all servers, reads logs or tables      GET /admin/doctor, /admin/payloads; POST /admin/verify
               whole; ends an executor whose lease is over      POST /admin/executors/{id}/end
    admin      seals every payload anew, or opens it            POST /admin/payloads/rotate

What takes long runs apart (`apart.py`), for `LONGEST` at most: a narrower range is the way to a proof of more.
"""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Query
from pydantic import Field
from starlette.requests import Request

from engine import executors
from engine.engine import Engine
from engine.errors import ConfigurationError, StoreUnavailableError
from engine.inspection import connected
from engine.payloads import Payloads
from engine.resealing import check_rotation, keys_in_use, reseal
from engine.store.effects import counted_rows
from processor.config import Settings
from processor.examination import examine
from processor.lags import lags
from processor.proofs import Effects, prove
from processor.seeking import target_of
from processor.verification import Wanted
from processor.web.admin import Named, Text, given
from processor.web.apart import Apart
from processor.web.guard import caller_of
from processor.web.models import Asked, Done, Reason
from processor.web.models_examinations import (
    Checkup,
    Rotated,
    ShownExecutor,
    ShownKey,
    ShownLag,
    ShownProof,
)
from processor.web.problems import Problem, retry_later
from processor.web.statements import Statements
from processor.wiring import engine_settings

if TYPE_CHECKING:
    from consumers.offsets import Target
    from processor.app import App

Value = TypeVar("Value")

LONGEST = timedelta(minutes=5)
"""Of a proof, or a rotation of payloads; then it is broken off."""

PARTITIONS_MAX = 1_000
SQL_NAME = r"[A-Za-z_][A-Za-z0-9_$]*"

Offset = Annotated[str, Field(min_length=1, max_length=64)]


class EffectsIn(Asked):
    """A table with a row for each effect, and its column with the workflow's ID. No SQL: a token is not a database's role."""

    table: str = Field(max_length=128, pattern=rf"^{SQL_NAME}(\.{SQL_NAME})?$")
    column: str = Field(max_length=64, pattern=f"^{SQL_NAME}$")
    each: int = Field(default=1, ge=1, le=1_000_000)
    handler: str | None = Field(default=None, max_length=512)


class Range(Asked):
    """What to prove. `start`, `end`: an offset, 'earliest', 'latest', or a time with its zone; `finished`: that nothing is open."""

    partitions: list[Annotated[str, Field(max_length=300)]] = Field(default=[], max_length=PARTITIONS_MAX)
    group: str | None = Field(default=None, max_length=300)
    start: Offset | None = None
    end: Offset | None = None
    finished: bool = False
    effects: EffectsIn | None = None


class Rotation(Asked):
    """`plain`: store everything readable again, with `payloads.key` unset everywhere."""

    plain: bool = False


class Examinations:
    """Answers operators who look at everything.

    Args:
        app: Whose filters and topics they are.
        engine: Of this process.
        statements: Through which the database is read and acted on.
        settings: Of this process, to reach its servers by; `None`: this program has none.
    """

    def __init__(
        self, app: "App", engine: Callable[[], Engine], statements: Statements, settings: Settings | None
    ) -> None:
        self._app = app
        self._engine = engine
        self._db = statements
        self._settings = settings
        self._lags, self._long = Apart("a look at the lag"), Apart("another long examination")

    # -- processes --

    async def executors(self, every: Annotated[bool, Query(alias="all")] = False) -> list[ShownExecutor]:
        """Processes: those that live, that fell silent, and dead ones that still have something. `all`: of the last week."""
        rows = await self._db.read(lambda c, schema: executors.list_executors(c, schema, all_of_them=every))
        return [ShownExecutor.of(row) for row in rows]

    async def end(self, executor_id: Named, http__request: Request, reason: Reason) -> Done:
        """Declare one dead whose lease is over: what it had goes on elsewhere. Refused while its lease runs."""
        note, actor = given(reason), caller_of(http__request).actor
        await self._db.act(lambda c, schema: executors.end_executor(c, schema, executor_id, note=note, actor=actor))
        return Done(done=True)

    # -- lag and set-up --

    async def lag(self, group: Text | None = None, topic: Text | None = None) -> list[ShownLag]:
        """How far each partition is behind its log, in offsets and in seconds, whoever runs it."""
        settings = self._of_process()
        found = await _answered(self._lags.run(lambda: lags(settings, group=group, topic=topic)))
        return [ShownLag.of(each) for each in found]

    async def doctor(self) -> Checkup:
        """Settings, Postgres, Kafka, privileges, topics and clocks as this process finds them, and what to do where they are wrong."""
        settings = self._of_process()
        return Checkup.of(await _answered(self._long.run(lambda: examine(settings, self._app))))

    # -- completeness --

    async def verify(self, asked: Range) -> ShownProof:
        """Prove that every record below the progress has its workflow, or a recorded reason why not. Changes nothing."""
        settings = self._of_process()
        effects = None
        if (of := asked.effects) is not None:
            query = counted_rows(table=of.table, column=of.column)
            effects = Effects(query=query, each=of.each, handler=of.handler)
        wanted = Wanted(_target("start", asked.start), _target("end", asked.end), asked.finished)
        proof = await _answered(
            self._long.run(
                lambda: prove(
                    settings, wanted, app=self._app, group=asked.group, keys=asked.partitions, effects=effects
                )
            )
        )
        return ShownProof.of(proof)

    # -- sealed payloads --

    async def keys(self) -> list[ShownKey]:
        """How many values each key has sealed, by table and column; none is shown. Reads all of the tables."""
        settings = engine_settings(self._of_process())
        known = settings.payload_keys.keys

        async def count() -> list[ShownKey]:
            async with connected(settings) as connection:
                return [
                    ShownKey.of(each, known=each.key_id is None or each.key_id in known)
                    for each in await keys_in_use(connection, settings.schema)
                ]

        return await _answered(self._long.run(count))

    async def rotate(self, http__request: Request, rotation: Rotation) -> Rotated:
        """Seal every value with `payloads.key` that is not. Broken off, it is asked for again: what is done stays done."""
        actor = caller_of(http__request).actor
        settings = engine_settings(self._of_process())
        payloads = Payloads(settings.payload_keys)

        async def seal() -> Rotated:
            check_rotation(payloads, plain=rotation.plain, asked="plain")
            async with connected(settings) as connection:
                return Rotated.of(await reseal(connection, settings.schema, payloads, actor=actor))

        return await _answered(self._long.run(seal))

    # -- inside --

    def _of_process(self) -> Settings:
        if self._settings is None:
            raise Problem(HTTPStatus.CONFLICT, "this program has no settings of its own to reach Postgres and Kafka by")
        return self._settings


async def _answered(asked: Coroutine[Any, Any, Value]) -> Value:
    """What cannot be as it was asked for is said; servers that are away may be back."""
    try:
        return await asked
    except ConfigurationError as error:
        raise Problem(HTTPStatus.CONFLICT, str(error)) from None
    except StoreUnavailableError as error:
        raise retry_later(str(error)) from None


def _target(name: str, text: str | None) -> "Target | None":
    try:
        return None if text is None else target_of(text)
    except ValueError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{name}: {error}") from None


__all__ = ["LONGEST", "Examinations"]
