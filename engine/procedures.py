"""SQL functions as transactional steps: called and recorded by one statement, in one round trip (I5, P20).

    BEGIN ─ INSERT INTO operation_outputs SELECT …, to_jsonb(shop.reserve($1, $2)) … RETURNING output ─ row fence ─ COMMIT
                                                                                   one write, one read, for all of it

What the function does, its result and the record of both are one commit. Where payloads are sealed the server cannot write
the record: the result comes here first, and the record goes with the fence, in a second round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.sql import SQL, Composed, Identifier, Placeholder

from engine.clock import now_ms
from engine.handlers import TransactionStep

if TYPE_CHECKING:
    from psycopg import AsyncConnection, AsyncCursor

    from engine.ids import WorkflowId


class Argument(NamedTuple):
    """One argument of a call.

    Attributes:
        name: By which it is given; `None`: by its place.
        value: What psycopg adapts, or JSON text.
        is_json: Whether it is JSON text, for a parameter of type jsonb.
    """

    name: str | None
    value: Any
    is_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcedureStep(TransactionStep):
    """A registered SQL function. `function` is not called.

    Attributes:
        procedure: Its name, a part for each of schema and function.
        arguments: What a call gives it.
        returns_rows: Whether it returns a set; its result is then the list of its rows.
        returns_nothing: Whether its result is of no interest.
    """

    procedure: tuple[str, ...]
    arguments: Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Argument]]
    returns_rows: bool = False
    returns_nothing: bool = False


async def call_and_record(
    step: ProcedureStep,
    connection: AsyncConnection[Any],
    arguments: Sequence[Argument],
    place: tuple[WorkflowId, int, int],
    schema: str,
) -> AsyncCursor[Any]:
    """Send the call with its record; the cursor has the result as JSON text, once it is waited for.

    `place`: workflow, function ID, and when it began (epoch ms).
    """
    query = _recorded(_shape(step, arguments), schema)
    parameters = _parameters(arguments) | {
        "workflow_id": place[0],
        "function_id": place[1],
        "function_name": step.name,
        "started": place[2],
        "ended": now_ms(),
    }
    return await connection.cursor().execute(query, parameters)


async def call(step: ProcedureStep, connection: AsyncConnection[Any], arguments: Sequence[Argument]) -> str:
    """Call it in the open transaction, and wait for its result as JSON text."""
    cursor = await connection.cursor().execute(_called(_shape(step, arguments)), _parameters(arguments))
    row = await cursor.fetchone()
    assert row is not None, "an expression has a value"
    return row[0]


# -- statements: a few for each function, as often as its calls have other arguments


class _Shape(NamedTuple):
    """What the text of a call depends on."""

    procedure: tuple[str, ...]
    names: tuple[str | None, ...]
    are_json: tuple[bool, ...]
    returns_rows: bool
    returns_nothing: bool


def _shape(step: ProcedureStep, arguments: Sequence[Argument]) -> _Shape:
    return _Shape(
        step.procedure,
        tuple(each.name for each in arguments),
        tuple(each.is_json for each in arguments),
        step.returns_rows,
        step.returns_nothing,
    )


def _parameters(arguments: Sequence[Argument]) -> dict[str, Any]:
    return {f"argument_{place}": each.value for place, each in enumerate(arguments)}


@lru_cache(maxsize=1024)
def _result(shape: _Shape) -> Composed:
    """The expression whose value is the result as JSON text."""
    given: list[Composed] = []
    for place, (name, is_json) in enumerate(zip(shape.names, shape.are_json, strict=True)):
        value = Composed([Placeholder(f"argument_{place}"), SQL("::jsonb" if is_json else "")])
        given.append(value if name is None else SQL("{} => {}").format(Identifier(name), value))
    called = SQL("{}({})").format(Identifier(*shape.procedure), SQL(", ").join(given))
    if shape.returns_rows:
        return SQL("(SELECT COALESCE(jsonb_agg(to_jsonb(r)), '[]')::text FROM {} AS r)").format(called)
    if shape.returns_nothing:
        return SQL("(SELECT 'null' FROM {} AS r LIMIT 1)").format(called)
    return SQL("COALESCE(to_jsonb({})::text, 'null')").format(called)


@lru_cache(maxsize=1024)
def _called(shape: _Shape) -> Composed:
    return SQL("SELECT {}").format(_result(shape))


@lru_cache(maxsize=1024)
def _recorded(shape: _Shape, schema: str) -> Composed:
    return SQL(
        """
        INSERT INTO {}.operation_outputs
               (workflow_uuid, function_id, function_name, output, started_at_epoch_ms, completed_at_epoch_ms)
        VALUES (%(workflow_id)s, %(function_id)s, %(function_name)s, {}, %(started)s, %(ended)s)
        RETURNING output
        """
    ).format(Identifier(schema), _result(shape))
