"""Errors as answers: `application/problem+json` (RFC 9457), which says what is wrong and never shows what was sent."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.acts import WorkflowActError
from engine.dead_letters import DeadLetterError
from engine.errors import EngineStoppedError, WorkflowConflictError, WorkflowNotFoundError
from engine.executors import ExecutorActError
from engine.faults import Fault, fault_of
from engine.given_ids import ReservedIdError
from engine.identity import NotAuthorizedError
from engine.outbox import OutboxError
from engine.partitions import PartitionActError
from engine.payloads import UnreadablePayloadError
from engine.queue_acts import QueueError
from engine.retention_acts import RetentionActError
from engine.schedules import ScheduleError

MEDIA_TYPE = "application/problem+json"
ERRORS_MAX = 20
"""Fields named in one answer."""
MESSAGE_MAX = 500
RETRY_AFTER_S = 1

log = logging.getLogger("processor.web")


class Problem(Exception):  # noqa: N818  # RFC 9457's word; it is an answer
    """Ends a request with this answer."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers, self.members = dict(headers or {}), members

    def response(self) -> Response:
        """The answer."""
        body = {"title": self.status.phrase, "status": int(self.status), "detail": self.detail} | self.members
        return Response(json.dumps(body), int(self.status), self.headers, MEDIA_TYPE)


def retry_later(detail: str, after_s: float = RETRY_AFTER_S) -> Problem:
    """Nothing is known to be done: the same request again is right."""
    headers = {"Retry-After": str(max(1, round(after_s)))}
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=headers)


_STATUSES: Mapping[type[Exception], HTTPStatus] = {
    NotAuthorizedError: HTTPStatus.FORBIDDEN,
    WorkflowNotFoundError: HTTPStatus.NOT_FOUND,
    ReservedIdError: HTTPStatus.UNPROCESSABLE_ENTITY,
    DeadLetterError: HTTPStatus.CONFLICT,
    PartitionActError: HTTPStatus.CONFLICT,
    WorkflowActError: HTTPStatus.CONFLICT,
    QueueError: HTTPStatus.CONFLICT,
    ScheduleError: HTTPStatus.CONFLICT,
    RetentionActError: HTTPStatus.CONFLICT,
    OutboxError: HTTPStatus.CONFLICT,
    ExecutorActError: HTTPStatus.CONFLICT,
    UnreadablePayloadError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Errors whose messages are for whoever calls."""


def problem_of(error: Exception) -> Problem:
    """The answer to an error. What nobody foresaw is logged, and says nothing of itself."""
    if (status := _STATUSES.get(type(error))) is not None:
        return Problem(status, str(error))
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return _invalid(error.errors())
        case HTTPException():
            return Problem(HTTPStatus(error.status_code), str(error.detail), headers=error.headers)
        case WorkflowConflictError():
            return Problem(HTTPStatus.CONFLICT, f"workflow {error.workflow_id} stands already, and {error.reason}")
        case EngineStoppedError():
            return retry_later("this process stops; another one answers")
        case TimeoutError():
            return retry_later(f"it took too long; {_NOT_KNOWN}")
        case _:
            return _of_statement(error)


_NOT_KNOWN = "whether anything was done is not known. Ask again; a trigger with the same Idempotency-Key"


def _of_statement(error: Exception) -> Problem:
    match fault_of(error):
        case Fault.WEATHER:
            return retry_later(f"Postgres does not answer; {_NOT_KNOWN}")
        case Fault.RECORD:
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a value that Postgres does not take")
        case _:
            log.error("request failed", exc_info=error)
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this server; its log has it")


def _invalid(errors: Sequence[Any]) -> Problem:
    """422, with the field of every error: `body.amount`."""
    shown = [
        {"field": ".".join(str(part) for part in each["loc"]), "message": str(each["msg"])[:MESSAGE_MAX]}
        for each in errors[:ERRORS_MAX]
    ]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in shown)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail[:MESSAGE_MAX], errors=shown)
