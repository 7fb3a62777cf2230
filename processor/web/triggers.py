"""HTTP triggers: a request starts a workflow, durable before it is answered; and what a caller may know of those it started.

    POST /orders/o-1   Idempotency-Key: abc ─▶ row 'abc' ─▶ 202, Location: /workflows/abc     or, with wait=, 200 and its result
    the same again                          ─▶ the row that stands: the same workflow, its result
    the same key, another body, or user     ─▶ 409, and nothing is started

FastAPI binds path, query and body to the workflow's own arguments; what is stored is written by the codec that reads it back.
"""

import asyncio
import inspect
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from types import FunctionType
from typing import Annotated, Any, cast
from urllib.parse import quote

from fastapi import Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from engine import handles
from engine.children import start_outside
from engine.engine import Engine
from engine.errors import ConfigurationError, WorkflowNotFoundError
from engine.given_ids import check_given
from engine.identity import authorized
from engine.states import OPEN, WorkflowStatus
from engine.waits import Outcome
from processor.handlers import Registration, annotation_of
from processor.routes import WAIT_MAX, Http
from processor.web.access import Doorkeeper, incoming_request
from processor.web.guard import caller_of
from processor.web.problems import Problem
from processor.workflows import row_of

KEY_HEADERS = ("idempotency-key", "dbos-workflow-id")
"""Either gives the workflow its ID. The second is what clients of DBOS send."""

WORKFLOWS = "/workflows"


class Accepted(BaseModel):
    """A workflow was started, or stands: `status` is that of its row then."""

    workflow_id: str
    status: WorkflowStatus


class Failure(BaseModel):
    """Why a workflow has no result."""

    type: str
    message: str


class OwnWorkflow(BaseModel):
    """A workflow that the caller started: its result, or why it has none, once it has ended."""

    workflow_id: str
    name: str
    status: WorkflowStatus
    result: Any = None
    error: Failure | None = None


class Triggers:
    """Starts workflows for requests.

    Args:
        engine: Where they run.
        door: Who calls.
        closing: Set when this process stops: nobody is kept waiting for a result then.
    """

    def __init__(self, engine: Callable[[], Engine], door: Doorkeeper, closing: asyncio.Event) -> None:
        self._engine = engine
        self._door = door
        self._closing = closing

    def need(self, registration: Registration, http: Http) -> Callable[[Request], Any]:
        """Whom the trigger lets in: whoever has the roles it requires."""

        async def need(request: Request) -> Any:
            if http.public:
                return self._door.anybody(request)
            caller = await self._door.user(request, http.path)
            authorized(registration.name, caller.identity, registration.roles)
            return caller

        return need

    def endpoint(self, registration: Registration, http: Http) -> Callable[..., Any]:
        """What answers it, with the workflow's parameters."""
        function = cast("FunctionType", registration.function)
        parameters = _parameters(function)
        positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]

        async def start(http__request: Request, **arguments: Any) -> Response:
            args = [arguments.pop(name) for name in positional]
            return await self._start(registration, http, http__request, args, arguments)

        request = inspect.Parameter("http__request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
        named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        cast("Any", start).__signature__ = inspect.Signature([request, *named])
        start.__name__, start.__doc__ = registration.name, function.__doc__
        return start

    async def own(
        self, workflow_id: str, http__request: Request, wait: Annotated[float, Query(ge=0, le=WAIT_MAX.seconds)] = 0
    ) -> OwnWorkflow:
        """A workflow that the caller started by a request, or that one of those started.

        `wait`: seconds to wait for it to end, if it has not.
        """
        identity = caller_of(http__request).identity
        assert identity is not None, "the route lets in users only"
        engine = self._engine()
        read = lambda: handles.read(engine.pool.connection, engine.settings.schema, engine.payloads, workflow_id)  # noqa: E731
        row = await read()
        if row.user != identity.user:
            raise WorkflowNotFoundError(workflow_id)  # of somebody else's it is not even said that it exists
        if row.status in OPEN and wait:
            await self._outcome(workflow_id, timedelta(seconds=wait))
            row = await read()
        return OwnWorkflow(
            workflow_id=row.id,
            name=row.name,
            status=row.status,
            result=None if row.output is None else json.loads(row.output),
            error=None if row.error is None or row.status in OPEN else failure_of(row.error),
        )

    # -- inside --

    async def _start(
        self, registration: Registration, http: Http, request: Request, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Response:
        engine, caller = self._engine(), caller_of(request)
        given = _given_key(request)
        if given is not None:
            await _check(engine, given)
        arguments = registration.arguments or registration.call_arguments()  # which says why not
        try:
            inputs = arguments.encode(args, kwargs)
        except TypeError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        start = row_of(registration, engine, str(uuid.uuid4()) if given is None else given, inputs)
        start.request, start.is_private = incoming_request(request, http.path).text(http.headers), True
        start.belongs_to(authorized(registration.name, caller.identity, registration.roles))
        status = await start_outside(engine, start)
        if http.wait is not None and (outcome := await self._outcome(start.id, http.wait)) is not None:
            return _ended(engine, start.id, outcome, is_public=http.public)
        accepted = Accepted(workflow_id=start.id, status=status)
        headers = {} if http.public else {"Location": f"{request.scope.get('root_path', '')}{location(start.id)}"}
        return Response(accepted.model_dump_json(), HTTPStatus.ACCEPTED, headers, "application/json")

    async def _outcome(self, workflow_id: str, within: timedelta) -> Outcome | None:
        """How a workflow ended, if it does in time, and before this process stops."""
        if self._closing.is_set():
            return None
        outcome = asyncio.ensure_future(self._engine().results.outcome(workflow_id))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({outcome, closing}, timeout=within.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
            return outcome.result() if outcome.done() else None
        finally:
            outcome.cancel()
            closing.cancel()


def location(workflow_id: str) -> str:
    """Where its caller finds a workflow."""
    return f"{WORKFLOWS}/{quote(workflow_id, safe='')}"


def failure_of(error: str) -> Failure:
    """A stored error, for people: its class without the module, and its message."""
    try:
        stored: dict[str, Any] = json.loads(error)
        kind, message = str(stored["type"]), str(stored["message"])
    except (ValueError, KeyError, TypeError):  # of another program
        return Failure(type="unknown", message=error)
    return Failure(type=kind.rpartition(":")[2], message=message)


def answers(registration: Registration, http: Http) -> dict[int | str, dict[str, Any]]:
    """What a trigger may answer, for the OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {
        202: {"model": Accepted, "description": "It is durable, and runs; `Location` has its result later."}
    }
    if http.wait is not None:
        returns = annotation_of(cast("FunctionType", registration.function), "return", "workflow")
        found[200] = {"model": returns, "description": "Its result."}
    return found


def _parameters(function: FunctionType) -> list[inspect.Parameter]:
    return [
        each.replace(annotation=annotation_of(function, each.name, "workflow"))
        for each in inspect.signature(function).parameters.values()
    ]


def _given_key(request: Request) -> str | None:
    given = {value.strip() for name in KEY_HEADERS for value in request.headers.getlist(name)}
    # As a string of RFC 8941 it has quotes around it; without, it is what nearly everybody sends.
    keys = {key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key for key in given}
    if len(keys) > 1:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "two different idempotency keys")
    key = next(iter(keys), None)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "an idempotency key is printable ASCII")
    return key


async def _check(engine: Engine, key: str) -> None:
    try:
        await check_given(engine, key)
    except ConfigurationError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None


def _ended(engine: Engine, workflow_id: str, outcome: Outcome, *, is_public: bool) -> Response:
    """200 with the result as it is stored; 500 with the error, but not for whoever may be anybody."""
    where = f"workflow {workflow_id}"
    if outcome.status is WorkflowStatus.SUCCESS:
        output = engine.payloads.open(outcome.output or "null", f"{where}: output")
        return Response(output, HTTPStatus.OK, {"Workflow-Id": workflow_id}, "application/json")
    members: dict[str, Any] = {"workflow_id": workflow_id, "workflow_status": outcome.status.value}
    if outcome.error is not None and not is_public:
        members["error"] = failure_of(engine.payloads.open(outcome.error, f"{where}: error")).model_dump()
    raise Problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"the workflow ended in {outcome.status.value}", **members)
